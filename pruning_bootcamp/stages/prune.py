"""prune-unstructured and prune-structured: prune, recover, fine-tune, measure against the dense network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Checkpoint, Recipe, load_checkpoint, save_checkpoint
from pruning_bootcamp.config import Config
from pruning_bootcamp.duration import parse_duration
from pruning_bootcamp.evaluation import cost_of, evaluate_on, say_disagreement
from pruning_bootcamp.logs import LOGGER, also_to_file
from pruning_bootcamp.models import make_prunable
from pruning_bootcamp.pruning.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.scores import needs_of
from pruning_bootcamp.pruning.structured import StructuredPlan, cut_channels, plan_structured
from pruning_bootcamp.pruning.unstructured import UnstructuredResult, iterative_sparsities
from pruning_bootcamp.pruning.unstructured import prune_unstructured as prune_weights
from pruning_bootcamp.reporting import run_report, structured_table
from pruning_bootcamp.runs import Run, write_text
from pruning_bootcamp.runtime import environment, preserved_rng
from pruning_bootcamp.stages import common
from pruning_bootcamp.tools.datasets import Splits, calibration_batches, eval_batches
from pruning_bootcamp.tools.metrics import compare_metrics
from pruning_bootcamp.training.loop import FitSettings, fit
from pruning_bootcamp.training.recovery import reestimate_batch_norm

Masks = dict[str, Tensor]


def prune_unstructured(cfg: Config, method: str | None = None, resume: bool | None = None) -> dict[str, Any]:
    """Zero weights in one shot or in cycles, fine-tune with the zeros frozen, compare with the dense network."""
    path = common.checkpoint_path(cfg.checkpoint)
    run = common.open_stage(cfg, "prune-unstructured", _unstructured_folder(cfg, method), _SECTIONS, path, resume)
    if done := common.already_done(run):
        return done
    with also_to_file(run.path("log.txt")):
        device = common.start(cfg)
        splits = common.open_data(cfg)
        dense = common.open_network(path, cfg, splits)
        p = cfg.prune
        LOGGER.info("\n=== Pruning: %s (%s, %s) ===", p.score.name, p.allocation.name, _pattern_text(cfg))
        target = target_sparsity(cfg)
        LOGGER.info("Target sparsity: %s", "as the pattern says" if target is None else f"{100 * target:.1f}%")
        LOGGER.info("Mode: %s", "one-shot" if p.iterations == 1 else f"{p.iterations} cycles, {p.schedule.name}")

        model, masks = detached_copy(dense.model), dict[str, Tensor]()
        steps: list[float | None] = [target]
        if target is not None:
            steps = [*iterative_sparsities(target, p.iterations, p.schedule.name, p.schedule.args)]
        cycles: list[dict[str, Any]] = []
        for number, sparsity in enumerate(steps, start=1):
            model, masks, figures = _cycle(cfg, run, number, sparsity, model, masks, dense, splits, device)
            cycles.append(figures)
        return _finish(cfg, run, dense, model, dense.recipe, masks, splits, device, {"cycles": cycles})


def _cycle(
    cfg: Config,
    run: Run,
    number: int,
    sparsity: float | None,
    model: nn.Module,
    masks: Masks,
    dense: Checkpoint,
    splits: Splits,
    device: torch.device,
) -> tuple[nn.Module, Masks, dict[str, Any]]:
    """One prune and fine-tune. A cycle that was finished before is read back instead of done again."""
    p = cfg.prune
    folder = run.folder if p.iterations == 1 else run.path(f"cycle_{number}")
    saved = folder / "pruned_model.pth"
    if p.iterations > 1 and saved.exists():
        checkpoint = load_checkpoint(saved, recipe=dense.recipe)
        LOGGER.info("Cycle %d: already finished, read from %s", number, saved)
        return checkpoint.model, checkpoint.masks, checkpoint.metrics
    result = prune_weights(
        model,
        sparsity=sparsity,
        score=p.score.name,
        score_args=p.score.args,
        allocation=p.allocation.name,
        allocation_args=p.allocation.args,
        pattern=p.pattern.name,
        pattern_args=p.pattern.args,
        include=p.include,
        exclude=p.exclude,
        previous=masks or None,
        stats_batches=_labelled_batches(cfg, splits, device),
        seed=cfg.seed,
    )
    _say_pruned(result, number, p.iterations)
    _recover(model, cfg, splits, device)
    pruned_val = evaluate_on(model, splits.val, splits, device=device, batch_size=cfg.data.batch_size)
    LOGGER.info("Validation accuracy before fine-tuning: %.2f%%", pruned_val["accuracy"])
    figures: dict[str, Any] = {
        "cycle": number,
        "sparsity": round(result.sparsity, 6),
        "val_accuracy_pruned": round(pruned_val["accuracy"], 4),
    }
    if cfg.fine_tune.enabled:
        figures |= _fine_tune(cfg, run, model, splits, device, folder, dense.model, result.masks)
    else:
        figures["val_accuracy"] = figures["val_accuracy_pruned"]
    if common.is_leader() and p.iterations > 1:
        save_checkpoint(saved, model, dense.recipe, masks=result.masks, metrics=figures)
    return model, result.masks, figures


def _labelled_batches(cfg: Config, splits: Splits, device: torch.device) -> list[tuple[Tensor, Tensor]] | None:
    """Training images with labels for a score that needs gradients; None for one that looks at the weights only."""
    if not needs_of(cfg.prune.score.name):
        return None
    count = min(cfg.prune.calibration_images, len(splits.train))
    chosen = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(cfg.seed))[:count]
    images = splits.train.subset(chosen)
    return list(eval_batches(images, batch_size=min(128, count), mean=splits.mean, std=splits.std, device=device))


def _say_pruned(result: UnstructuredResult, number: int, cycles: int) -> None:
    which = f"Cycle {number}/{cycles}: " if cycles > 1 else ""
    LOGGER.info("%spruned to %.2f%% of %d layers' weights", which, 100 * result.sparsity, len(result.layers))
    for layer, reason in result.skipped.items():
        LOGGER.info("  skipped %s: %s", layer, reason)
    for layer, reason in result.left_out.items():
        LOGGER.info("  left out %s: %s", layer, reason)
    for note in result.notes:
        LOGGER.info("  note: %s", note)


def prune_structured(cfg: Config, dry_run: bool = False, resume: bool | None = None) -> dict[str, Any]:
    """Cut channels to a budget, prove the cut, fine-tune, and judge the goal. With `dry_run` only the plan is shown."""
    path = common.checkpoint_path(cfg.checkpoint)
    if dry_run:
        device = common.start(cfg)
        splits = common.open_data(cfg)
        _, _, plan = _plan(cfg, common.open_network(path, cfg, splits))
        LOGGER.info("\nDry run: nothing was changed or written.")
        return {"flops_reduction_pct": round(100 * plan.macs_reduction, 4)}
    run = common.open_stage(cfg, "prune-structured", _structured_folder(cfg), _SECTIONS, path, resume)
    if done := common.already_done(run):
        return done
    with also_to_file(run.path("log.txt")):
        device = common.start(cfg)
        splits = common.open_data(cfg)
        dense = common.open_network(path, cfg, splits)
        ready, recipe, plan = _plan(cfg, dense)
        cut = cut_channels(ready, common.example_input(recipe), plan)
        LOGGER.info("Slice proof: passed, %s", cut.proof)
        model = cut.model
        _recover(model, cfg, splits, device)
        pruned_val = evaluate_on(model, splits.val, splits, device=device, batch_size=cfg.data.batch_size)
        LOGGER.info("Validation accuracy before fine-tuning: %.2f%%", pruned_val["accuracy"])
        figures: dict[str, Any] = {"val_accuracy_pruned": round(pruned_val["accuracy"], 4)}
        if cfg.fine_tune.enabled:
            figures |= _fine_tune(cfg, run, model, splits, device, run.folder, dense.model, None)
        else:
            figures["val_accuracy"] = figures["val_accuracy_pruned"]
        figures |= {
            "slice_proof": {"max_difference": float(cut.proof.max_difference), "passed": True},
            "widths": {group.name: [group.width, len(group.keep)] for group in plan.groups},
        }
        return _finish(cfg, run, dense, model, recipe, {}, splits, device, figures)


def _plan(cfg: Config, dense: Checkpoint) -> tuple[nn.Module, Recipe, StructuredPlan]:
    """The network as it can be cut, how that is built, and what to cut; the plan is shown."""
    s = cfg.structured
    ready, args = make_prunable(dense.model, dense.recipe.args)
    recipe = replace(dense.recipe, args=args)
    example = common.example_input(recipe)
    baseline, _ = cost_of(dense.model, example)
    LOGGER.info("\n=== Structured Pruning: %s (%s) ===", s.score.name, s.allocation)
    plan = plan_structured(
        ready,
        example,
        score=s.score.name,
        score_args=s.score.args,
        allocation=s.allocation,
        **s.budget(),
        round_to=s.round_to,
        max_sparsity=s.max_sparsity,
        exclude=s.exclude,
        seed=cfg.seed,
        baseline_macs=baseline["flops_g"] * 1e9,
        baseline_params=round(baseline["params_m"] * 1e6),
    )
    LOGGER.info("%s", structured_table(plan))
    return ready, recipe, plan


def _recover(model: nn.Module, cfg: Config, splits: Splits, device: torch.device) -> None:
    """Batch-norm statistics of the pruned network on augmented training images, without labels."""
    images = min(cfg.recover.bn_images, len(splits.train))
    model.to(device)
    if images == 0:
        return
    batches = calibration_batches(
        splits.train,
        images=images,
        batch_size=min(128, images),
        seed=cfg.seed,
        augment=splits.augment if cfg.train.augment is None else cfg.train.augment,
        mean=splits.mean,
        std=splits.std,
        device=device,
    )
    with preserved_rng():
        if reestimate_batch_norm(model, batches):
            LOGGER.info("Batch-norm statistics re-estimated on %d training images", images)


def _fine_tune(
    cfg: Config,
    run: Run,
    model: nn.Module,
    splits: Splits,
    device: torch.device,
    folder: Path,
    teacher: nn.Module,
    masks: Masks | None,
) -> dict[str, Any]:
    LOGGER.info("\n=== Fine-tuning ===")
    distill = cfg.fine_tune.distill
    result = fit(
        model.to(device),
        splits,
        fine_tune_settings(cfg),
        device=device,
        folder=folder,
        seed=cfg.seed,
        masks=masks,
        teacher=teacher.to(device) if distill > 0 else None,
        distill_weight=distill,
        distill_temperature=cfg.fine_tune.temperature,
        label="fine-tune",
        fingerprint=run.fingerprint,
    )
    return {"val_accuracy": round(result.best_accuracy, 4), "fine_tune_seconds": round(result.seconds, 2)}


def fine_tune_settings(cfg: Config) -> FitSettings:
    """`fine_tune` of the config; what it leaves out is as in `train`, and the learning rate a tenth of that."""
    base, f = common.training_settings(cfg), cfg.fine_tune
    return replace(
        base,
        epochs=parse_duration(f.epochs, "fine_tune.epochs"),
        lr=f.lr if f.lr is not None else base.lr / 10,
        batch_size=f.batch_size or base.batch_size,
        weight_decay=base.weight_decay if f.weight_decay is None else f.weight_decay,
        schedule=f.schedule.name if f.schedule else base.schedule,
        schedule_args=f.schedule.args if f.schedule else base.schedule_args,
        warmup=parse_duration(f.warmup, "fine_tune.warmup"),
        augment=base.augment if f.augment is None else tuple(f.augment),
        bn_l1=0.0,
        mixup=0.0,
        early_stopping=None,
    )


def _finish(
    cfg: Config,
    run: Run,
    dense: Checkpoint,
    model: nn.Module,
    recipe: Recipe,
    masks: Masks,
    splits: Splits,
    device: torch.device,
    figures: dict[str, Any],
) -> dict[str, Any]:
    """The one look at the test split, for the dense and the pruned network alike; then checkpoint and report."""
    if not common.is_leader():
        return {}
    example = common.example_input(recipe)
    baseline, _ = cost_of(dense.model, example)
    cost, flops = cost_of(model, example, masks)
    batch_size = cfg.data.batch_size
    before = evaluate_on(dense.model, splits.test, splits, device=device, batch_size=batch_size)
    after = evaluate_on(model, splits.test, splits, device=device, batch_size=batch_size)
    baseline["accuracy"] = round(before["accuracy"], 4)
    metrics: dict[str, Any] = {
        "accuracy": round(after["accuracy"], 4),
        "loss": round(after["loss"], 6),
        "test_images": after["n"],
        **cost,
    }
    metrics |= compare_metrics(baseline, metrics)
    met = (
        metrics["flops_reduction_pct"] >= cfg.goal.flops_reduction_pct
        and metrics["accuracy_drop"] <= cfg.goal.accuracy_drop
    )
    metrics |= {
        "goal": goal_text(cfg),
        "goal_met": met,
        "baseline": baseline,
        **figures,
        "seed": cfg.seed,
        "environment": environment(device),
    }
    save_checkpoint(run.path("pruned_model.pth"), model.cpu(), recipe, masks=masks or None, metrics=metrics)
    title = f"{run.command}: {recipe.model} on {cfg.data.name}"
    write_text(run.path("report.md"), run_report(title, metrics))
    _say_results(metrics, flops, run)
    finished = run.finish(metrics)
    common.remove_training_states(run.folder)
    return finished


def goal_text(cfg: Config) -> str:
    return f">= {cfg.goal.flops_reduction_pct:g}% fewer FLOPs, <= {cfg.goal.accuracy_drop:g} points of accuracy lost"


def _say_results(metrics: dict[str, Any], flops: Any, run: Run) -> None:
    say_disagreement(flops)
    LOGGER.info("\n=== Final Results (%d test images) ===", metrics["test_images"])
    LOGGER.info("Baseline accuracy: %.2f%%", metrics["baseline"]["accuracy"])
    LOGGER.info("Pruned accuracy: %.2f%%", metrics["accuracy"])
    LOGGER.info("Accuracy drop: %.2f points", metrics["accuracy_drop"])
    LOGGER.info("Sparsity: %.2f%%", 100 * metrics["sparsity"])
    LOGGER.info("FLOPs reduction: %.1f%%", metrics["flops_reduction_pct"])
    LOGGER.info("Params reduction: %.1f%%", metrics["params_reduction_pct"])
    common.say_goal(metrics)
    LOGGER.info("\nResults saved to %s", run.folder)


_SECTIONS = ("data", "model", "train", "prune", "structured", "recover", "fine_tune", "goal")


def target_sparsity(cfg: Config) -> float | None:
    """The sparsity asked for; left out, None where the pattern or allocation says it, else one half."""
    p = cfg.prune
    if p.sparsity is not None:
        return p.sparsity
    says_it = p.pattern.name in PATTERNS and "fixed_count" in PATTERNS[p.pattern.name].facts
    says_it |= p.allocation.name in ALLOCATIONS and bool(ALLOCATIONS[p.allocation.name].facts.get("own_sparsity"))
    return None if says_it else 0.5


def _pattern_text(cfg: Config) -> str:
    pattern = cfg.prune.pattern
    return f"{pattern.args['n']}:{pattern.args['m']}" if pattern.name == "nm" else pattern.name


def _unstructured_folder(cfg: Config, method: str | None) -> Path:
    p = cfg.prune
    mode = {"uniform": "layerwise"}.get(p.allocation.name, p.allocation.name)
    pattern = "" if p.pattern.name == "unstructured" else "_" + _pattern_text(cfg).replace(":", "of")
    cycles = "" if p.iterations == 1 else f"_x{p.iterations}"
    target = target_sparsity(cfg)
    sparsity = "" if target is None else f"_sp{target:g}"
    return common.RESULTS / "unstructured" / f"{method or p.score.name}_{mode}{sparsity}{pattern}{cycles}"


def _structured_folder(cfg: Config) -> Path:
    s = cfg.structured
    words = {"sparsity": "sp", "flops_reduction": "flops", "params_reduction": "params"}
    budget = "_".join(f"{words[name]}{value:g}" for name, value in s.budget().items())
    return common.RESULTS / "structured" / f"{s.score.name}_{budget}"
