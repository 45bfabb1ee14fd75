"""Cutting channels: the steps of `prune-structured`, in its cycles."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow import settings
from pruning_bootcamp.flow.compressions.recovering import cycle_names, recover
from pruning_bootcamp.flow.compressions.registry import COMPRESSIONS
from pruning_bootcamp.flow.outcomes import Cut, Measured, Refitted, Regularised
from pruning_bootcamp.flow.plan import Plan, budget_here, section
from pruning_bootcamp.flow.steps import cut, dead, refit, regularise
from pruning_bootcamp.pruning.channels.measuring import needs_images
from pruning_bootcamp.pruning.pipeline_stages import PruningStage


@COMPRESSIONS.register("prune-structured", removes=True, once=True)
def prune_structured(plan: Plan) -> None:
    """Cut channels to the budget of `structured`, in its cycles, prove each cut, and recover as `recover` and
    `fine_tune` say.

    With `structured.only_dead` those that do nothing: there is no budget, and nothing to recover.
    """
    cfg = plan.cfg
    if cfg.structured.max_accuracy_drop is not None:
        raise BootcampError(
            "structured.max_accuracy_drop: only the command prune-structured searches for it. Give what it finds here, "
            "as structured.target_flops_reduction or structured.target_latency_reduction."
        )
    if cfg.structured.only_dead:
        _remove_dead(plan)
        return
    shares = settings.cut_shares(cfg)
    if len(shares) == 1:
        _cut(plan, "", "", {"together": True})
        recover(plan)
        return
    earlier: str | None = None
    for number, share in enumerate(shares, start=1):
        cycle, which = cycle_names(number, len(shares))
        facts = {"together": True, "cycle": number}
        earlier = _cut(plan, cycle, which, facts, cut.Part(share, number == len(shares)), earlier)
        recover(plan, cycle, which, facts=facts)


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
    batch_norm = {"bn_images": settings.batch_norm_images(cfg), "augment": cfg.train.augment}
    inputs = {"scores": scores} | ({} if earlier is None else {"cut": earlier})
    chosen = section(cfg, "structured") | ({} if part == cut.WHOLE else asdict(part))
    chosen |= {"latency": budget_here(cfg)} if s.timed else {}
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
        settings=chosen | batch_norm,
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
            settings=batch_norm | {"images": s.calibration_images, "rounds": s.refit_rounds},
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
