"""What `pipeline.steps` names: each compression adds its steps to a plan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from pruning_bootcamp.errors import Problem, listed, unknown
from pruning_bootcamp.flow import settings
from pruning_bootcamp.flow.outcomes import (
    Cut,
    Measured,
    Outcome,
    Pruned,
    Recovered,
    Refitted,
    Regularised,
    Trained,
)
from pruning_bootcamp.flow.plan import Plan, Work, section
from pruning_bootcamp.flow.steps import cut, dead, prune, refit, regularise, training
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.pruning.channels.measuring import needs_images
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.pruning.weights.schedules import iterative_sparsities
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.runs import content_hash

# f(plan) -> None: adds its steps. Facts: `removes` or `quantizes` say what it does to the network; one that does
# neither recovers, and has to come after one that does. `once`: a second time in one plan makes no sense.
COMPRESSIONS: Registry[Callable[[Plan], None]] = Registry("pipeline step")


def compress(plan: Plan, names: Sequence[str]) -> None:
    """These compressions, in this order."""
    plan.compressions = tuple(names)
    for number, name in enumerate(names, start=1):
        plan.part = f"{number}-{name}"
        COMPRESSIONS[name](plan)
    plan.part = ""


@COMPRESSIONS.register("prune-unstructured", removes=True, once=True)
def prune_unstructured(plan: Plan) -> None:
    """Zero weights as `prune` of the config says, in its cycles, and recover as `recover` and `fine_tune` say."""
    cfg = plan.cfg
    p, files = cfg.prune, _contents(plan)
    target = settings.target_sparsity(cfg)
    if p.gradual:
        given = section(cfg, "prune", "fine_tune", "train") | files
        title = f"Pruning: to {_share(target)} while fine-tuning"
        plan.add(
            "gradual",
            title,
            PruningStage.PRUNING,
            prune.prune_gradually,
            Trained,
            settings=given,
            gives_network=True,
            together=True,
        )
        return
    sparsities: list[float | None] = [target]
    if target is not None:
        sparsities = [*iterative_sparsities(target, p.iterations, p.schedule.name, p.schedule.args)[:-1], target]
    measured = {
        key: value
        for key, value in section(cfg, "prune")["prune"].items()
        if key in ("score", "allocation", "solver", "include", "exclude", "pattern")
    } | files
    before = plan.cycles
    for number, sparsity in enumerate(sparsities, start=1):
        cycle, which = _cycle(number, len(sparsities))
        last = number == len(sparsities)
        least = (plan.last, sparsity) if not last and sparsity is not None else None
        facts: dict[str, Any] = {"together": True, "cycle": before + number, "least": least}
        stages = len(settings.stages(cfg, sparsity))
        for stage in range(1, stages + 1):
            title = which if stages == 1 else f"{which} (stage {stage} of {stages})"
            # the last stage's steps are called as those of the only one
            name = cycle if stage == stages else f"{cycle}stage{stage}."
            _zero(plan, name, title, sparsity, stage, number, measured, files, facts)
        _recover(plan, cycle, which, sparsity, files, facts)


def _zero(
    plan: Plan,
    prefix: str,
    which: str,
    sparsity: float | None,
    stage: int,
    number: int,
    measured: Mapping[str, Plain],
    files: Mapping[str, Plain],
    facts: Mapping[str, Any],
) -> None:
    """Weights measured, zeroed and, where asked for, fitted: this stage of the way to the cycle's sparsity."""
    cfg = plan.cfg
    p, images = cfg.prune, settings.needs_images(cfg)
    inputs = {}
    statistics = plan.add(
        f"{prefix}calibrate",
        f"Calibrating{which}",
        PruningStage.CALIBRATING,
        prune.calibrate,
        Measured,
        settings=dict(measured) | ({"calibration_images": p.calibration_images} if images else {}),
        skipped=None if images else f"{p.score.name} needs no images",
        **facts,
    )
    if images:
        inputs["statistics"] = statistics
    inputs["scores"] = plan.add(
        f"{prefix}score",
        f"Computing importance{which}: {p.score.name}",
        PruningStage.COMPUTING_IMPORTANCE,
        prune.score,
        Measured,
        settings=measured,
        inputs=inputs,
        **facts,
    )
    after = {"augment": cfg.train.augment}
    plan.add(
        f"{prefix}prune",
        f"Pruning{which}: {'as the pattern says' if sparsity is None else 'to ' + _share(sparsity)}",
        PruningStage.PRUNING,
        partial(prune.prune, sparsity=sparsity, stage=stage, cycle=number, cycles=p.iterations),
        Pruned,
        settings=section(cfg, "prune", "recover") | after | {"sparsity": sparsity, "stage": stage} | dict(files),
        inputs=inputs,
        gives_network=True,
        **facts,
    )
    if p.refit == "closed_form":
        plan.add(
            f"{prefix}refit",
            f"Pruning{which}: refitting layer by layer",
            PruningStage.PRUNING,
            refit.refit_weights,
            Refitted,
            settings=section(cfg, "recover") | after | {"images": p.calibration_images, "rounds": p.refit_rounds},
            gives_network=True,
            **facts,
        )


@COMPRESSIONS.register("prune-structured", removes=True, once=True)
def prune_structured(plan: Plan) -> None:
    """Cut channels to the budget of `structured`, in its cycles, prove each cut, and recover as `recover` and
    `fine_tune` say.

    With `structured.only_dead` those that do nothing: there is no budget, and nothing to recover.
    """
    cfg = plan.cfg
    if cfg.structured.only_dead:
        _remove_dead(plan)
        return
    shares = settings.cut_shares(cfg)
    if len(shares) == 1:
        _cut(plan, "", "", {"together": True})
        _recover(plan)
        return
    earlier: str | None = None
    for number, share in enumerate(shares, start=1):
        cycle, which = _cycle(number, len(shares))
        facts = {"together": True, "cycle": number}
        earlier = _cut(plan, cycle, which, facts, cut.Part(share, number == len(shares)), earlier)
        _recover(plan, cycle, which, facts=facts)


def _cut(
    plan: Plan,
    cycle: str,
    which: str,
    facts: Mapping[str, Any],
    part: cut.Part = cut.WHOLE,
    earlier: str | None = None,
) -> str:
    """Channels measured, cut and, where asked for, what stays fitted: this part of the budget, after `earlier` cuts."""
    cfg = plan.cfg
    s = settings.channel_choices(cfg)
    assert s.score is not None
    measured = needs_images(cfg.structured)
    reason = f"{s.score.name} {'is measured with the widths' if measured else 'needs no images'}"
    plan.add(f"{cycle}calibrate", f"Calibrating{which}", PruningStage.CALIBRATING, None, Measured, skipped=reason)
    scored: dict[str, Any] = {"score": {"name": s.score.name, "args": s.score.args}, "exclude": s.exclude}
    if measured:
        scored |= {"allocation": s.allocation, "calibration_images": s.calibration_images}
    widths = ", widths measured" if s.allocation == "measured" else ""
    scores = plan.add(
        f"{cycle}score",
        f"Computing importance{which}: {s.score.name}{widths}",
        PruningStage.COMPUTING_IMPORTANCE,
        cut.score,
        Measured,
        settings=scored,
        **facts,
    )
    after = {"augment": cfg.train.augment}
    inputs = {"scores": scores} | ({} if earlier is None else {"cut": earlier})
    chosen = section(cfg, "structured") | ({} if part == cut.WHOLE else asdict(part))
    if cfg.structured.grow_penalty is not None:
        plan.add(
            f"{cycle}regularise",
            f"Pruning{which}: a penalty grows on what will go",
            PruningStage.PRUNING,
            partial(regularise.regularise, part=part),
            Regularised,
            settings=chosen
            | section(cfg, "fine_tune", "train")
            | {name: getattr(s, name) for name in settings.GROWING},
            inputs=inputs,
            gives_network=True,
            **facts,
        )
    # what training has taught since the dense network is in the one before the cut: a fit to the dense one undoes it
    trained = cfg.structured.grow_penalty is not None or (earlier is not None and settings.trains_after_cut(cfg))
    target = {"target": plan.last} | ({} if earlier is None else {"earlier": earlier}) if trained else {}
    made = plan.add(
        f"{cycle}prune",
        f"Pruning{which}: cutting channels out",
        PruningStage.PRUNING,
        partial(cut.cut, part=part),
        Cut,
        settings=chosen | section(cfg, "recover") | after,
        inputs=inputs,
        gives_network=True,
        **facts,
    )
    if s.refit == "closed_form":
        plan.add(
            f"{cycle}refit",
            f"Pruning{which}: refitting layer by layer",
            PruningStage.PRUNING,
            refit.refit_cut,
            Refitted,
            settings=section(cfg, "recover") | after | {"images": s.calibration_images, "rounds": s.refit_rounds},
            inputs={"cut": made} | target,
            gives_network=True,
            **facts,
        )
    return made


def _remove_dead(plan: Plan) -> None:
    why = "what is dead is told by the weights alone"
    for name, title, stage in (
        ("calibrate", "Calibrating", PruningStage.CALIBRATING),
        ("score", "Computing importance", PruningStage.COMPUTING_IMPORTANCE),
    ):
        plan.add(name, title, stage, None, Measured, skipped=why)
    plan.add(
        "prune",
        "Pruning: removing dead channels",
        PruningStage.PRUNING,
        dead.remove,
        Cut,
        settings={"only_dead": True, "exclude": plan.cfg.structured.exclude},
        gives_network=True,
        together=True,
    )


@COMPRESSIONS.register("fine-tune")
def fine_tune(plan: Plan) -> None:
    """Train with the zeros frozen, as `fine_tune` of the config says."""
    _train(plan, "train", "Fine-tuning", training.fine_tune, Trained, "fine_tune", "train")


@COMPRESSIONS.register("distill")
def distill(plan: Plan) -> None:
    """Train to the dense network's outputs without labels, as `recover` of the config says (whatever its method)."""
    title = "Fine-tuning: distillation from the dense network"
    _train(plan, "train", title, training.follow_dense, Recovered, "recover", augment=plan.cfg.train.augment)


@COMPRESSIONS.register("quantize", quantizes=True, once=True)
def quantize(plan: Plan) -> None:
    """Quantisation-aware training, as `quantize` of the config says; later training goes on with 8 bits."""
    title = "Fine-tuning: quantisation-aware, 8 bits"
    _train(plan, "train", title, training.quantize, Trained, "quantize", "train")


def _recover(
    plan: Plan,
    cycle: str = "",
    which: str = "",
    sparsity: float | None = None,
    files: Mapping[str, Plain] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """What the config wants after each pruning; one that goes on growing depends on the same `files` as the pruning."""
    cfg, facts = plan.cfg, facts or {}
    if cfg.recover.method == "distill" and not _rewinds(plan):
        more = {"augment": cfg.train.augment, "sparsity": sparsity} | dict(files or {})
        title = f"Fine-tuning{which}: distillation from the dense network"
        following = partial(training.follow_dense, sparsity=sparsity)
        _train(plan, f"{cycle}distill", title, following, Recovered, "recover", "prune", facts=facts, **more)
    if cfg.fine_tune.enabled:
        name, title = f"{cycle}fine-tune", f"Fine-tuning{which}"
        _train(plan, name, title, training.fine_tune, Trained, "fine_tune", "train", facts=facts)


def _train(
    plan: Plan,
    name: str,
    title: str,
    work: Work,
    gives: type[Outcome],
    *sections: str,
    facts: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    given = section(plan.cfg, *sections) | more
    same = {"together": True, "gives_network": True} | dict(facts or {})
    plan.add(name, title, PruningStage.FINE_TUNING, work, gives, settings=given, **same)


def _rewinds(plan: Plan) -> bool:
    return plan.part.endswith("prune-unstructured") and plan.cfg.prune.rewind is not None


def _contents(plan: Plan) -> dict[str, Plain]:
    """What is in the files that settings of `prune` name, hashed; nothing where there are none."""
    paths = list(settings.named_files(plan.cfg))
    if plan.cfg.prune.rewind is not None and plan.checkpoint is not None:
        paths.insert(0, prune.rewind_file(plan.cfg.prune.rewind, plan.checkpoint))
    hashes: list[Plain] = [content_hash(path) for path in paths]
    return {"files": hashes} if hashes else {}


def _cycle(number: int, of: int) -> tuple[str, str]:
    """What a cycle's steps are called with, and what their titles say of it; nothing where it is the only one."""
    return ("", "") if of == 1 else (f"{number}.", f" (cycle {number} of {of})")


def _share(sparsity: float | None) -> str:
    return "what the pattern says" if sparsity is None else f"{100 * sparsity:g}%"


def check_order(names: Sequence[str], only_dead: bool = False) -> list[Problem]:
    """What is wrong with `pipeline.steps`: unknown names, and orders that make no sense, with the reason.

    `only_dead`: prune-structured removes what does nothing, which zeros before it may have made so.
    """
    found = [unknown("step", name, COMPRESSIONS) for name in names if name not in COMPRESSIONS]
    known = [name for name in names if name in COMPRESSIONS]
    if not names:
        found.append(f"is empty, so there is nothing to do. Name one or more of {listed(COMPRESSIONS)}.")
    for number, name in enumerate(known):
        facts, before = COMPRESSIONS[name].facts, known[:number]
        if facts.get("once") and name in before:
            found.append(f"'{name}' comes twice, and its settings are the same. Leave one out.")
        works = any(COMPRESSIONS[other].facts.keys() & {"removes", "quantizes"} for other in before)
        if not facts.keys() & {"removes", "quantizes"} and not works:
            found.append(f"'{name}' has nothing to recover from yet. Put it after what prunes or quantizes.")
        too_early = ("quantize",) if only_dead else ("prune-unstructured", "quantize")
        if name == "prune-structured" and (late := [b for b in before if b in too_early]):
            advice = f"Put it before '{late[0]}'"
            if late[0] == "prune-unstructured":
                advice += ", or set structured.only_dead=true: that removes what the zeros have left dead, exactly"
            found.append(
                f"'prune-structured' after '{late[0]}' would cut channels by weights that were chosen, and "
                f"ranges that were learnt, for another network. {advice}."
            )
    return [Problem("pipeline.steps", text) for text in found]
