"""From a budget to the number of channels each group loses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pruning_bootcamp.pruning.channels.combinations import Search, Widths, search
from pruning_bootcamp.pruning.channels.costs import Costs, Measure
from pruning_bootcamp.pruning.channels.width_schedules import WidthSchedule

TOLERANCE = 0.01  # the achieved reduction lies within this of the asked one, both as shares


@dataclass(frozen=True)
class Shrunk:
    """Group name -> steps to take, and what was searched when following the scores' order did not reach the target."""

    taken: dict[str, int]
    search: Search | None = None


def shrink_to(
    costs: Costs,
    schedules: Sequence[WidthSchedule],
    measure: Measure,
    baseline: float,
    reduction: float,
    tolerance: float,
) -> Shrunk:
    """The steps to take, so that `measure` falls by `reduction` of `baseline`.

    Steps are taken in the order of their keys; one that overshoots by more than `tolerance` is passed over; the end is
    where the target is reached. When what is left of the steps is too coarse to reach it, single steps are exchanged
    between groups; when that fails too, combinations of widths are searched (combinations.py). `costs` ends at the
    result, the nearest that was found; whoever calls compares what was achieved.
    """
    target = baseline * (1 - reduction)
    lowest = target - tolerance * baseline
    slack = 1e-9 * baseline  # sums of floats
    taken = _in_order(costs, schedules, measure, target + slack, lowest - slack)
    if costs.amount[measure] <= target + slack:
        return Shrunk(taken)
    start = [taken[schedule.name] for schedule in schedules]
    _exchange(costs, schedules, taken, measure, target, lowest, slack)
    near = costs.amount[measure]
    least = most_reachable(costs, schedules, taken, measure)
    if near <= target + slack or least > target + tolerance * baseline:
        return Shrunk(taken)
    widths = Widths(costs, schedules, measure)
    highest = min(near, target + tolerance * baseline)
    found = search(widths, start, lowest - slack, target + slack, highest + slack, nearest=False)
    if found.steps is None and near > highest:
        apart = _apart(costs, schedules, taken, measure, target) + slack
        found = search(widths, start, target - apart, target, target + apart, nearest=True)
    if found.steps is not None:
        for schedule, steps in zip(schedules, found.steps, strict=True):
            while taken[schedule.name] != steps:
                _move(costs, taken, schedule, 1 if taken[schedule.name] < steps else -1)
    return Shrunk(taken, found)


def _apart(
    costs: Costs, schedules: Sequence[WidthSchedule], taken: dict[str, int], measure: Measure, target: float
) -> float:
    """How far from the target the best is that is known so far; where nothing is taken yet, the best first step."""
    if any(taken.values()):
        return abs(costs.amount[measure] - target)
    found = [abs(costs.amount[measure] - target)] if not any(schedule.keys for schedule in schedules) else []
    for schedule in schedules:
        if not schedule.keys:
            continue
        _move(costs, taken, schedule, 1)
        found.append(abs(costs.amount[measure] - target))
        _move(costs, taken, schedule, -1)
    return min(found)


def _in_order(
    costs: Costs, schedules: Sequence[WidthSchedule], measure: Measure, highest: float, lowest: float
) -> dict[str, int]:
    """Steps as they are due, until the measure is at most `highest`; none goes below `lowest`."""
    taken = dict.fromkeys((schedule.name for schedule in schedules), 0)
    # equal keys (a fresh network's scales are all 1) go by the share that is gone, not group after group
    due = sorted(
        (key, schedule.removed[number + 1] / len(schedule.order), place)
        for place, schedule in enumerate(schedules)
        for number, key in enumerate(schedule.keys)
    )
    for _, _, place in due:
        if costs.amount[measure] <= highest:
            break
        schedule = schedules[place]
        # an earlier step that was passed over comes first: same cost, worse units
        _move(costs, taken, schedule, 1)
        if costs.amount[measure] < lowest:
            _move(costs, taken, schedule, -1)
    return taken


def _exchange(
    costs: Costs,
    schedules: Sequence[WidthSchedule],
    taken: dict[str, int],
    measure: Measure,
    target: float,
    lowest: float,
    slack: float,
) -> None:
    """One group a step down, another a step up, as long as that comes closer to the target from above or reaches it."""
    while costs.amount[measure] > target + slack:
        best, best_amount = None, costs.amount[measure]
        for down, up in _pairs(schedules, taken):
            _move(costs, taken, down, 1)
            _move(costs, taken, up, -1)
            amount = costs.amount[measure]
            _move(costs, taken, up, 1)
            _move(costs, taken, down, -1)
            if lowest - slack <= amount < best_amount - slack:
                best, best_amount = (down, up), amount
        if best is None:
            return
        _move(costs, taken, best[0], 1)
        _move(costs, taken, best[1], -1)


def _pairs(
    schedules: Sequence[WidthSchedule], taken: Mapping[str, int]
) -> Iterator[tuple[WidthSchedule, WidthSchedule]]:
    for down in schedules:
        for up in schedules:
            if down is not up and taken[down.name] < len(down.keys) and taken[up.name] > 0:
                yield down, up


def _move(costs: Costs, taken: dict[str, int], schedule: WidthSchedule, direction: Literal[1, -1]) -> None:
    number = taken[schedule.name] if direction == 1 else taken[schedule.name] - 1
    costs.change(schedule.name, schedule.step(number), back=direction == -1)
    taken[schedule.name] += direction


def most_reachable(
    costs: Costs, schedules: Sequence[WidthSchedule], taken: Mapping[str, int], measure: Measure
) -> float:
    """What is left of `measure` when every group goes to the end of its schedule; `costs` stays as it is."""
    rest = [
        (schedule.name, schedule.order[schedule.removed[taken[schedule.name]] : schedule.removed[-1]])
        for schedule in schedules
    ]
    for name, units in rest:
        costs.change(name, units)
    least = costs.amount[measure]
    for name, units in rest:
        costs.change(name, units, back=True)
    return least
