"""Trials that are stopped early: less accurate at an epoch than the median of the finished ones that cost no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning_bootcamp.sweep.settings import SweepSettings

Curve = Mapping[int, float]  # epoch, over all cycles -> validation accuracy


@dataclass(frozen=True)
class Finished:
    """A trial to compare with."""

    cost: float
    curve: Curve


def is_below_median(curve: Curve, cost: float, others: Sequence[Finished], sweep: SweepSettings) -> bool:
    """Optuna's median rule, asked about the finished trials that cost no more than this one.

    A trial that costs less than all of them is never stopped: it is on the front whatever its accuracy. (Optuna's
    pruners know one objective; accuracy alone would stop exactly the cheap networks that a sweep looks for.)
    """
    import optuna

    cheaper = [other for other in others if other.cost <= cost]
    if len(cheaper) < sweep.startup_trials:
        return False
    study = optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())
    for other in cheaper:
        study.add_trial(_frozen(other.curve, optuna.trial.TrialState.COMPLETE))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=sweep.startup_trials, n_warmup_steps=sweep.warmup_epochs)
    return pruner.prune(study, _frozen(curve, optuna.trial.TrialState.RUNNING))


def _frozen(curve: Curve, state: Any) -> Any:
    import optuna

    value = max(curve.values(), default=0.0) if state.is_finished() else None
    return optuna.trial.create_trial(state=state, value=value, intermediate_values=dict(curve))
