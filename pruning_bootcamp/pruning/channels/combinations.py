"""All combinations of widths that meet a budget, searched level by level within bounds; and of those the best.

Every measure falls when a group loses a unit, so a few groups' widths bound what the whole can come to: what can't end
within the window is dropped at once. Where too many partial combinations are left, those nearest to the order of the
scores go on; then the search is not complete, and says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pruning_bootcamp.pruning.channels.costs import Costs, Measure, Polynomial
from pruning_bootcamp.pruning.channels.width_schedules import WidthSchedule

WORK = 8_000_000  # numbers computed per group, at most: a tenth of a second or so
MOST_ROWS, LEAST_ROWS = 1_000_000, 2_000
CHUNK = 1 << 15

Rows = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Search:
    """Steps by schedule, or None. `complete`: all `combinations` were looked at, or ruled out by bounds."""

    steps: tuple[int, ...] | None
    combinations: int
    tried: int
    complete: bool


class Widths:
    """The combinations of widths that schedules allow, and what a measure comes to for many of them at once."""

    def __init__(self, costs: Costs, schedules: Sequence[WidthSchedule], measure: Measure) -> None:
        self.schedules = list(schedules)
        self.options = [len(schedule.removed) for schedule in schedules]
        orders = {
            schedule.name: [schedule.step(number) for number in range(len(schedule.keys))] for schedule in schedules
        }
        self._polynomial: Polynomial = costs.polynomial(measure, orders)
        self._place = {schedule.name: place for place, schedule in enumerate(schedules)}
        self._less = [
            [(self._place[name], np.asarray(less)) for name, less in form.less] for form in self._polynomial.forms
        ]

    @property
    def combinations(self) -> int:
        """How many there are; exact, and far beyond 64 bits in a deep network."""
        return math.prod(self.options)

    @property
    def row_cost(self) -> int:
        """Numbers computed for one combination."""
        return sum(len(less) for less in self._less) + sum(len(some) for _, some in self._polynomial.terms) + 1

    def amounts(self, rows: Rows) -> Numbers:
        """The measure for each row of steps."""
        parts = [self._amounts(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _amounts(self, rows: Rows) -> Numbers:
        columns = rows.T
        sizes = []
        for form, less in zip(self._polynomial.forms, self._less, strict=True):
            size = np.full(len(rows), form.full)
            for place, gone in less:
                size -= gone[columns[place]]
            sizes.append(size)
        total = np.full(len(rows), self._polynomial.constant)
        for each, some in self._polynomial.terms:
            product = np.full(len(rows), each)
            for number in some:
                product *= sizes[number]
            total += product
        return total

    def regrets(self, start: Sequence[int]) -> list[Numbers]:
        """For each schedule and number of steps: how far that strays from `start`, which followed the scores' order.

        A step counts by its units and by how far its key lies from the last one that was due: to take what the order
        would have taken next, or to leave what it took last, costs least.
        """
        due = max(
            (
                schedule.keys[number]
                for schedule, steps in zip(self.schedules, start, strict=True)
                for number in range(steps)
            ),
            default=0.0,
        )
        most = max((abs(key) for schedule in self.schedules for key in schedule.keys), default=1.0)
        regrets = []
        for schedule, steps in zip(self.schedules, start, strict=True):
            each = [
                (abs(key - due) + 1e-6 * most) * (schedule.removed[number + 1] - schedule.removed[number])
                for number, key in enumerate(schedule.keys)
            ]
            along = np.concatenate([[0.0], np.cumsum(each)])
            regrets.append(np.abs(along - along[steps]))
        return regrets


def search(widths: Widths, start: Sequence[int], low: float, target: float, high: float, nearest: bool) -> Search:
    """A combination whose measure lies in [low, high]: of those up to the target, what strays least from `start`.

    Where only combinations above the target are left, and wherever `nearest` is asked for, the nearest to it. To cut
    nothing at all is no combination.
    """
    groups = len(widths.options)
    last = np.asarray(widths.options, dtype=np.int64) - 1
    order = _by_impact(widths, last)
    regrets = widths.regrets(start)
    limit = min(MOST_ROWS, max(LEAST_ROWS, WORK // widths.row_cost))
    rows, strays = np.zeros((1, groups), dtype=np.int64), np.zeros(1)
    complete, tried = True, 0
    for done, group in enumerate(order, start=1):
        room = max(1, limit // widths.options[group])
        if len(rows) > room:
            chosen = np.sort(np.argsort(strays, kind="stable")[:room])
            rows, strays, complete = rows[chosen], strays[chosen], False
        count = len(rows)
        rows = np.repeat(rows, widths.options[group], axis=0)
        rows[:, group] = np.tile(np.arange(widths.options[group]), count)
        strays = np.repeat(strays, widths.options[group]) + np.tile(regrets[group], count)
        tried += len(rows)
        least = rows.copy()
        least[:, order[done:]] = last[order[done:]]
        within = (widths.amounts(rows) >= low) & (widths.amounts(least) <= high)
        if done == groups:
            within &= rows.any(axis=1)
        rows, strays = rows[within], strays[within]
        if not len(rows):
            return Search(None, widths.combinations, tried, complete)
    best = _best(widths.amounts(rows), strays, target, nearest)
    return Search(tuple(int(steps) for steps in rows[best]), widths.combinations, tried, complete)


def _by_impact(widths: Widths, last: Rows) -> list[int]:
    """Groups, those first whose widths change the measure most: the bounds then rule out most, soonest."""
    alone = np.diag(last)
    saved = widths.amounts(np.zeros((1, len(last)), dtype=np.int64))[0] - widths.amounts(alone)
    return [int(place) for place in np.argsort(-saved, kind="stable")]


def _best(amounts: Numbers, strays: Numbers, target: float, nearest: bool) -> int:
    reached = amounts <= target
    if nearest or not reached.any():
        return int(np.lexsort((strays, np.abs(amounts - target)))[0])
    return int(np.lexsort((amounts, np.where(reached, strays, np.inf)))[0])
