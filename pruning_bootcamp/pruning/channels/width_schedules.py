"""How a group may shrink: its units in the order they go, and where it may stop."""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruning_bootcamp.pruning.graph import Group


@dataclass(frozen=True)
class WidthSchedule:
    """How a group may shrink: its units from the worst to the best, and the numbers of them which may go.

    `removed` begins with 0. `keys[i]` says when the step to `removed[i + 1]` is due: the smallest of all groups goes
    first.
    """

    name: str
    order: tuple[int, ...]
    removed: tuple[int, ...]
    keys: tuple[float, ...]
    gone_before: int = 0
    """units that earlier cuts took"""

    @property
    def width(self) -> int:
        """Units before any cut."""
        return len(self.order) + self.gone_before

    def step(self, number: int) -> tuple[int, ...]:
        """The units that go in step `number` (from 0)."""
        return self.order[self.removed[number] : self.removed[number + 1]]

    def gone(self, steps: int) -> tuple[int, ...]:
        """All units that go in so many steps."""
        return self.order[: self.removed[steps]]


def make_width_schedule(
    group: Group,
    score: Tensor,
    *,
    allocation: Literal["local", "global", "measured"],
    round_to: int | None,
    min_width: int,
    max_sparsity: float,
    channels_before: int | None = None,
    may_go: bool = False,
) -> WidthSchedule:
    """The schedule of one group; ties in the score go by the lowest channel.

    `may_go`: its last step takes all that is left, whatever the limits.

    `channels_before`: of the group before earlier cuts; `max_sparsity`, and shares of the group, are of those.

    local: a step's key is the share of the group that is gone after it, so all groups shrink alike. global: its key is
    the mean score of its units over the mean score of the group, so groups with large weights are not spared for it.
    measured: as global, where a key is asked for.
    """
    order = torch.sort(score, stable=True).indices
    a_unit = group.channels / group.width
    width = group.width if channels_before is None else round(channels_before / a_unit)
    gone_before = width - group.width
    removed = [0]
    for gone in range(1, group.width):
        channels = (group.width - gone) * a_unit
        fits = round_to is None or channels % round_to == 0
        if fits and channels >= min_width and gone_before + gone <= max_sparsity * width + 1e-9:
            removed.append(gone)
    if may_go:
        removed.append(group.width)
    mean = float(score.mean())
    relative = (score / mean if mean > 0 else score)[order].tolist()
    steps = list(itertools.pairwise(removed))
    if allocation == "local":
        keys = [(gone_before + after) / width for _, after in steps]
    else:
        keys = [sum(relative[before:after]) / (after - before) for before, after in steps]
    return WidthSchedule(group.name, tuple(order.tolist()), tuple(removed), tuple(keys), gone_before)


def nearest_step(schedule: WidthSchedule, share: float) -> int:
    """Steps after which `round(share * width)` units are gone, or as near as its steps allow (the fewer on a tie)."""
    wanted = round(share * schedule.width) - schedule.gone_before
    return min(range(len(schedule.removed)), key=lambda number: (abs(schedule.removed[number] - wanted), number))
