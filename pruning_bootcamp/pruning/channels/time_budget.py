"""Widths for a budget in time: the least loss for what each layer was measured to take, judged by the whole network.

A knapsack over the layers' times says which widths lose least for so much time; what those come to is then measured,
on the whole network in turn with the uncut one, and the knapsack is asked for more or less until it is what was asked.
Layers alone don't say everything (a layer whose width a runtime dislikes slows its neighbours too), so widths in
several multiples compete, and the whole network decides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends import Way
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.pruning.channels.costs import Costs
from pruning_bootcamp.pruning.channels.knapsack import least_loss
from pruning_bootcamp.pruning.channels.race import Race, RaceTrack
from pruning_bootcamp.pruning.channels.staircase import Staircases, measure_staircases
from pruning_bootcamp.pruning.channels.width_schedules import WidthSchedule
from pruning_bootcamp.pruning.graph import Group
from pruning_bootcamp.tools.alone import LayerShape

WITHIN = 0.05
_LEAST_WITHIN = 0.01  # of the uncut network's time: no two timings agree better
# The search aims a little below what is asked, and ends where it is this near: two timings differ by as much.
_AIM, _NEAR, _NOISE = 0.99, 0.015, 0.005
_MULTIPLES = (None, 4, 8, 16)
_MOST_RACES = 6


def within(share: float) -> float:
    """How far from the asked share of the uncut network's time the achieved one may be: 5% of it, and of what is saved.

    A share too; 0.01 at least.
    """
    return max(_LEAST_WITHIN, WITHIN * min(share, 1 - share))


@dataclass(frozen=True)
class Timing:
    """What a budget in time is judged by: the track on which whole networks run, and who is told of each of them."""

    track: RaceTrack
    say: Callable[[str], None] = lambda text: None

    def staircases(self, model: nn.Module, example: Tensor, groups: Sequence[Group]) -> list[Staircases]:
        """How long the layers take at other widths, on each way."""
        found = []
        for way in self.track.ways:

            def say(number: int, total: int, shape: LayerShape, way: Way = way) -> None:
                self.say(f"Timing layers of {way}: {number + 1} of {total}, {shape}")

            one = measure_staircases(model, example, groups, way, self.track.threads, self.track.device, say)
            self.say(f"{one.measured} timings of layers in {one.seconds:.0f} s, {one.kept} known before ({way})")
            found.append(one)
        return found


@dataclass
class TimeSearch:
    """What was tried, and the best: its steps by group, and how the whole network did."""

    taken: dict[str, int] = field(default_factory=dict)
    race: Race | None = None
    loss: float = float("inf")
    multiple: int | None = None
    rank: tuple[int, float] | None = None
    tried: list[tuple[int | None, float, float, float]] = field(default_factory=list)
    """multiple, share of the layers' time foreseen, share of the whole network's measured, loss"""

    @property
    def share(self) -> float:
        """Of the uncut network's time; 1 where nothing was cut."""
        return 1.0 if self.race is None else self.race.share


def search_time(
    costs: Callable[[], Costs],
    groups: Sequence[Group],
    schedules: Sequence[WidthSchedule],
    losses: Mapping[str, Tensor],
    timing: Timing,
    stairs: Sequence[Staircases],
    share: float,
    cut: Callable[[Mapping[str, int]], nn.Module],
) -> TimeSearch:
    """Steps by group, so that the network takes `share` of the uncut one's time at the least sum of losses.

    `costs`: anew, nothing cut. `losses`: group -> what is lost once none, one, two, ... units are gone. `cut` gives the
    network without so many steps of each group. What was asked may not be reached: the nearest is given then.
    """
    found = TimeSearch()
    wanted = share * _AIM
    rivals = {multiple: _in_multiples(schedules, groups, stairs, multiple) for multiple in _MULTIPLES}
    points: dict[int | None, list[tuple[float, float]]] = {}

    def attempt(multiple: int | None, asked: float) -> Race | None:
        """The knapsack's widths for this share of the layers' time, as the whole network does; None: none are left."""
        some = rivals[multiple]
        counted = costs()
        steps = least_loss(counted, some, losses, "time", asked)
        named = {schedule.name: schedule for schedule in some}
        taken = {name: _back(named[name], schedules_by[name], count) for name, count in steps.items()}
        if any(taken == earlier for earlier in seen):
            return None
        seen.append(taken)
        race = timing.track(cut(taken))
        loss = sum(float(losses[name][named[name].removed[count]]) for name, count in steps.items())
        points.setdefault(multiple, []).append((counted.amount["time"], race.share))
        found.tried.append((multiple, counted.amount["time"], race.share, loss))
        in_multiples = "" if multiple is None else f" in multiples of {multiple}"
        timing.say(f"Widths{in_multiples}: {race}")
        rank = _rank(race.share, loss, share)
        if found.rank is None or rank < found.rank:
            found.rank = rank
            found.taken, found.race, found.loss, found.multiple = taken, race, loss, multiple
        return race

    schedules_by = {schedule.name: schedule for schedule in schedules}
    seen: list[dict[str, int]] = [dict.fromkeys(schedules_by, 0)]
    for multiple in _MULTIPLES:
        attempt(multiple, wanted)
    best = min(
        points, key=lambda multiple: _loss_at(costs, rivals[multiple], losses, points[multiple], wanted), default=None
    )
    for _ in range(_MOST_RACES):
        if best not in points or (abs(found.share / wanted - 1) <= _NEAR and found.multiple == best):
            break
        if attempt(best, _next(points[best], wanted)) is None:
            break
    for leeway in (0.0, 0.5, 1.0):  # steps may be too coarse for the aim, and not for what is allowed
        if found.rank is not None and found.rank[0] < 2:
            break
        for multiple in _MULTIPLES:
            attempt(multiple, share + leeway * within(share))
    return found


def _rank(share: float, loss: float, asked: float) -> tuple[int, float]:
    """The smaller the better: what is as quick as asked by what it loses, what is nearly so, then the nearest."""
    off, most = share - asked, within(asked)
    if -most <= off <= _NOISE * asked:
        return 0, loss
    return (1, off) if 0 < off <= most else (2, abs(off))


def _next(points: Sequence[tuple[float, float]], wanted: float) -> float:
    """The share of the layers' time to ask for next: on the line through the nearest known points around it."""
    known = sorted([(1.0, 1.0), *points])
    below = [point for point in known if point[1] <= wanted]
    above = [point for point in known if point[1] > wanted]
    if not below:  # all were too slow: go on at the slope seen so far
        (x1, y1), (x0, y0) = known[0], known[1]
        slope = max((y0 - y1) / max(x0 - x1, 1e-9), 0.25)
        return max(0.01, x1 - (y1 - wanted) / slope)
    (x0, y0) = max(below, key=lambda point: point[1])
    (x1, y1) = min(above, key=lambda point: point[1])
    return x0 + (x1 - x0) * min(max((wanted - y0) / max(y1 - y0, 1e-9), 0.1), 0.9)


def _loss_at(
    costs: Callable[[], Costs],
    schedules: Sequence[WidthSchedule],
    losses: Mapping[str, Tensor],
    points: Sequence[tuple[float, float]],
    wanted: float,
) -> float:
    """What these widths would lose where the whole network takes as long as is wanted."""
    counted = costs()
    steps = least_loss(counted, schedules, losses, "time", target := _next(points, wanted))
    if counted.amount["time"] > target * 1.001:  # they don't go so far
        return float("inf")
    return sum(float(losses[schedule.name][schedule.removed[steps[schedule.name]]]) for schedule in schedules)


def _in_multiples(
    schedules: Sequence[WidthSchedule], groups: Sequence[Group], stairs: Sequence[Staircases], multiple: int | None
) -> list[WidthSchedule]:
    """The schedules with those widths alone whose times are known; `multiple`: and that are multiples of it."""
    named = {group.name: group for group in groups}
    found = []
    for schedule in schedules:
        group = named[schedule.name]
        known = set[int]().union(*(one.widths_of(group) for one in stairs))
        each = group.channels / group.width
        removed = [
            gone
            for gone in schedule.removed
            if gone in (0, group.width) or _suits((group.width - gone) * each, known, multiple, group.channels)
        ]
        found.append(replace(schedule, removed=tuple(removed), keys=schedule.keys[: len(removed) - 1]))
    return found


def _suits(channels: float, known: set[int], multiple: int | None, full: int) -> bool:
    if multiple is not None:
        return channels % multiple == 0
    return not known or channels in known or channels == full


def _back(some: WidthSchedule, every: WidthSchedule, steps: int) -> int:
    """The step of the schedule with all widths at which as many units are gone."""
    return every.removed.index(some.removed[steps])


def losses_of_scores(schedules: Sequence[WidthSchedule], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is lost where only scores are known: their sum, relative to the group's mean."""
    found = {}
    for schedule in schedules:
        score = scores[schedule.name].double()
        relative = score / score.mean() if float(score.mean()) > 0 else score
        ordered = relative[torch.tensor(schedule.order)] if schedule.order else relative
        found[schedule.name] = torch.cat([torch.zeros(1, dtype=torch.double), ordered.cumsum(0)])
    return found


def not_met(asked: float, found: TimeSearch, least: Race | None) -> BootcampError | None:
    """Why the network does not take the asked share of the uncut one's time; None where it does."""
    share = found.share
    if abs(share - asked) <= within(asked) + 1e-9:
        return None
    if share > asked:
        most = "" if least is None else f" Cut as far as the limits allow it takes {100 * least.share:.1f}%."
        return GoalNotMet(
            f"{100 * (1 - asked):.1f}% less time can't be had: the nearest is {100 * (1 - share):.1f}% less "
            f"({found.race}).{most} Ask for less, or raise structured.max_sparsity."
        )
    return GoalNotMet(
        f"{100 * (1 - asked):.1f}% less time can't be met within {100 * within(asked):.1f} points: widths change in "
        f"steps too coarse for it, and the nearest is {100 * (1 - share):.1f}% less ({found.race}). "
        f"Ask for {1 - share:.3f}."
    )
