"""Outcomes of steps -> the metrics of a run, the same whichever command ran them."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch

from pruning_bootcamp.config import Config
from pruning_bootcamp.flow.outcomes import Cut, Judged, Outcome, Pruned, Recovered, Refitted, Regularised, Trained
from pruning_bootcamp.flow.plan import COSTS, DENSE, EXPORT, PADDED, TEST, VALIDATION
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.flow.step import Done, Step
from pruning_bootcamp.flow.steps import memorised
from pruning_bootcamp.plain import Part, from_plain, to_plain
from pruning_bootcamp.results import Comparison, Cycle, Metrics, NetworkMetrics, SliceProof, Validation
from pruning_bootcamp.runtime import environment
from pruning_bootcamp.tasks import Metric
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.tools.metrics import compare_metrics

Made = TypeVar("Made", Cycle, Metrics)
Whole = TypeVar("Whole", bound=Part)
Dones = Mapping[str, Done[Any]]
"""step -> what it came to, of those that are over"""


def collect(steps: Sequence[Step[Any]], done: Dones, cfg: Config, splits: Splits, device: torch.device) -> Metrics:
    """What is known so far: of a run that goes through, and of one that a gate stops.

    The metrics in front are the test split's; with goal.evaluate_test off they are the validation split's, under names
    of their own.
    """
    testing = cfg.goal.evaluate_test
    metric = task_of(cfg).metric
    validation, test = _judged(done, VALIDATION), _judged(done, TEST)
    metrics = _made(steps, done)
    baseline = NetworkMetrics()
    if COSTS in done:
        costs = done[COSTS].outcome
        baseline = costs.baseline
        metrics = overlaid(metrics, costs.pruned, costs.saved)
        metrics = replace(metrics, latency_measured=costs.latency_measured)
    if test is not None:
        baseline = replace(baseline, accuracy=test.baseline_accuracy)
        metrics = replace(metrics, accuracy=test.accuracy, loss=test.loss, test_images=test.images)
        before, after = NetworkMetrics(accuracy=test.baseline_accuracy), NetworkMetrics(accuracy=test.accuracy)
        metrics = overlaid(metrics, compared(before, after, metric))
    if validation is not None:
        metrics = replace(metrics, val_accuracy=validation.accuracy)
        before, after = (
            NetworkMetrics(accuracy=validation.baseline_accuracy),
            NetworkMetrics(accuracy=validation.accuracy),
        )
        lost = compared(before, after, metric)
        if testing:
            found = Validation(
                accuracy=validation.accuracy,
                baseline_accuracy=validation.baseline_accuracy,
                accuracy_drop=lost.accuracy_drop or 0.0,
                images=validation.images,
            )
            metrics = replace(metrics, validation=found)
        else:
            baseline = replace(baseline, val_accuracy=validation.baseline_accuracy)
            drop = round(metric.lost(validation.baseline_accuracy, validation.accuracy), 4)
            metrics = replace(metrics, val_loss=validation.loss, val_images=validation.images, val_accuracy_drop=drop)
    if test is not None and metrics.dense_fit is not None:
        word = memorised.settle(metrics.dense_fit, test.baseline_accuracy, test.images)
        metrics = replace(metrics, validation_was_trained_on=word)
    if EXPORT in done:
        exported = done[EXPORT].outcome
        metrics = replace(metrics, files=exported.files, dense_size_mb=exported.dense_size_mb)
    if PADDED in done:
        metrics = replace(metrics, padding=done[PADDED].outcome.padding)
    judged_on = "test" if test is not None else "validation"
    metrics = replace(metrics, baseline=baseline if COSTS in done else None, judged_on=judged_on)
    return about(metrics, cfg, splits, device)


def of_training(done: Dones, cfg: Config, splits: Splits, device: torch.device) -> Metrics:
    """What the training of a dense network came to."""
    outcome, test = done[DENSE].outcome, _judged(done, TEST)
    metrics = overlaid(Metrics(), done[COSTS].outcome.pruned)
    metrics = replace(
        metrics,
        val_accuracy=outcome.val_accuracy,
        val_images=len(splits.val),
        held_out=outcome.known.held_out,
        epochs=outcome.epochs,
        best_epoch=outcome.best_epoch,
        steps=outcome.steps,
        train_seconds=outcome.train_seconds,
        weights=done[COSTS].outcome.baseline.weights,
        judged_on="validation",
    )
    if test is not None:
        metrics = replace(metrics, judged_on="test", accuracy=test.accuracy, loss=test.loss, test_images=test.images)
    return about(metrics, cfg, splits, device)


def about(metrics: Metrics, cfg: Config, splits: Splits | None, device: torch.device) -> Metrics:
    """With the seed, the machine, and whose images its splits are."""
    if splits is not None:
        metrics = replace(metrics, val_split=splits.val_from, test_split=splits.test_from)
    return replace(metrics, seed=cfg.seed, environment=environment(device))


def compared(baseline: NetworkMetrics, pruned: NetworkMetrics, metric: Metric) -> Comparison:
    """What the pruned network saves and loses."""
    higher = metric.higher_is_better
    return from_plain(Comparison, compare_metrics(to_plain(baseline), to_plain(pruned), higher_is_better=higher))


def overlaid(whole: Whole, *parts: Part) -> Whole:
    """The same with every metric that the parts know."""
    for part in parts:
        known = {one.name: getattr(part, one.name) for one in fields(part) if one.name != "more"}
        whole = replace(whole, **{name: value for name, value in known.items() if value is not None})
    return whole


def _judged(done: Dones, name: str) -> Judged | None:
    return done[name].outcome if name in done else None


def _made(steps: Sequence[Step[Any]], done: Dones) -> Metrics:
    """What was done to the network, and what was otherwise than asked."""
    metrics = overlaid(Metrics(), done[DENSE].outcome.known) if DENSE in done else Metrics()
    cycles: dict[int, Cycle] = {}
    fall_backs: list[str] = []
    for step in steps:
        if step.name not in done or done[step.name].step != step.name:  # not done, or passed through
            continue
        outcome = done[step.name].outcome
        fall_backs += outcome.fall_backs
        if isinstance(outcome, Refitted):
            metrics = replace(metrics, refit=outcome.refit)
        if isinstance(outcome, Regularised):
            metrics = replace(metrics, grown_penalty=outcome.grown_penalty)
        if isinstance(outcome, Cut):
            metrics = _cut(metrics, outcome)
        if step.cycle and isinstance(outcome, Cut):
            cycles[step.cycle] = _cut_cycle(step.cycle, outcome)
        elif step.cycle and isinstance(outcome, Pruned):
            cycles[step.cycle] = _cycle(step.cycle, outcome, cycles.get(step.cycle))
        elif step.cycle in cycles:
            cycle = _followed(cycles[step.cycle], outcome)
            grown = getattr(outcome, "sparsity", None)
            cycles[step.cycle] = replace(
                cycle,
                fall_backs=(*cycle.fall_backs, *outcome.fall_backs),
                sparsity=cycle.sparsity if grown is None else grown,
            )
        elif isinstance(outcome, Cut):
            metrics = replace(
                metrics,
                val_accuracy_pruned=outcome.val_accuracy,
                batch_norm_reestimated=outcome.batch_norm_reestimated,
                batch_norm=outcome.batch_norm,
            )
        else:
            metrics = _followed(metrics, outcome)
            metrics = replace(metrics, updates=getattr(outcome, "updates", None) or metrics.updates)
    found = tuple(
        cycle if cycle.val_accuracy is not None else replace(cycle, val_accuracy=cycle.val_accuracy_pruned)
        for cycle in cycles.values()
    )
    if not found and metrics.val_accuracy is None:
        metrics = replace(metrics, val_accuracy=metrics.val_accuracy_pruned)
    if found or metrics.val_accuracy is not None:
        metrics = replace(metrics, fall_backs=tuple(dict.fromkeys(fall_backs)))  # each cycle says it again
    return replace(metrics, cycles=found or None)


def _cycle(number: int, outcome: Pruned, before: Cycle | None) -> Cycle:
    """`before`: the cycle after its stages so far."""
    return Cycle(
        cycle=number,
        sparsity=outcome.sparsity or 0.0,
        val_accuracy_pruned=outcome.val_accuracy,
        fall_backs=(*(before.fall_backs if before else ()), *outcome.fall_backs),
        pruning_seconds=outcome.pruning_seconds + ((before.pruning_seconds or 0.0) if before else 0.0),
        batch_norm_reestimated=outcome.batch_norm_reestimated,
        batch_norm=outcome.batch_norm,
    )


def _cut_cycle(number: int, outcome: Cut) -> Cycle:
    return Cycle(
        cycle=number,
        flops_reduction_pct=outcome.flops_reduction_pct,
        val_accuracy_pruned=outcome.val_accuracy,
        fall_backs=outcome.fall_backs,
        batch_norm_reestimated=outcome.batch_norm_reestimated,
        batch_norm=outcome.batch_norm,
    )


def _cut(metrics: Metrics, outcome: Cut) -> Metrics:
    """What is true of the network after this cut, however many there were; the proof that of the worst."""
    worst = max(
        (found for found in (outcome.proof_difference, _difference(metrics)) if found is not None), default=None
    )
    return replace(
        metrics,
        slice_proof=None if worst is None else SliceProof(max_difference=worst, passed=True),
        dead_channels=outcome.dead,
        widths=outcome.widths,
        round_to=outcome.round_to,
        round_to_narrow=outcome.round_to_narrow,
        forecasts=outcome.forecasts,
    )


def _difference(metrics: Metrics) -> float | None:
    return None if metrics.slice_proof is None else metrics.slice_proof.max_difference


def _followed(made: Made, outcome: Outcome) -> Made:
    """With what a refit or a training after the pruning came to."""
    if isinstance(outcome, Trained):
        return replace(
            made,
            val_accuracy=outcome.val_accuracy,
            best_epoch=outcome.best_epoch,
            fine_tune_seconds=outcome.fine_tune_seconds,
        )
    if not isinstance(outcome, Recovered):
        return made
    made = replace(made, distillation=outcome.distillation)
    if isinstance(outcome, Refitted):
        made = replace(made, batch_norm_reestimated=outcome.batch_norm_reestimated, batch_norm=outcome.batch_norm)
    if made.best_epoch is not None:
        return replace(made, val_accuracy=outcome.val_accuracy)
    return replace(made, val_accuracy_pruned=outcome.val_accuracy)
