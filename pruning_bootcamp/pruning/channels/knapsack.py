"""The widths that lose least within a budget: a knapsack over what each group's widths lose and save."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pruning_bootcamp.pruning.channels.costs import Costs, Measure
from pruning_bootcamp.pruning.channels.width_schedules import WidthSchedule

# The budget in so many parts: savings are rounded down to one.
_PARTS = 20_000
_MOST_OPTIONS = 64
_ROUNDS = 8

Numbers = NDArray[np.float64]


def least_loss(
    costs: Costs, schedules: Sequence[WidthSchedule], losses: Mapping[str, Tensor], measure: Measure, target: float
) -> dict[str, int]:
    """Group -> steps, with the least sum of losses among those whose `measure` is at most `target`; `costs` ends there.

    `losses`: group -> what the network loses once none, one, two, ... units are gone. Exact where what a group saves
    does not depend on the others' widths; where it does, savings are taken as they are at the widths found last, again
    and again, and the best that meets the target stays. Where none does, all that the schedules allow.
    """
    full, tried = costs.amount[measure], dict.fromkeys((schedule.name for schedule in schedules), 0)
    lost = {s.name: losses[s.name].numpy()[list(s.removed)] for s in schedules}
    best: tuple[float, dict[str, int]] | None = None
    ratio = 1.0
    for _ in range(_ROUNDS):
        saved = {s.name: _savings(costs, s, measure, tried[s.name]) for s in schedules}
        found = _solve(schedules, lost, saved, (full - target) / ratio)
        _go(costs, schedules, tried, found)
        tried = found
        if costs.amount[measure] <= target * (1 + 1e-9):
            _fill(costs, schedules, lost, tried, measure, target)
            total = sum(float(lost[name][steps]) for name, steps in tried.items())
            if best is None or total < best[0]:
                best = total, dict(tried)
        reckoned = sum(float(saved[name][steps]) for name, steps in found.items())
        again = max(full - costs.amount[measure], 1e-9) / max(reckoned, 1e-9)
        if best is not None and abs(again - ratio) < 1e-6:
            break
        ratio = again
    chosen = best[1] if best is not None else {s.name: len(s.keys) for s in schedules}
    _go(costs, schedules, tried, chosen)
    return chosen


def _savings(costs: Costs, schedule: WidthSchedule, measure: Measure, now: int) -> Numbers:
    """What each number of steps saves, the other groups as they are."""
    costs.change(schedule.name, schedule.gone(now), back=True)
    start, found = costs.amount[measure], [0.0]
    for step in range(len(schedule.keys)):
        costs.change(schedule.name, schedule.step(step))
        found.append(start - costs.amount[measure])
    costs.change(schedule.name, schedule.gone(len(schedule.keys)), back=True)
    costs.change(schedule.name, schedule.gone(now))
    return np.array(found)


def _solve(
    schedules: Sequence[WidthSchedule], lost: Mapping[str, Numbers], saved: Mapping[str, Numbers], need: float
) -> dict[str, int]:
    """Steps with the least loss whose savings reach the need; everything where nothing does."""
    unit = max(need, 1e-9) / _PARTS
    best = np.full(_PARTS + 1, np.inf)
    best[0] = 0.0
    chosen, options_of = [], []
    for schedule in schedules:
        count = len(schedule.removed)
        options = np.unique(np.linspace(0, count - 1, min(count, _MOST_OPTIONS)).round().astype(int))
        after, choice = np.full(_PARTS + 1, np.inf), np.zeros(_PARTS + 1, dtype=np.int64)
        for number, option in enumerate(options):
            if saved[schedule.name][option] < 0:  # narrower and slower: of no use
                continue
            parts = min(_PARTS, int(saved[schedule.name][option] / unit + 1e-6))
            value = np.full(_PARTS + 1, np.inf)
            value[parts:] = best[: _PARTS + 1 - parts]
            value[_PARTS] = best[_PARTS - parts :].min()  # more than needed is as good
            value += lost[schedule.name][option]
            better = value < after
            after[better], choice[better] = value[better], number
        # where it came from: the last part gathers all that overshoot
        chosen.append((choice, best))
        options_of.append(options)
        best = after
    if not np.isfinite(best[_PARTS]):
        return {schedule.name: len(schedule.keys) for schedule in schedules}
    place, steps = _PARTS, {}
    for schedule, options, (choice, before) in zip(
        reversed(schedules), reversed(options_of), reversed(chosen), strict=True
    ):
        option = options[choice[place]]
        steps[schedule.name] = int(option)
        parts = min(_PARTS, int(saved[schedule.name][option] / unit + 1e-6))
        low = max(0, place - parts)
        place = low + int(before[low:].argmin()) if place == _PARTS else place - parts
    return steps


def _go(costs: Costs, schedules: Sequence[WidthSchedule], now: Mapping[str, int], then: Mapping[str, int]) -> None:
    for schedule in schedules:
        costs.change(schedule.name, schedule.gone(now[schedule.name]), back=True)
        costs.change(schedule.name, schedule.gone(then[schedule.name]))


def _fill(
    costs: Costs,
    schedules: Sequence[WidthSchedule],
    lost: Mapping[str, Numbers],
    taken: dict[str, int],
    measure: Measure,
    target: float,
) -> None:
    """Give back what the budget still allows, what gains most first."""
    while True:
        gains = []
        for place, schedule in enumerate(schedules):
            steps = taken[schedule.name]
            if steps == 0:
                continue
            costs.change(schedule.name, schedule.step(steps - 1), back=True)
            if costs.amount[measure] <= target:
                gains.append((float(lost[schedule.name][steps] - lost[schedule.name][steps - 1]), -place))
            costs.change(schedule.name, schedule.step(steps - 1))
        if not gains:
            return
        _, place = max(gains)
        schedule = schedules[-place]
        taken[schedule.name] -= 1
        costs.change(schedule.name, schedule.step(taken[schedule.name]), back=True)
