"""Zeroing weights: the steps of `prune-unstructured`, in its cycles and stages."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pruning_bootcamp.flow import settings
from pruning_bootcamp.flow.compressions.recovering import cycle_names, recover
from pruning_bootcamp.flow.compressions.registry import COMPRESSIONS
from pruning_bootcamp.flow.outcomes import Measured, Pruned, Refitted, Trained
from pruning_bootcamp.flow.plan import Plan, section
from pruning_bootcamp.flow.steps import prune, refit
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.pruning.weights.schedules import iterative_sparsities
from pruning_bootcamp.runs import content_hash


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
        cycle, which = cycle_names(number, len(sparsities))
        last = number == len(sparsities)
        least = (plan.last, sparsity) if not last and sparsity is not None else None
        facts: dict[str, Any] = {"together": True, "cycle": before + number, "least": least}
        stages = len(settings.stages(cfg, sparsity))
        for stage in range(1, stages + 1):
            title = which if stages == 1 else f"{which} (stage {stage} of {stages})"
            # the last stage's steps are called as those of the only one
            name = cycle if stage == stages else f"{cycle}stage{stage}."
            _zero(plan, name, title, sparsity, stage, number, measured, files, facts)
        recover(plan, cycle, which, sparsity, files, facts)


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
    batch_norm = {"bn_images": settings.batch_norm_images(cfg), "augment": cfg.train.augment}
    grown = {"sparsity": sparsity, "stage": stage, "grow": settings.grown_later(cfg)}
    plan.add(
        f"{prefix}prune",
        f"Pruning{which}: {'as the pattern says' if sparsity is None else 'to ' + _share(sparsity)}",
        PruningStage.PRUNING,
        partial(prune.prune, sparsity=sparsity, stage=stage, cycle=number, cycles=p.iterations),
        Pruned,
        settings=section(cfg, "prune") | batch_norm | grown | dict(files),
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
            settings=batch_norm | {"images": p.calibration_images, "rounds": p.refit_rounds},
            gives_network=True,
            **facts,
        )


def _contents(plan: Plan) -> dict[str, Plain]:
    """What is in the files that settings of `prune` name, hashed; nothing where there are none."""
    paths = list(settings.named_files(plan.cfg))
    if plan.cfg.prune.rewind is not None and plan.checkpoint is not None:
        paths.insert(0, prune.rewind_file(plan.cfg.prune.rewind, plan.checkpoint))
    hashes: list[Plain] = [content_hash(path) for path in paths]
    return {"files": hashes} if hashes else {}


def _share(sparsity: float | None) -> str:
    return "what the pattern says" if sparsity is None else f"{100 * sparsity:g}%"
