"""@COMPRESSIONS: what a pipeline can do to a network; each adds its steps to the plan, in any sensible order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pruning_bootcamp.config import Config, as_dict
from pruning_bootcamp.errors import listed, unknown
from pruning_bootcamp.evaluation import evaluate_on
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pipeline.step import Desk, Figures, Network, Step
from pruning_bootcamp.pipeline.training import as_shipped, quantizing, train_network
from pruning_bootcamp.pruning.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.pruning.schedules import iterative_sparsities
from pruning_bootcamp.pruning.scores import SCORES, needs_of, score_stats
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.pruning.structured import cut_channels, score_channels
from pruning_bootcamp.pruning.unstructured import UnstructuredPruning, UnstructuredResult
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.runs import Run
from pruning_bootcamp.stages import afterwards, common, structured, unstructured
from pruning_bootcamp.tools.metrics import compute_sparsity
from pruning_bootcamp.training.gradual import GradualPruning
from pruning_bootcamp.training.hooks import Hook

STATISTICS, SCORED = "statistics.pth", "scores.pth"

# f(cfg, plan) -> None: adds its steps. Facts: `removes` or `quantizes` say what it does to the network; one that does
# neither recovers, and has to come after one that does. `once`: a second time in one pipeline makes no sense.
COMPRESSIONS: Registry[Callable[..., None]] = Registry("pipeline step")


@dataclass
class Plan:
    """The steps so far, and whose network comes next."""

    cfg: Config
    steps: list[Step] = field(default_factory=list)
    dense: str = "dense"
    last: str = "dense"
    part: str = ""
    """which of `pipeline.steps` is being added, as 1-prune-structured"""

    def add(
        self,
        name: str,
        title: str,
        stage: PruningStage,
        work: Callable[[Desk], Figures] | None,
        *,
        settings: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
        skipped: str | None = None,
        gives_network: bool = False,
    ) -> str:
        """Its full name; it reads the network of the step before it, and the dense one."""
        full = f"{self.part}-{name}"
        roles = {"dense": self.dense, "before": self.last, **(inputs or {})}
        self.steps.append(Step(full, title, stage, work, settings or {}, roles, skipped))
        if gives_network:
            self.last = full
        return full


def section(cfg: Config, *names: str) -> dict[str, Any]:
    """These sections of the config, as far as they change what comes out."""
    everything = as_dict(cfg)
    return {name: {k: v for k, v in everything[name].items() if k != "checkpoint_seconds"} for name in names}


@COMPRESSIONS.register("prune-unstructured", removes=True, once=True)
def prune_unstructured(cfg: Config, plan: Plan) -> None:
    """Zero weights as `prune` of the config says, in its cycles, and recover as `recover` and `fine_tune` say."""
    p = cfg.prune
    files = _contents(cfg)
    if p.gradual:
        settings = section(cfg, "prune", "fine_tune", "train") | files
        title = f"Pruning: to {_share(unstructured.target_sparsity(cfg))} while fine-tuning"
        plan.add("gradual", title, PruningStage.PRUNING, _prune_gradually, settings=settings, gives_network=True)
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
            _calibrate,
            settings=measured | images,
            skipped=None if needs_images(cfg) else f"{p.score.name} needs no images",
        )
        if needs_images(cfg):
            inputs["statistics"] = plan.steps[-1].name
        inputs["scores"] = plan.add(
            f"{cycle}score",
            f"Computing importance{which}: {p.score.name}",
            PruningStage.COMPUTING_IMPORTANCE,
            _score,
            settings=measured,
            inputs=inputs,
        )
        settings = section(cfg, "prune", "recover") | {"augment": cfg.train.augment, "sparsity": sparsity} | files
        title = f"Pruning{which}: {'as the pattern says' if sparsity is None else 'to ' + _share(sparsity)}"
        work = partial(_prune, sparsity=sparsity)
        plan.add(
            f"{cycle}prune", title, PruningStage.PRUNING, work, settings=settings, inputs=inputs, gives_network=True
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
        _score_channels,
        settings=scored,
    )
    plan.add(
        "prune",
        "Pruning: cutting channels out",
        PruningStage.PRUNING,
        _cut,
        settings=section(cfg, "structured", "recover") | {"augment": cfg.train.augment},
        inputs={"scores": scores},
        gives_network=True,
    )
    _recover(cfg, plan)


@COMPRESSIONS.register("fine-tune")
def fine_tune(cfg: Config, plan: Plan) -> None:
    """Train with the zeros frozen, as `fine_tune` of the config says."""
    settings = section(cfg, "fine_tune", "train")
    plan.add("train", "Fine-tuning", PruningStage.FINE_TUNING, _fine_tune, settings=settings, gives_network=True)


@COMPRESSIONS.register("distill")
def distill(cfg: Config, plan: Plan) -> None:
    """Train to the dense network's outputs without labels, as `recover` of the config says (whatever its method)."""
    settings = section(cfg, "recover") | {"augment": cfg.train.augment}
    title = "Fine-tuning: distillation from the dense network"
    plan.add("train", title, PruningStage.FINE_TUNING, _distill, settings=settings, gives_network=True)


@COMPRESSIONS.register("quantize", quantizes=True, once=True)
def quantize(cfg: Config, plan: Plan) -> None:
    """Quantisation-aware training, as `quantize` of the config says; later training goes on with 8 bits."""
    settings = section(cfg, "quantize", "train")
    title = "Fine-tuning: quantisation-aware, 8 bits"
    plan.add("train", title, PruningStage.FINE_TUNING, _quantize, settings=settings, gives_network=True)


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
        work = partial(_distill, sparsity=sparsity)
        plan.add(f"{cycle}distill", title, PruningStage.FINE_TUNING, work, settings=settings, gives_network=True)
    if cfg.fine_tune.enabled:
        settings = section(cfg, "fine_tune", "train")
        title = f"Fine-tuning{which}"
        plan.add(
            f"{cycle}fine-tune", title, PruningStage.FINE_TUNING, _fine_tune, settings=settings, gives_network=True
        )


def needs_images(cfg: Config) -> bool:
    """Whether the unstructured pruning measures anything on images before or while it prunes."""
    p = cfg.prune
    by = ALLOCATIONS[p.allocation.name].facts.get("by") if p.allocation.name in ALLOCATIONS else None
    known = p.score.name in SCORES and p.solver.name in SOLVERS
    return known and bool(needs_of(p.score.name) or by or SOLVERS[p.solver.name].facts.get("images"))


def _engine(desk: Desk, network: Network, sparsity: float | None) -> UnstructuredPruning:
    images = unstructured.calibration(desk.cfg, desk.splits, desk.device)
    choices = unstructured.engine_choices(desk.cfg) | {"sparsity": sparsity}
    model = network.model.to(desk.device)
    return UnstructuredPruning(
        model, **choices, previous=network.masks or None, stats_batches=images, seed=desk.cfg.seed
    )


def _asked(cfg: Config) -> float | None:
    """A sparsity that passes for any step that only measures: what it gives does not depend on it."""
    return unstructured.target_sparsity(cfg)


def _calibrate(desk: Desk) -> Figures:
    statistics = _engine(desk, desk.network(), _asked(desk.cfg)).calibrate()
    desk.keep_tensors(STATISTICS, statistics)
    count = min(desk.cfg.prune.calibration_images, len(desk.splits.train))
    what = ", ".join(statistics) if statistics else "what the solver reads while it prunes"
    return {"images": count, "statistics": list(statistics), "summary": f"{count} images: {what}"}


def _score(desk: Desk) -> Figures:
    statistics = desk.tensors("statistics", STATISTICS)
    scored = _engine(desk, desk.network(), _asked(desk.cfg)).score(statistics)
    desk.keep_tensors(SCORED, scored)
    stats = {name: vars(score_stats(values, name)) for name, values in scored["scores"].items()}
    return {"layers": stats, "summary": f"{len(stats)} layers"}


def _prune(desk: Desk, sparsity: float | None) -> Figures:
    cfg, network = desk.cfg, desk.network()
    there = compute_sparsity(network.model, network.masks).total if network.masks else 0.0
    if sparsity is not None:
        sparsity = max(sparsity, there)
    first = unstructured.before_growing(cfg, sparsity, there)
    result = _engine(desk, network, first).prune(desk.tensors("scores", SCORED))
    unstructured.say_pruned(result, 1, 1)
    network.masks = result.masks
    recovered = _batch_norm(desk, network)
    return {
        "sparsity": round(result.sparsity, 6),
        "layers": {layer.name: round(layer.sparsity, 6) for layer in result.layers},
        "fall_backs": fall_backs(result),
        **recovered,
        **_judged(desk, network, f"{100 * result.sparsity:.2f}% zeros"),
    }


def fall_backs(result: UnstructuredResult) -> list[str]:
    """What was done otherwise than asked: layers that the pattern skipped, damping that had to be raised."""
    return [f"{name}: skipped, {reason}" for name, reason in result.skipped.items()] + list(result.notes)


def _prune_gradually(desk: Desk) -> Figures:
    cfg, network = desk.cfg, desk.network()
    target = unstructured.target_sparsity(cfg)
    assert target is not None, "preflight refuses a pattern that fixes the sparsity"
    growing = unstructured.gradual_pruning(cfg, target, desk.splits, desk.device)
    found = train_network(desk, network, partial(_fit_fine_tune, desk, desk.cfg), [growing])
    network.masks = growing.masks
    reached = compute_sparsity(network.model, network.masks).total
    figures = {"sparsity": round(reached, 6), "updates": growing.points, "fall_backs": [], **found}
    return figures | _judged(desk, network, f"{100 * reached:.2f}% zeros")


def _score_channels(desk: Desk) -> Figures:
    s, network = desk.cfg.structured, desk.network()
    ready, recipe = structured.ready_to_cut(network.model, network.recipe)
    example = common.example_input(recipe)
    scores = score_channels(
        ready, example, score=s.score.name, score_args=s.score.args, exclude=s.exclude, seed=desk.cfg.seed
    )
    desk.keep_tensors(SCORED, {"scores": scores})
    stats = {
        name: {"min": float(v.min()), "max": float(v.max()), "mean": float(v.mean()), "std": float(v.std(correction=0))}
        for name, v in scores.items()
    }
    return {"groups": stats, "summary": f"{len(stats)} groups of channels"}


def _cut(desk: Desk) -> Figures:
    network = desk.network()
    scores = desk.tensors("scores", SCORED)["scores"]
    ready, recipe, plan = structured.plan_cut(desk.cfg, network.model, network.recipe, scores)
    cut = cut_channels(ready, common.example_input(recipe), plan)  # a failed proof stops here
    LOGGER.info("Slice proof: passed, %s", cut.proof)
    masks = {name: cut.model.get_parameter(name).detach() != 0 for name in network.masks}
    network = Network(cut.model, recipe, masks)
    recovered = _batch_norm(desk, network)
    return {
        "widths": {group.name: [group.width, len(group.keep)] for group in plan.groups},
        "slice_proof": {"max_difference": float(cut.proof.max_difference), "passed": True},
        "fall_backs": [f"{name}: {reason}" for name, reason in plan.limited.items()],
        **recovered,
        **_judged(desk, network, f"{100 * plan.macs_reduction:.1f}% fewer multiply-accumulates"),
    }


def _batch_norm(desk: Desk, network: Network) -> Figures:
    cfg = desk.cfg
    if cfg.recover.method == "none" or cfg.recover.bn_images == 0:
        return {}
    dense = desk.network("dense").model.to(desk.device)
    return afterwards.recover_batch_norm(network.model.to(desk.device), dense, cfg, desk.splits, desk.device)


def _judged(desk: Desk, network: Network, what: str) -> Figures:
    """Keep the network, and say how good it is on the validation images."""
    with as_shipped(network) as model:
        val = evaluate_on(
            model.to(desk.device),
            desk.splits.val,
            desk.splits,
            device=desk.device,
            batch_size=desk.cfg.data.batch_size,
            progress=False,
        )
    desk.keep_network(network)
    LOGGER.info("Validation accuracy: %.2f%%", val["accuracy"])
    return {"val_accuracy": round(val["accuracy"], 4), "summary": f"{what}, validation {val['accuracy']:.2f}%"}


def _fine_tune(desk: Desk) -> Figures:
    network = desk.network()
    found = train_network(desk, network, partial(_fit_fine_tune, desk, desk.cfg))
    desk.keep_network(network)
    return found | {"summary": f"validation {found['val_accuracy']:.2f}%"}


def _fit_fine_tune(desk: Desk, cfg: Config, network: Network, hooks: list[Hook]) -> Figures:
    run = Run(desk.folder, "pipeline", desk.key)
    teacher, masks = desk.network("dense").model, network.masks or None
    model, folder = network.model, desk.folder
    found = afterwards.fine_tune(cfg, run, model, desk.splits, desk.device, folder, teacher, masks, hooks)
    return {name: figure for name, figure in found.items() if name != "fine_tune_seconds"}


def _distill(desk: Desk, sparsity: float | None = None) -> Figures:
    network, cfg = desk.network(), desk.cfg
    there = compute_sparsity(network.model, network.masks).total if network.masks else 0.0
    growing: list[GradualPruning] = []
    if sparsity is not None and sparsity > there and unstructured.before_growing(cfg, sparsity, 0.0) != sparsity:
        growing = [unstructured.growing(cfg, sparsity)]

    def fit(network: Network, hooks: list[Hook]) -> Figures:
        run = Run(desk.folder, "pipeline", desk.key)
        dense = desk.network("dense").model
        return afterwards.follow_dense(
            network.model, dense, cfg, run, desk.splits, desk.device, desk.folder, network.masks or None, hooks
        )

    found = train_network(desk, network, fit, growing)
    if growing:
        network.masks = growing[0].masks
        found["sparsity"] = growing[0].points[-1]["sparsity"]
    found["distillation"].pop("seconds")
    return found | _judged(desk, network, f"{found['distillation']['steps']} steps")


def _quantize(desk: Desk) -> Figures:
    network = desk.network()
    network.ranges = network.ranges or {}

    found = train_network(desk, network, partial(_fit_fine_tune, desk, quantizing(desk.cfg)))
    desk.keep_network(network)
    return found | {"summary": f"validation {found['val_accuracy']:.2f}% in 8 bits"}


def _share(sparsity: float | None) -> str:
    return "what the pattern says" if sparsity is None else f"{100 * sparsity:g}%"
