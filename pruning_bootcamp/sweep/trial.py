"""One trial, in whichever process: a spec -> the ordinary stage in the trial's own folder -> its metrics."""

import copy
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pruning_bootcamp.backends import prepare
from pruning_bootcamp.checkpoints import (
    Checkpoint,
    Recipe,
    example_input,
    load_checkpoint,
    save_sparse_checkpoint,
)
from pruning_bootcamp.checkpoints.stored import Stored, table
from pruning_bootcamp.config import Config, with_values
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.evaluation import cost_of
from pruning_bootcamp.flow.commands import prune_structured, prune_unstructured, train
from pruning_bootcamp.flow.machine import STAGES
from pruning_bootcamp.flow.run import Watch
from pruning_bootcamp.flow.start import open_data, recipe_for, task_of
from pruning_bootcamp.locks import owner_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import Plain, to_plain
from pruning_bootcamp.results import Cost, Metrics, TrialResult
from pruning_bootcamp.runs import read_results, scratch_folder, write_yaml
from pruning_bootcamp.runtime import choose_device, preserved_rng
from pruning_bootcamp.sweep.median_pruner import Finished, is_below_median
from pruning_bootcamp.sweep.settings import SweepSettings
from pruning_bootcamp.sweep.showing import NETWORKS
from pruning_bootcamp.tasks.base import with_one_output
from pruning_bootcamp.tools.latency import LatencyStats, measure_latency_with_stats
from pruning_bootcamp.tools.modes import beside
from pruning_bootcamp.training.hooks import Hook, StepState

TRIAL = "trial.yaml"
COSTS = ("flops_g", "latency_ms", "size_mb")
_LOCK_SECONDS = 20.0

ReportLine = Callable[[str], None]


@dataclass(frozen=True)
class TrialSpec:
    """What a worker is given: plain values, so that it can be sent to another process or machine."""

    number: int
    command: str
    config: dict[str, Any]
    folder: str
    fingerprint: str
    cost: str
    others: tuple[Finished, ...] = ()
    early: SweepSettings | None = None
    """what says when it is stopped early; None: never"""


class Stopped(Exception):
    """The trial is below the median, and ends."""


class TrialCallback(Hook):
    """Reports every epoch's validation accuracy, and stops the training once it is below the median."""

    def __init__(self, spec: TrialSpec, cycle: int, last: bool, curve: dict[int, float], report: ReportLine) -> None:
        self._spec, self._cycle, self._curve, self._report = spec, cycle, curve, report
        self._judges = last and spec.early is not None
        self._weight: float | None = None

    def on_epoch_end(self, state: StepState) -> None:
        """Reports the epoch, counted over all cycles; raises Stopped where the last cycle is below the median.

        Nothing is stopped after its last step: it is paid for.
        """
        epochs = -(-state.total_steps // state.steps_per_epoch)
        epoch = (self._cycle - 1) * epochs + state.epoch
        assert state.metrics is not None
        self._curve[epoch] = state.metrics.val_accuracy
        self._report(f"epoch {epoch}: {self._curve[epoch]:.2f}%")
        if self._judges and state.step < state.total_steps and self._is_below_median(state):
            raise Stopped(f"at epoch {epoch}, {self._curve[epoch]:.2f}%: below the median of those that cost no more")

    def _is_below_median(self, state: StepState) -> bool:
        early, others = self._spec.early, self._spec.others
        if early is None or len(others) < early.startup_trials:
            return False
        if self._weight is None:
            with preserved_rng():
                cfg = config_of(self._spec)
                recipe = recipe_for(cfg, open_data(cfg))
                self._weight = running_cost(state.model, recipe, state.masks, self._spec)
        return is_below_median(self._curve, self._weight, others, early)

    def state_dict(self) -> dict[str, Stored]:
        """The validation accuracies so far, by epoch."""
        return {"curve": dict(self._curve)}

    def load_state_dict(self, saved: Mapping[str, Stored]) -> None:
        """Adds the saved epochs to those of earlier cycles."""
        for epoch, accuracy in table(saved["curve"], "the trial's curve").items():
            assert isinstance(accuracy, float), accuracy
            self._curve[epoch] = accuracy


def run_trial(spec: TrialSpec, report: ReportLine) -> TrialResult:
    """Run the trial, or what is left of it. A problem with these settings is a failed trial, not an error."""
    folder = Path(spec.folder)
    if (known := finished_trial(folder, spec.fingerprint)) is not None:
        return replace(known, number=spec.number, fingerprint=None)
    _wait_for(folder)
    began = time.perf_counter()
    cfg = config_of(spec)
    curve: dict[int, float] = {}
    gradual_or_later = cfg.prune.gradual and spec.cost != "flops_g"  # what it will cost is not known before the end
    cycles = {"prune-unstructured": cfg.prune.iterations, "prune-structured": cfg.structured.iterations}
    last_cycle = cycles.get(spec.command, 1)

    def watch(cycle: int) -> Sequence[Hook]:
        return [TrialCallback(spec, cycle, cycle == last_cycle and not gradual_or_later, curve, report)]

    try:
        metrics = _run(spec.command, cfg, watch)
        # the code that this very run built it with
        network = load_checkpoint(folder / NETWORKS[spec.command], trust_code=True)
        values, weight, way = _metrics(metrics, metrics.val_accuracy, network, spec)
        result = TrialResult(spec.number, "complete", values, curve, weight, latency_way=way)
    except Stopped as stopped:
        LOGGER.info("Stopped early: %s", stopped)
        shutil.rmtree(folder / STAGES, ignore_errors=True)
        best = {"accuracy": max(curve.values())}
        result = TrialResult(spec.number, "pruned", best, curve, reason=str(stopped))
    except BootcampError as error:
        halted = isinstance(error.__cause__, OSError) or owner_of(folder) is not None
        if halted:  # a full disk says nothing about the settings
            return TrialResult(spec.number, "halted", reason=str(error))
        result = TrialResult(spec.number, "failed", {}, curve, reason=str(error))
    result = replace(result, seconds=round(time.perf_counter() - began, 2))
    write_yaml(folder / TRIAL, to_plain(replace(result, fingerprint=spec.fingerprint)), "validation metrics")
    return result


def _run(command: str, cfg: Config, watch: Watch) -> Metrics:
    if command == "train":
        return train(cfg, watch=watch)
    if command == "prune-structured":
        return prune_structured(cfg, watch=watch)
    return prune_unstructured(cfg, watch=watch)


def finished_trial(folder: Path, fingerprint: str) -> TrialResult | None:
    """What a trial with these very settings came to in this folder, if it is over."""
    path = folder / TRIAL
    result = read_results(TrialResult, path) if path.exists() else None
    return result if result is not None and result.fingerprint == fingerprint else None


def config_for(cfg: Config, settings: Mapping[str, Plain], folder: Path, checkpoint: Path | None) -> Config:
    """The config of a trial: the sweep's with these settings, its own folder, and the test split unread."""
    trial = with_values(cfg, settings)
    trial.save_dir, trial.checkpoint = str(folder), None if checkpoint is None else str(checkpoint)
    trial.goal.evaluate_test = False
    trial.sweep = SweepSettings()
    return trial


def config_of(spec: TrialSpec) -> Config:
    """The spec's config, as it was before it travelled."""
    return with_values(Config(), copy.deepcopy(spec.config))


def running_cost(model: torch.nn.Module, recipe: Recipe, masks: Mapping[str, torch.Tensor], spec: TrialSpec) -> float:
    """What a network costs, as far as that can be told while it trains: for size_mb, how many weights are stored."""
    if spec.cost == "size_mb":
        stored = sum(parameter.numel() for parameter in model.parameters())
        return float(stored - sum(int((~mask).sum()) for mask in masks.values()))
    if spec.cost == "flops_g":
        return cost_of(model, example_input(recipe))[1].macs / 1e9
    return round(latency_of(model, recipe, spec).median_ms, 4)


def latency_of(model: torch.nn.Module, recipe: Recipe, spec: TrialSpec) -> LatencyStats:
    """Of a batch, by the first of profile.backend, timed here and now; beside other workers, roughly."""
    cfg = config_of(spec)
    batch = beside(model, example_input(recipe, cfg.profile.batch_size))
    runner = prepare(cfg.profile.backends[0], with_one_output(model, batch, task_of(cfg)), batch)
    return measure_latency_with_stats(runner, batch, runs=cfg.profile.runs, min_seconds=0.2, warmup_seconds=0.1)


def _metrics(
    cost: Cost, accuracy: float | None, checkpoint: Checkpoint, spec: TrialSpec
) -> tuple[dict[str, float], float, str]:
    """The trial's metrics, every cost among them (size_mb: of the sparse file), what later trials compare with, and how
    the latency was measured."""
    known = {"accuracy": accuracy, "flops_g": cost.flops_g, "params_m": cost.params_m, "sparsity": cost.sparsity}
    metrics = {name: value for name, value in known.items() if value is not None}
    device, _ = choose_device(config_of(spec).device)
    with scratch_folder() as scratch:
        path = scratch / "model.safetensors"
        save_sparse_checkpoint(path, checkpoint.model, checkpoint.recipe, masks=checkpoint.masks or None)
        size_mb = path.stat().st_size / 1e6
    model = checkpoint.model.to(device)
    latency = latency_of(model, checkpoint.recipe, spec)
    values = {
        "accuracy": metrics["accuracy"],
        "flops_g": metrics["flops_g"],
        "latency_ms": round(latency.median_ms, 4),
        "size_mb": size_mb,
        "params_m": metrics["params_m"],
        "sparsity": metrics["sparsity"],
    }
    if spec.cost == "latency_ms":
        return values, values["latency_ms"], latency.way
    return values, running_cost(model, checkpoint.recipe, checkpoint.masks, spec), latency.way


def dense_costs(checkpoint: Checkpoint, accuracy: float, spec: TrialSpec) -> tuple[dict[str, float], str]:
    """The same metrics of the dense network, the corner from which the hypervolume is measured; how it was timed."""
    cost, _ = cost_of(checkpoint.model.cpu(), example_input(checkpoint.recipe), checkpoint.masks)
    values, _, way = _metrics(cost, accuracy, checkpoint, spec)
    return values, way


def _wait_for(folder: Path) -> None:
    """A worker whose master was killed may need a moment to notice; its trial is ours then."""
    until = time.monotonic() + _LOCK_SECONDS
    while owner_of(folder) is not None and time.monotonic() < until:
        time.sleep(0.1)
