"""Widths for a budget in time: the least loss for what each layer was measured to take, judged by the whole network.

A knapsack over the layers' times says which widths lose least for so much time; what those come to is then measured,
on the whole network in turn with the uncut one, and the knapsack is asked for more or less until it is what was asked.
Layers alone don't say everything (a layer whose width a runtime dislikes slows its neighbours too), so widths in
several multiples compete, and the whole network decides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.pruning.channels.costs import Costs
from pruning_bootcamp.pruning.channels.knapsack import least_loss
from pruning_bootcamp.pruning.channels.race import Race, RaceTrack
from pruning_bootcamp.pruning.channels.staircase import Staircases, measure_staircases
from pruning_bootcamp.pruning.channels.width_schedules import WidthSchedule
from pruning_bootcamp.pruning.graph import Group
from pruning_bootcamp.results import Forecast
from pruning_bootcamp.tools.alone import LayerShape

WITHIN = 0.05
_LEAST_WITHIN = 0.01  # of the uncut network's time: no two timings agree better
# The search aims a little below what is asked, and ends where it is this near: two timings differ by as much.
_AIM, _NEAR, _NOISE = 0.99, 0.01, 0.005
MULTIPLES = (None, 4, 8, 16)
"""What widths are tried in; None: as they fall"""
_MOST_RACES, _MOST_QUESTIONS, _FINEST = 5, 16, 5e-4


def within(share: float) -> float:
    """How far from the asked share of the uncut network's time the achieved one may be: 5% of it, and of what is saved.

    A share too; 0.01 at least.
    """
    return max(_LEAST_WITHIN, WITHIN * min(share, 1 - share))


@dataclass(frozen=True)
class Timing:
    """What a budget in time is judged by: the track on which whole networks run, and who is told of each of them.

    `bar`: in a terminal a bar shows how far the timing of layers is; `tell` is told too.
    """

    track: RaceTrack
    say: Callable[[str], None] = lambda text: None
    bar: bool = False
    tell: Callable[[int, int, str], None] = lambda done, total, text: None

    def staircases(
        self, model: nn.Module, example: Tensor, groups: Sequence[Group], multiple: int = 1
    ) -> list[Staircases]:
        """How long the layers take at other widths, multiples of that, on each way."""
        found = []
        for way in self.track.ways:
            self.say(f"Timing layers at other widths ({way})")
            hidden = None if self.bar else True  # None: no bar where there is no terminal
            look: dict[str, Any] = {
                "desc": "layers",
                "unit": "layer",
                "leave": False,
                "dynamic_ncols": True,
                "delay": 0.1,
            }
            with tqdm(disable=hidden, **look) as bar:

                def say(done: int, total: int, shape: LayerShape, bar: Any = bar) -> None:
                    bar.total = total
                    bar.set_postfix_str(str(shape), refresh=False)
                    bar.update(done - bar.n)
                    bar.refresh()
                    self.tell(done, total, str(shape))

                track = self.track
                one = measure_staircases(model, example, groups, way, track.threads, track.device, say, multiple)
            self.tell(0, 0, "")
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
    forecasts: tuple[Forecast, ...] = ()
    """of the best, a way each"""
    races: int = 0

    @property
    def share(self) -> float:
        """Of the uncut network's time; 1 where nothing was cut."""
        return 1.0 if self.race is None else self.race.share


class WidthSearch:
    """Steps by group, so that the network takes `share` of the uncut one's time at the least sum of losses.

    `costs`: anew, nothing cut. `losses`: group -> what is lost once none, one, two, ... units are gone. `cut` gives the
    network without so many steps of each group.
    """

    def __init__(
        self,
        costs: Callable[[], Costs],
        groups: Sequence[Group],
        schedules: Sequence[WidthSchedule],
        losses: Mapping[str, Tensor],
        timing: Timing,
        stairs: Sequence[Staircases],
        share: float,
        cut: Callable[[Mapping[str, int]], nn.Module],
    ) -> None:
        self.found = TimeSearch()
        self._costs, self._losses, self._timing, self._share, self._cut = costs, losses, timing, share, cut
        self._schedules = {schedule.name: schedule for schedule in schedules}
        self._rivals = {multiple: _in_multiples(schedules, groups, stairs, multiple) for multiple in MULTIPLES}
        # what can be cut may take longer than the dense network: an option A shortcut is a convolution there
        uncut = dict.fromkeys(self._schedules, 0)
        self._whole = timing.track(cut(uncut))
        self._shares = {_key(uncut): self._whole.share}
        self._points: dict[int | None, list[tuple[float, float]]] = {
            multiple: [(1.0, self._shares[_key(uncut)])] for multiple in MULTIPLES
        }

    def run(self) -> TimeSearch:
        """The best that was found; where what was asked can't be reached, the nearest."""
        wanted = self._share * _AIM
        for multiple in MULTIPLES:
            self.attempt(multiple, self.next(multiple, wanted))
        best = min(MULTIPLES, key=lambda multiple: self.loss_at(multiple, wanted))
        self.close_in(best, wanted)
        for multiple in (best, *MULTIPLES):  # steps may be too coarse for the aim, and not for what is allowed
            if self.met:
                break
            self.close_in(multiple, self._share)
        return self.found

    @property
    def met(self) -> bool:
        """Whether the best takes as long as was asked, or nearly."""
        return self.found.rank is not None and self.found.rank[0] < 2

    def attempt(self, multiple: int | None, asked: float) -> float:
        """The share of the time that the whole network takes where the layers are to take the share `asked`."""
        rival, counted = self._rivals[multiple], self._costs()
        steps = least_loss(counted, rival, self._losses, "time", asked)
        every = self._schedules
        taken = {one.name: every[one.name].removed.index(one.removed[steps[one.name]]) for one in rival}
        if _key(taken) not in self._shares:
            race = self._timing.track(self._cut(taken))
            self._shares[_key(taken)] = race.share
            loss = sum(float(self._losses[one.name][one.removed[steps[one.name]]]) for one in rival)
            forecasts = self._forecasts(counted, race)
            in_which = "" if multiple is None else f" in multiples of {multiple}"
            foreseen = ", ".join(f"{one.foreseen_pct:.1f}%" for one in forecasts)
            self._timing.say(f"Widths{in_which}: {race}; foreseen {foreseen}")
            self.found.races += 1
            rank = _rank(race.share, loss, self._share)
            if self.found.rank is None or rank < self.found.rank:
                self.found.rank, self.found.taken, self.found.race = rank, taken, race
                self.found.loss, self.found.multiple, self.found.forecasts = loss, multiple, forecasts
        share = self._shares[_key(taken)]
        self._points[multiple].append((asked, share))
        return share

    def _forecasts(self, counted: Costs, race: Race) -> tuple[Forecast, ...]:
        """What the layers' times say of the network that was timed, a way each."""
        return tuple(
            Forecast(
                way=str(lap.way),
                foreseen_pct=100 * layers * whole.share,
                taken_pct=100 * lap.share,
                dense_ms=lap.uncut_ms,
                taken_ms=lap.cut_ms,
            )
            for lap, whole, layers in zip(race.laps, self._whole.laps, counted.shares_of_time(), strict=True)
        )

    def close_in(self, multiple: int | None, wanted: float) -> None:
        """Ask for more or less until the whole network takes as long as is wanted, or there is nothing between."""
        before = self.found.races
        for _ in range(_MOST_QUESTIONS):
            near = [share for _, share in self._points[multiple] if abs(share - wanted) <= _NEAR * wanted]
            if near or self.found.races - before >= _MOST_RACES:
                return
            asked = self.next(multiple, wanted)
            if any(abs(asked - known) < _FINEST for known, _ in self._points[multiple]):
                return
            self.attempt(multiple, asked)

    def next(self, multiple: int | None, wanted: float) -> float:
        """The share of the layers' time to ask for next: on the line through the nearest known points around it."""
        points = self._points[multiple]
        below = [point for point in points if point[1] <= wanted]
        above = [point for point in points if point[1] > wanted]
        if not below:  # all were too slow: go on at the slope that the last two have shown
            (x0, y0), (x1, y1) = (points[0], points[0]) if len(points) == 1 else sorted(points)[:2]
            slope = 1.0 if x1 == x0 else max((y1 - y0) / (x1 - x0), 0.25)
            return max(0.01, x0 - (y0 - wanted) / slope)
        (x0, y0) = max(below, key=lambda point: (point[1], point[0]))
        if not above:
            return min(1.0, 2 * x0)
        (x1, y1) = min(above, key=lambda point: (point[1], -point[0]))
        return x0 + (x1 - x0) * min(max((wanted - y0) / max(y1 - y0, 1e-9), 0.15), 0.85)

    def loss_at(self, multiple: int | None, wanted: float) -> float:
        """What these widths would lose where the whole network takes as long as is wanted."""
        counted, rival, asked = self._costs(), self._rivals[multiple], self.next(multiple, wanted)
        steps = least_loss(counted, rival, self._losses, "time", asked)
        if counted.amount["time"] > asked * 1.001:  # they don't go so far
            return float("inf")
        return sum(float(self._losses[one.name][one.removed[steps[one.name]]]) for one in rival)


def _key(taken: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(taken.items()))


def _rank(share: float, loss: float, asked: float) -> tuple[int, float]:
    """The smaller the better: what is as quick as asked by what it loses, what is nearly so, then the nearest."""
    off, most = share - asked, within(asked)
    if -most <= off <= _NOISE * asked:
        return 0, loss
    return (1, off) if 0 < off <= most else (2, abs(off))


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
    nearest = f"the nearest is {100 * (1 - share):.1f}% less ({found.race})"
    if share > asked and (least is None or least.share > asked):
        most = "" if least is None else f" Cut as far as the limits allow it takes {100 * least.share:.1f}%."
        return GoalNotMet(
            f"{100 * (1 - asked):.1f}% less time can't be had: {nearest}.{most} Ask for less, or raise "
            "structured.max_sparsity."
        )
    return GoalNotMet(
        f"{100 * (1 - asked):.1f}% less time can't be met within {100 * within(asked):.1f} points: widths change in "
        f"steps too coarse for it, and {nearest}. Ask for {1 - share:.3f}."
    )
