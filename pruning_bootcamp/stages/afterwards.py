"""What both kinds of pruning do afterwards: re-estimate batch norm, fine-tune, measure against the dense network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Checkpoint, Recipe, save_checkpoint, weights_hash
from pruning_bootcamp.checkpoints.new_process import check_saved
from pruning_bootcamp.config import Config
from pruning_bootcamp.duration import parse_duration
from pruning_bootcamp.evaluation import cost_of, evaluate_on, say_disagreement, sparsity_text
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.memorised import caveat
from pruning_bootcamp.reporting import run_report, with_verdict
from pruning_bootcamp.runs import METRICS, Run, write_text
from pruning_bootcamp.runtime import environment
from pruning_bootcamp.stages import common, memorised, verdict
from pruning_bootcamp.stages.batch_norm import recover_batch_norm
from pruning_bootcamp.stages.verdict import Goal
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.tools.metrics import compare_metrics
from pruning_bootcamp.training.hooks import Hook
from pruning_bootcamp.training.loop import FitSettings, fit
from pruning_bootcamp.training.recovery import DistillSettings, distill

Masks = dict[str, Tensor]


def judge_again(run: Run, metrics: dict[str, Any], cfg: Config, goal: Goal) -> dict[str, Any]:
    """A finished run under the goal and the gates of today: its figures stay, the judgement may not."""
    if "accuracy_drop" not in metrics:  # goal.evaluate_test is false: there is nothing to judge by
        return metrics
    with verdict.reading(run.path(METRICS)):
        judged, lines = verdict_on(cfg, goal, metrics)
    common.say_goal(judged, lines)
    found = {name: value for name, value in metrics.items() if name != "gates"} | judged
    if found == metrics or not common.is_leader():
        return found
    if (report := run.path("report.md")).exists():
        write_text(report, with_verdict(report.read_text(encoding="utf-8"), found))
    return run.finish(found)


def verdict_on(cfg: Config, goal: Goal, metrics: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The verdict on a run's test figures as its metrics hold it, and what to say of it beside met or not."""
    gates, undecided = verdict.judge_run(cfg.gates, metrics)
    lines = verdict.reasons(goal, metrics, gates)
    if undecided:
        names = ", ".join(f"gates.{name}" for name in undecided)
        lines.append(f"not judged here: {names}. `pipeline run` measures what they need.")
    return verdict.judge(goal, metrics, gates), lines


def recover(
    model: nn.Module,
    dense: nn.Module,
    cfg: Config,
    run: Run,
    splits: Splits,
    device: torch.device,
    folder: Path,
    masks: Masks | None,
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    """What brings the pruned network back without labels, as `recover` of the config says; figures for the metrics."""
    r = cfg.recover
    model.to(device)
    dense.to(device)
    figures = recover_batch_norm(model, dense, cfg, splits, device)
    if r.method == "distill":
        LOGGER.info("\n=== Recovery: distillation from the dense network, without labels ===")
        figures |= follow_dense(model, dense, cfg, run, splits, device, folder / "recovery", masks, hooks)
    return figures


def follow_dense(
    model: nn.Module,
    dense: nn.Module,
    cfg: Config,
    run: Run,
    splits: Splits,
    device: torch.device,
    folder: Path,
    masks: Masks | None,
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    """Distillation from the dense network, without labels, as `recover` of the config says; what it did."""
    result, plan = distill(
        model.to(device),
        dense.to(device),
        splits,
        distill_settings(cfg),
        device=device,
        folder=folder,
        seed=cfg.seed,
        masks=masks,
        fingerprint=run.fingerprint,
        hooks=hooks,
    )
    return {"distillation": {**plan, "seconds": round(result.seconds, 2)}}


def distill_settings(cfg: Config) -> DistillSettings:
    """`recover` of the config as the distillation's settings."""
    r = cfg.recover
    return DistillSettings(
        images=r.images,
        steps=r.steps,
        minutes=r.minutes,
        batch_size=r.batch_size,
        lr=r.lr,
        temperature=r.temperature,
        feature_weight=r.features,
        amp=r.amp,
        augment=None if cfg.train.augment is None else tuple(cfg.train.augment),
        checkpoint_seconds=cfg.train.checkpoint_seconds,
    )


def fine_tune(
    cfg: Config,
    run: Run,
    model: nn.Module,
    splits: Splits,
    device: torch.device,
    folder: Path,
    teacher: nn.Module,
    masks: Masks | None,
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    distill = cfg.fine_tune.distill
    result = fit(
        model.to(device),
        splits,
        fine_tune_settings(cfg),
        device=device,
        folder=folder,
        seed=cfg.seed,
        masks=masks,
        hooks=hooks,
        teacher=teacher.to(device) if distill > 0 else None,
        distill_weight=distill,
        distill_temperature=cfg.fine_tune.temperature,
        feature_weight=cfg.fine_tune.features,
        label="fine-tune",
        fingerprint=run.fingerprint,
    )
    return {
        "val_accuracy": round(result.best_accuracy, 4),
        "best_epoch": result.best_epoch,
        "fine_tune_seconds": round(result.seconds, 2),
    }


def fine_tune_settings(cfg: Config) -> FitSettings:
    """`fine_tune` of the config; what it leaves out is as in `train`, and the learning rate a tenth of that.

    Mixup, the penalty on batch-norm scales and early stopping belong to the first training and are off.
    """
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


def finish(
    cfg: Config,
    run: Run,
    dense: Checkpoint,
    model: nn.Module,
    recipe: Recipe,
    masks: Masks,
    splits: Splits,
    device: torch.device,
    figures: dict[str, Any],
    goal: Goal,
) -> dict[str, Any]:
    """The one look at the test split, for the dense and the pruned network alike; then checkpoint and report.

    With goal.evaluate_test off it is the validation split, under names of its own, and no goal is judged.
    """
    if not common.is_leader():
        return {}
    example = common.example_input(recipe)
    baseline, _ = cost_of(dense.model, example)
    cost, flops = cost_of(model, example, masks)
    batch_size = cfg.data.batch_size
    testing = cfg.goal.evaluate_test
    split, kind = (splits.test, "") if testing else (splits.val, "val_")
    before = evaluate_on(dense.model, split, splits, device=device, batch_size=batch_size)
    after = evaluate_on(model, split, splits, device=device, batch_size=batch_size)
    baseline |= {f"{kind}accuracy": round(before["accuracy"], 4), "weights": weights_hash(dense.model)}
    found = {
        f"{kind}accuracy": round(after["accuracy"], 4),
        f"{kind}loss": round(after["loss"], 6),
        f"{kind or 'test_'}images": after["n"],
    }
    metrics: dict[str, Any] = {**found, **cost}
    metrics |= compare_metrics(baseline, metrics)
    lines: list[str] = []
    if testing and verdict.asked_of_accuracy(cfg.gates):
        look: dict[str, Any] = {"device": device, "batch_size": batch_size}
        pair = [evaluate_on(network, splits.val, splits, **look) for network in (dense.model, model)]
        metrics["validation"] = _validation(*pair)
    if not testing:
        metrics["val_accuracy_drop"] = round(baseline["val_accuracy"] - metrics["val_accuracy"], 4)
    metrics |= {
        "baseline": baseline,
        **figures,
        **found,
        **common.judged_on(splits, testing),
        "seed": cfg.seed,
        "environment": environment(device),
    }
    if testing:
        metrics |= memorised.settle(figures, before["accuracy"], before["n"])
        judged, lines = verdict_on(cfg, goal, metrics)
        metrics |= judged
    save_checkpoint(run.path("pruned_model.pth"), model.cpu(), recipe, masks=masks or None, metrics=metrics)
    check_saved(run.path("pruned_model.pth"), recipe)
    title = f"{run.command}: {recipe.model} on {cfg.data.name}"
    write_text(run.path("report.md"), run_report(title, metrics))
    _say_results(metrics, flops, run, lines)
    finished = run.finish(metrics)
    common.remove_training_states(run.folder)
    return finished


def _validation(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What the gates judge before the test images are looked at: both networks on the validation images."""
    baseline, accuracy = round(before["accuracy"], 4), round(after["accuracy"], 4)
    compared = compare_metrics({"accuracy": baseline}, {"accuracy": accuracy})
    return {"accuracy": accuracy, "baseline_accuracy": baseline, **compared, "images": after["n"]}


def _say_results(metrics: dict[str, Any], flops: Any, run: Run, lines: Sequence[str]) -> None:
    say_disagreement(flops)
    kind = "" if "accuracy" in metrics else "val_"
    split = "validation images; the test images were not read" if kind else "test images"
    LOGGER.info("\n=== Final Results (%d %s) ===", metrics[f"{kind or 'test_'}images"], split)
    LOGGER.info("Baseline accuracy: %.2f%%", metrics["baseline"][f"{kind}accuracy"])
    LOGGER.info("Pruned accuracy: %.2f%%", metrics[f"{kind}accuracy"])
    known = f" (on validation images{caveat(metrics)})" if kind and caveat(metrics) else ""
    LOGGER.info("Accuracy drop: %.2f points%s", metrics[f"{kind}accuracy_drop"], known)
    LOGGER.info("Sparsity: %s", sparsity_text(metrics))
    LOGGER.info("FLOPs reduction: %.1f%%", metrics["flops_reduction_pct"])
    LOGGER.info("Params reduction: %.1f%%", metrics["params_reduction_pct"])
    if "goal" in metrics:
        common.say_goal(metrics, lines)
    if metrics["flops_reduction_pct"] == 0 and metrics["sparsity"] > 0:
        LOGGER.info("Zeros alone save no FLOPs without sparse kernels: prune-structured cuts channels out.")
    LOGGER.info("\nResults saved to %s", run.folder)
