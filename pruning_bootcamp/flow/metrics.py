"""Outcomes of steps -> the metrics of a run, the same whichever command ran them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pruning_bootcamp.config import Config
from pruning_bootcamp.flow.outcomes import (
    Costs,
    Cut,
    DenseNetwork,
    Exported,
    Judged,
    Outcome,
    Pruned,
    Recovered,
    Trained,
)
from pruning_bootcamp.flow.plan import COSTS, DENSE, EXPORT, TEST, VALIDATION
from pruning_bootcamp.flow.start import judged_on
from pruning_bootcamp.flow.step import Done, Step
from pruning_bootcamp.flow.steps import memorised
from pruning_bootcamp.memorised import HASH
from pruning_bootcamp.runtime import environment
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.tools.metrics import compare_metrics

Dones = Mapping[str, Done[Any]]
"""step -> what it came to, of those that are over"""


def collect(
    steps: Sequence[Step[Any]], done: Dones, cfg: Config, splits: Splits, device: torch.device
) -> dict[str, Any]:
    """What is known so far: of a run that goes through, and of one that a gate stops.

    The figures in front are the test split's; with goal.evaluate_test off they are the validation split's, under names
    of their own.
    """
    testing = cfg.goal.evaluate_test
    validation, test = _judged(done, VALIDATION), _judged(done, TEST)
    metrics: dict[str, Any] = {}
    baseline: dict[str, Any] = {}
    if COSTS in done:
        costs: Costs = done[COSTS].outcome
        baseline, metrics = dict(costs.baseline), dict(costs.pruned)
    kind = "" if testing else "val_"
    final = test if testing else validation
    found: dict[str, Any] = {}
    if final is not None:
        found = {
            f"{kind}accuracy": final.accuracy,
            f"{kind}loss": final.loss,
            f"{kind or 'test_'}images": final.images,
        }
        baseline[f"{kind}accuracy"] = final.baseline_accuracy
        metrics = found | metrics
    if COSTS in done:
        metrics |= compare_metrics(baseline, metrics) | done[COSTS].outcome.paired
    if testing and validation is not None:
        found["val_accuracy"] = validation.accuracy
        metrics["validation"] = _validation(validation)
    if not testing and final is not None:
        metrics["val_accuracy_drop"] = round(baseline["val_accuracy"] - metrics["val_accuracy"], 4)
    made = _made(steps, done)
    metrics |= {"baseline": baseline} if baseline else {}
    metrics |= made | found
    metrics |= judged_on(splits, (testing and test is not None) or (testing and validation is None))
    metrics |= {"seed": cfg.seed, "environment": environment(device)}
    if test is not None:
        metrics |= memorised.settle(made, test.baseline_accuracy, test.images)
    if EXPORT in done:
        exported: Exported = done[EXPORT].outcome
        metrics |= {"files": exported.files, "dense_size_mb": exported.dense_size_mb}
    return metrics


def of_training(done: Dones, cfg: Config, splits: Splits, device: torch.device) -> dict[str, Any]:
    """What the training of a dense network came to."""
    outcome: DenseNetwork = done[DENSE].outcome
    test = _judged(done, TEST)
    metrics: dict[str, Any] = {"val_accuracy": outcome.val_accuracy, "val_images": len(splits.val)}
    if test is not None:
        metrics = {"accuracy": test.accuracy, **metrics, "loss": test.loss, "test_images": test.images}
    cost = dict(done[COSTS].outcome.pruned)
    return {
        **metrics,
        **cost,
        **judged_on(splits, test is not None),
        HASH: outcome.known[HASH],
        "epochs": outcome.epochs,
        "best_epoch": outcome.best_epoch,
        "steps": outcome.steps,
        "train_seconds": outcome.train_seconds,
        "seed": cfg.seed,
        "weights": done[COSTS].outcome.baseline["weights"],
        "environment": environment(device),
    }


def _judged(done: Dones, name: str) -> Judged | None:
    return done[name].outcome if name in done else None


def _validation(found: Judged) -> dict[str, Any]:
    """What the gates judge before the test images are looked at: both networks on the validation images."""
    compared = compare_metrics({"accuracy": found.baseline_accuracy}, {"accuracy": found.accuracy})
    return {
        "accuracy": found.accuracy,
        "baseline_accuracy": found.baseline_accuracy,
        **compared,
        "images": found.images,
    }


def _made(steps: Sequence[Step[Any]], done: Dones) -> dict[str, Any]:
    """What was done to the network, and what was otherwise than asked."""
    metrics: dict[str, Any] = {}
    cycles: dict[int, dict[str, Any]] = {}
    fall_backs: list[str] = []
    for step in steps:
        if step.name not in done or done[step.name].step != step.name:  # not done, or passed through
            continue
        outcome = done[step.name].outcome
        into = metrics
        if step.cycle:
            into = cycles.setdefault(step.cycle, {"cycle": step.cycle})
            into["fall_backs"] = [*into.get("fall_backs", []), *outcome.fall_backs]
        into |= _figures(outcome, "best_epoch" in into)
        fall_backs += outcome.fall_backs
    for cycle in cycles.values():
        cycle.setdefault("val_accuracy", cycle.get("val_accuracy_pruned"))
    if cycles:
        metrics["cycles"] = list(cycles.values())
    elif "val_accuracy_pruned" in metrics:
        metrics.setdefault("val_accuracy", metrics["val_accuracy_pruned"])
    if cycles or metrics:
        metrics["fall_backs"] = list(dict.fromkeys(fall_backs))  # each cycle says it again
    return metrics | (dict(done[DENSE].outcome.known) if DENSE in done else {})


def _figures(outcome: Outcome, trained: bool) -> dict[str, Any]:
    """A step's part of the metrics; `trained`: the network was trained with labels since it was pruned."""
    if isinstance(outcome, Trained):
        found: dict[str, Any] = {
            "val_accuracy": outcome.val_accuracy,
            "best_epoch": outcome.best_epoch,
            "fine_tune_seconds": outcome.seconds,
        }
        return found | ({"updates": outcome.updates} if outcome.updates else {})
    if not isinstance(outcome, Recovered):
        return {}
    found = {"val_accuracy" if trained else "val_accuracy_pruned": outcome.val_accuracy}
    if outcome.sparsity is not None:
        found["sparsity"] = outcome.sparsity
    if isinstance(outcome, Pruned):
        found["pruning_seconds"] = outcome.pruning_seconds
    if isinstance(outcome, Cut):
        found |= {
            "slice_proof": {"max_difference": outcome.proof_difference, "passed": True},
            "widths": outcome.widths,
            "round_to": outcome.round_to,
        }
        found |= {"round_to_narrow": outcome.round_to_narrow} if outcome.round_to_narrow else {}
    if outcome.batch_norm_reestimated is not None:
        found |= {"batch_norm_reestimated": outcome.batch_norm_reestimated, "batch_norm": outcome.batch_norm}
    return found | ({"distillation": outcome.distillation} if outcome.distillation else {})
