"""@COMPRESSIONS: what a pipeline can do to a network; each adds its steps to the plan, in any sensible order."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import listed, unknown
from pruning_bootcamp.pipeline import work
from pruning_bootcamp.pipeline.plan import Plan, section
from pruning_bootcamp.pruning.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.pruning.schedules import iterative_sparsities
from pruning_bootcamp.pruning.scores import SCORES, needs_of
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.stages import common, unstructured

# f(cfg, plan) -> None: adds its steps. Facts: `removes` or `quantizes` say what it does to the network; one that does
# neither recovers, and has to come after one that does. `once`: a second time in one pipeline makes no sense.
COMPRESSIONS: Registry[Callable[..., None]] = Registry("pipeline step")


@COMPRESSIONS.register("prune-unstructured", removes=True, once=True)
def prune_unstructured(cfg: Config, plan: Plan) -> None:
    """Zero weights as `prune` of the config says, in its cycles, and recover as `recover` and `fine_tune` say."""
    p = cfg.prune
    files = _contents(cfg)
    if p.gradual:
        settings = section(cfg, "prune", "fine_tune", "train") | files
        title = f"Pruning: to {_share(unstructured.target_sparsity(cfg))} while fine-tuning"
        plan.add("gradual", title, PruningStage.PRUNING, work.prune_gradually, settings=settings, gives_network=True)
        return
    target = unstructured.target_sparsity(cfg)
    sparsities: list[float | None] = [target]
    if target is not None:
        sparsities = [*iterative_sparsities(target, p.iterations, p.schedule.name, p.schedule.args)[:-1], target]
    measured = {
        key: value
        for key, value in section(cfg, "prune")["prune"].items()
        if key in ("score", "allocation", "solver", "include", "exclude", "pattern")
    } | files
    for number, sparsity in enumerate(sparsities, start=1):
        cycle = f"{number}." if p.iterations > 1 else ""
        which = f" (cycle {number} of {p.iterations})" if p.iterations > 1 else ""
        images = {"calibration_images": p.calibration_images} if needs_images(cfg) else {}
        inputs = {}
        plan.add(
            f"{cycle}calibrate",
            f"Calibrating{which}",
            PruningStage.CALIBRATING,
            work.calibrate,
            settings=measured | images,
            skipped=None if needs_images(cfg) else f"{p.score.name} needs no images",
        )
        if needs_images(cfg):
            inputs["statistics"] = plan.steps[-1].name
        inputs["scores"] = plan.add(
            f"{cycle}score",
            f"Computing importance{which}: {p.score.name}",
            PruningStage.COMPUTING_IMPORTANCE,
            work.score,
            settings=measured,
            inputs=inputs,
        )
        settings = section(cfg, "prune", "recover") | {"augment": cfg.train.augment, "sparsity": sparsity} | files
        title = f"Pruning{which}: {'as the pattern says' if sparsity is None else 'to ' + _share(sparsity)}"
        zeroing = partial(work.prune, sparsity=sparsity)
        plan.add(
            f"{cycle}prune",
            title,
            PruningStage.PRUNING,
            zeroing,
            settings=settings,
            inputs=inputs,
            gives_network=True,
        )
        _recover(cfg, plan, cycle, which, sparsity, files)


def _contents(cfg: Config) -> dict[str, Any]:
    """What is in the files that settings of `prune` name (a sensitivity scan), hashed; nothing where there are none."""
    hashes = [common.content_hash(path) for path in unstructured.named_files(cfg)]
    return {"files": hashes} if hashes else {}


@COMPRESSIONS.register("prune-structured", removes=True, once=True)
def prune_structured(cfg: Config, plan: Plan) -> None:
    """Cut channels to the budget of `structured`, prove the cut, and recover as `recover` and `fine_tune` say."""
    s = cfg.structured
    plan.add("calibrate", "Calibrating", PruningStage.CALIBRATING, None, skipped=f"{s.score.name} needs no images")
    scored = {
        key: value for key, value in section(cfg, "structured")["structured"].items() if key in ("score", "exclude")
    }
    scores = plan.add(
        "score",
        f"Computing importance: {s.score.name}",
        PruningStage.COMPUTING_IMPORTANCE,
        work.weigh_channels,
        settings=scored,
    )
    plan.add(
        "prune",
        "Pruning: cutting channels out",
        PruningStage.PRUNING,
        work.cut,
        settings=section(cfg, "structured", "recover") | {"augment": cfg.train.augment},
        inputs={"scores": scores},
        gives_network=True,
    )
    _recover(cfg, plan)


@COMPRESSIONS.register("fine-tune")
def fine_tune(cfg: Config, plan: Plan) -> None:
    """Train with the zeros frozen, as `fine_tune` of the config says."""
    settings = section(cfg, "fine_tune", "train")
    plan.add("train", "Fine-tuning", PruningStage.FINE_TUNING, work.fine_tune, settings=settings, gives_network=True)


@COMPRESSIONS.register("distill")
def distill(cfg: Config, plan: Plan) -> None:
    """Train to the dense network's outputs without labels, as `recover` of the config says (whatever its method)."""
    settings = section(cfg, "recover") | {"augment": cfg.train.augment}
    title = "Fine-tuning: distillation from the dense network"
    plan.add("train", title, PruningStage.FINE_TUNING, work.distill, settings=settings, gives_network=True)


@COMPRESSIONS.register("quantize", quantizes=True, once=True)
def quantize(cfg: Config, plan: Plan) -> None:
    """Quantisation-aware training, as `quantize` of the config says; later training goes on with 8 bits."""
    settings = section(cfg, "quantize", "train")
    title = "Fine-tuning: quantisation-aware, 8 bits"
    plan.add("train", title, PruningStage.FINE_TUNING, work.quantize, settings=settings, gives_network=True)


def check_order(names: Sequence[str]) -> list[str]:
    """What is wrong with `pipeline.steps`: unknown names, and orders that make no sense, with the reason."""
    where = "pipeline.steps"
    problems = [f"{where}: {unknown('step', name, COMPRESSIONS)}" for name in names if name not in COMPRESSIONS]
    known = [name for name in names if name in COMPRESSIONS]
    if not names:
        problems.append(f"{where}: is empty, so there is nothing to do. Name one or more of {listed(COMPRESSIONS)}.")
    for number, name in enumerate(known):
        facts, before = COMPRESSIONS[name].facts, known[:number]
        if facts.get("once") and name in before:
            problems.append(f"{where}: '{name}' comes twice, and its settings are the same. Leave one out.")
        works = any(COMPRESSIONS[other].facts.keys() & {"removes", "quantizes"} for other in before)
        if not facts.keys() & {"removes", "quantizes"} and not works:
            problems.append(
                f"{where}: '{name}' has nothing to recover from yet. Put it after what prunes or quantizes."
            )
        if name == "prune-structured" and (late := [b for b in before if b in ("prune-unstructured", "quantize")]):
            problems.append(
                f"{where}: 'prune-structured' after '{late[0]}' would cut channels by weights that were chosen, and "
                f"ranges that were learnt, for another network. Put it before '{late[0]}'."
            )
    return problems


def _recover(
    cfg: Config,
    plan: Plan,
    cycle: str = "",
    which: str = "",
    sparsity: float | None = None,
    files: Mapping[str, Any] | None = None,
) -> None:
    """What the config wants after each pruning; one that goes on growing depends on the same `files` as the pruning."""
    if cfg.recover.method == "distill":
        settings = section(cfg, "recover", "prune") | {"augment": cfg.train.augment, "sparsity": sparsity}
        settings |= files or {}
        title = f"Fine-tuning{which}: distillation from the dense network"
        following = partial(work.distill, sparsity=sparsity)
        plan.add(f"{cycle}distill", title, PruningStage.FINE_TUNING, following, settings=settings, gives_network=True)
    if cfg.fine_tune.enabled:
        settings = section(cfg, "fine_tune", "train")
        title = f"Fine-tuning{which}"
        plan.add(
            f"{cycle}fine-tune", title, PruningStage.FINE_TUNING, work.fine_tune, settings=settings, gives_network=True
        )


def needs_images(cfg: Config) -> bool:
    """Whether the unstructured pruning measures anything on images before or while it prunes."""
    p = cfg.prune
    by = ALLOCATIONS[p.allocation.name].facts.get("by") if p.allocation.name in ALLOCATIONS else None
    known = p.score.name in SCORES and p.solver.name in SOLVERS
    return known and bool(needs_of(p.score.name) or by or SOLVERS[p.solver.name].facts.get("images"))


def _share(sparsity: float | None) -> str:
    return "what the pattern says" if sparsity is None else f"{100 * sparsity:g}%"
