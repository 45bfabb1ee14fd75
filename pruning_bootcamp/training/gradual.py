"""Gradual pruning: the sparsity grows while the network trains (Zhu & Gupta, 2017)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from pruning_bootcamp.checkpoints.stored import Stored
from pruning_bootcamp.duration import Duration, parse_duration
from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import Part, from_plain, to_plain
from pruning_bootcamp.pruning.masks import Masks, detached_copy
from pruning_bootcamp.pruning.sections import PruneSettings
from pruning_bootcamp.pruning.stats import Batches
from pruning_bootcamp.pruning.weights.schedules import SCHEDULES, check_schedule
from pruning_bootcamp.pruning.weights.unstructured import UnstructuredResult, prune_unstructured
from pruning_bootcamp.results import Update
from pruning_bootcamp.schema import Choice, named
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.training.hooks import Hook, StepState

_MANY = 10_000  # steps per epoch, where only epochs and shares are compared and the real number is not known yet


@dataclass(frozen=True, kw_only=True)
class _State(Part):
    """How far the pruning is, for a resume."""

    points: tuple[Update, ...]
    pruned_before: float | None
    fall_backs: tuple[str, ...] = ()


class GradualPruning(Hook):
    """Prunes at steps `begin`, `begin` + `frequency`, ... and `end`; the last time to exactly `target`.

    The sparsity at t (0 at `begin`, 1 at `end`) is s_0 + (target - s_0) * schedule(t), where s_0 is what was pruned
    when the training began. What is pruned stays pruned. Times are durations ("500it", "3ep") or shares of the training
    ("75%"). How to prune and when is said by `settings`, or by its fields as keywords (score="magnitude",
    schedule="cubic", begin="0%"); `batches` gives the data of a score that needs some, the same each time.
    """

    def __init__(
        self,
        target: float,
        settings: PruneSettings | None = None,
        *,
        batches: Callable[[], Batches | None] | None = None,
        seed: int = 0,
        task: Task = IMAGE_CLASSIFICATION,
        **names: Any,
    ) -> None:
        self.settings = s = settings or named(PruneSettings, **names)
        problems = check_gradual(s.begin, s.end, s.frequency) + check_schedule(s.schedule.name, s.schedule.args)
        if problems:
            raise BootcampError(*problems)
        self.target, self.batches, self.seed, self.task = target, batches, seed, task
        self.masks: Masks = {}
        """True where a weight stays, as far as the training has come"""
        self.points: list[Update] = []
        """every update so far"""
        self.fall_backs: list[str] = []
        """what the updates did otherwise than asked, each once"""
        self._plan: dict[int, float] = {}
        self._pruned_before: float | None = None

    def on_start(self, state: StepState) -> None:
        """Plans the updates; at the first start the target is tried on a copy: one that can't be reached fails now."""
        s = self.settings
        times = update_steps(s.begin, s.end, s.frequency, state.total_steps, state.steps_per_epoch)
        self.masks = dict(state.masks)
        if self._pruned_before is None:
            # tried once on a copy: a target that can't be reached is an error now, and not in the middle
            trial = self._prune(state, self.target)
            self._pruned_before = _share_pruned(trial, self.masks)
            say_left_out(trial)
        self._plan = planned_sparsities(times, self._pruned_before, self.target, s.schedule)
        LOGGER.info(
            "Gradual pruning: %s from %.2f%% to %.2f%%, %d updates from step %d to %d of %d",
            s.schedule.name,
            100 * self._pruned_before,
            100 * self.target,
            len(times),
            times[0],
            times[-1],
            state.total_steps,
        )
        self._update(state)

    def on_step_end(self, state: StepState) -> None:
        """Prunes where an update is due at this step."""
        self._update(state)

    def _update(self, state: StepState) -> None:
        """Prune when the plan says so, unless that was done before the training was stopped."""
        step = state.step
        if step not in self._plan or (self.points and self.points[-1].step >= step):
            return
        earlier = [sparsity for time, sparsity in self._plan.items() if time < step]
        if self._plan[step] > max([*earlier, self._pruned_before or 0.0]) or step == max(self._plan):
            result = self._prune(state, self._plan[step])
            state.set_masks(result.masks)
            self.masks, sparsity = dict(state.masks), result.sparsity
            self.fall_backs = list(dict.fromkeys([*self.fall_backs, *result.fall_backs]))
        else:
            sparsity = self.points[-1].sparsity if self.points else self._pruned_before or 0.0
        self.points.append(Update(step=step, sparsity=round(sparsity, 6)))
        LOGGER.info("Step %d: %.2f%% pruned", step, 100 * sparsity)

    def _prune(self, state: StepState, sparsity: float) -> UnstructuredResult:
        """The engine's masks at this sparsity. It works on a copy: the training's own weights obey `set_masks`."""
        network = detached_copy(state.model)
        batches = self.batches() if self.batches is not None else None
        result = prune_unstructured(
            network,
            replace(self.settings, sparsity=sparsity),
            previous=state.masks or None,
            stats_batches=batches,
            seed=self.seed,
            task=self.task,
        )
        _agree(result.masks, next(network.parameters()).device)
        return result

    def state_dict(self) -> dict[str, Stored]:
        """The updates so far, and the sparsity that they started from; the masks are the training's."""
        state = _State(points=tuple(self.points), pruned_before=self._pruned_before, fall_backs=tuple(self.fall_backs))
        return {**to_plain(state)}

    def load_state_dict(self, saved: Mapping[str, Stored]) -> None:
        """Goes on behind those updates: the target is not tried again."""
        state = from_plain(_State, saved, "the resume point")
        self.points, self.fall_backs = list(state.points), list(state.fall_backs)
        self._pruned_before = state.pruned_before


def update_steps(
    begin: int | str, end: int | str, frequency: int | str, total_steps: int, steps_per_epoch: int
) -> list[int]:
    """The optimiser steps after which is pruned (0: before the first). BootcampError when they don't fit."""
    if problems := check_gradual(begin, end, frequency):
        raise BootcampError(*problems)
    first, last, every = (_steps(text, total_steps, steps_per_epoch) for text in (begin, end, frequency))
    if not first < last <= total_steps:
        raise BootcampError(_out_of_order(begin, end, f"{total_steps} steps", f"; here steps {first} and {last}"))
    return [*range(first, last, max(every, 1)), last]


def planned_sparsities(steps: list[int], start: float, target: float, schedule: Choice) -> dict[int, float]:
    """The sparsity after each of the steps; after the last it is the target itself."""
    growth, first, last = SCHEDULES[schedule.name], steps[0], steps[-1]
    shares = {step: growth((step - first) / (last - first), **schedule.args) for step in steps}
    return {step: start + (target - start) * share for step, share in shares.items()} | {last: target}


def check_gradual(
    begin: int | str, end: int | str, frequency: int | str, training: Duration | None = None, where: str = "prune"
) -> list[Problem]:
    """Every problem with the times that can be seen before any work; with `training`, how long that is."""
    problems, parts = [], []
    for name, text in (("begin", begin), ("end", end), ("frequency", frequency)):
        try:
            parts.append(_parse(text, f"{where}.{name}"))
        except BootcampError as error:
            problems += error.located()
    if problems or training is None:
        return problems
    units = {part.unit for part in (*parts, training) if isinstance(part, Duration) and part.value}
    if units == {"ep", "it"}:
        return []  # how long an epoch is, is known when the data is: update_steps looks then
    total = training.steps(_MANY)
    first, last = (_steps(text, total, _MANY) for text in (begin, end))
    return [] if first < last <= total else [Problem(f"{where}.end", f"{_out_of_order(begin, end, str(training))}")]


def say_left_out(result: UnstructuredResult) -> None:
    """What was not pruned, and why."""
    for layer, reason in result.skipped.items():
        LOGGER.info("  skipped %s: %s", layer, reason)
    for layer, reason in result.left_out.items():
        LOGGER.info("  left out %s: %s", layer, reason)
    for note in result.notes:
        LOGGER.info("  note: %s", note)


def _out_of_order(begin: int | str, end: int | str, length: str, more: str = "") -> str:
    return (
        f"pruning from {begin} to {end} does not fit into {length} of training{more}. It must end after it begins, and "
        "not after the training."
    )


def _parse(text: int | str, where: str) -> Duration | float:
    """A duration, or a share of the training: "75%" is 0.75."""
    if isinstance(text, str) and text.strip().endswith("%"):
        try:
            share = float(text.strip().removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise BootcampError(f"{text!r} is not a share of the training, 0% to 100%.", where=where)
        return share
    try:
        return parse_duration(text, where)
    except BootcampError:
        raise BootcampError(
            f"{text!r} is no time in a training. Write 3ep (epochs), 500it (steps) or 75% (of the training).",
            where=where,
        ) from None


def _steps(text: int | str, total_steps: int, steps_per_epoch: int) -> int:
    part = _parse(text, "gradual")
    return part.steps(steps_per_epoch) if isinstance(part, Duration) else round(part * total_steps)


def _share_pruned(result: UnstructuredResult, masks: Mapping[str, torch.Tensor]) -> float:
    """What the masks prune, of the weights that the engine counts: those in layers that the pattern fits."""
    counted = [layer for layer in result.layers if layer.name not in result.skipped]
    gone = sum(int((~masks[layer.name]).sum()) for layer in counted if layer.name in masks)
    return gone / max(sum(layer.size for layer in counted), 1)


def _agree(masks: Masks, device: torch.device) -> None:
    """Several processes prune what the first one would: sums of gradients can differ in their last bits."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for name in sorted(masks):
            keep = masks[name].to(device, torch.uint8)
            dist.broadcast(keep, src=0)
            masks[name] = keep.bool().to(masks[name].device)
