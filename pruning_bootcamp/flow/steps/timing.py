"""Budgets in time, in the flow's words: how networks are timed as `profile` says, and milliseconds as a share."""

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from pruning_bootcamp.backends import Way
from pruning_bootcamp.checkpoints import Recipe, example_input
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import GoalNotMet
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.flow.step import StepContext
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.channels.race import RaceTrack
from pruning_bootcamp.pruning.channels.structured import quickest
from pruning_bootcamp.pruning.channels.time_budget import Timing, within
from pruning_bootcamp.pruning.sections import StructuredSettings
from pruning_bootcamp.tasks.base import with_one_output


def timing(
    cfg: Config, uncut: nn.Module, recipe: Recipe, device: torch.device, context: StepContext | None = None
) -> Timing:
    """The track on which cut networks run beside the uncut one, as `profile` of the config says.

    `context`: of the step that it is for, which tells how far the timing of layers is.
    """
    ways = [Way(backend, size) for backend in cfg.profile.backends for size in cfg.profile.batch_sizes]
    threads = cfg.threads or torch.get_num_threads()
    whole = partial(with_one_output, task=task_of(cfg))
    track = RaceTrack(uncut, example_input(recipe), ways, threads, device, whole)
    if context is None:
        return Timing(track, LOGGER.info, bar=True)
    return Timing(track, LOGGER.info, bar=not context.is_shown, tell=context.tell)


def as_share(settings: StructuredSettings, timing: Timing) -> StructuredSettings:
    """The budget as a share of the uncut network's time; GoalNotMet where that takes no longer than is asked."""
    asked = settings.target_latency_ms
    if asked is None:
        return settings
    taken = timing.track.uncut_ms()
    way = max(taken, key=lambda way: taken[way])
    LOGGER.info("The uncut network takes %.3f ms (%s)", taken[way], way)
    if taken[way] <= asked:
        raise GoalNotMet(
            f"structured.target_latency_ms: {asked:g} ms, and the uncut network takes {taken[way]:.3f} ms already "
            f"({way}). Ask for less."
        )
    return replace(settings, target_latency_ms=None, target_latency_reduction=1 - asked / taken[way])


def check_time(settings: StructuredSettings, model: nn.Module, recipe: Recipe, timing: Timing) -> None:
    """A GoalNotMet where even the network that is cut as far as the limits allow takes longer than is asked."""
    asked = as_share(settings, timing).target_latency_reduction
    assert asked is not None
    least = quickest(model, example_input(recipe), settings, timing)
    if least is None or least.share <= 1 - asked + within(1 - asked):
        return
    raise GoalNotMet(
        f"{100 * asked:.1f}% less time can't be had: cut as far as the limits allow (structured.max_sparsity="
        f"{settings.max_sparsity:g}) the network takes {least}. Ask for {100 * (1 - least.share):.0f}% or less, raise "
        "structured.max_sparsity, or take another --backend."
    )
