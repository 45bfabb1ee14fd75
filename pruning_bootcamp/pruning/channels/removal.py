"""What is lost where a group's channels are read, when its units go one after the other and the readers are refitted.

Optimal brain surgeon in groups (Hassibi & Stork, 1993, eq. 5, with the columns of a unit together): the unit goes whose
removal costs least after all other weights of the readers have moved to make up for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pruning_bootcamp.pruning.layers.least_squares import scale_of

DAMPING = 1e-4
# Of a wide group several units go at a time, one in so many: the order among them matters little.
_AT_ONCE = 64
_WORTH_KEEPING = 0.8


@dataclass(frozen=True)
class Reader:
    """A layer that reads a group's channels, or one block of a grouped convolution.

    Sums of products of its input columns, the constant 1 last; its weights [d, out], the bias last; and the columns of
    each unit [units, m].
    """

    gram: Tensor
    rows: Tensor
    columns: Tensor

    @cached_property
    def power(self) -> float:
        """Squares of its outputs about their means, summed."""
        total = (self.gram @ self.rows * self.rows).sum(0)
        mean = (self.gram[-1] @ self.rows).square() / self.gram[-1, -1].clamp_min(1)
        return max(float((total - mean).clamp_min(0).sum()), 1e-30)


def damped(gram: Tensor) -> Tensor:
    """The second moments with the damping on their diagonal; the intercept is hardly held back."""
    weight = torch.full((len(gram),), float(scale_of(gram[:-1, :-1])) * DAMPING, dtype=gram.dtype)
    weight[-1] = max(float(gram[-1, -1]), 1e-30) * 1e-8
    return gram + weight.to(gram.device).diag()


def removal_errors(
    readers: Sequence[Reader], order: Sequence[int] | None = None, alone: Tensor | None = None
) -> tuple[list[int], Tensor]:
    """Units in the order in which they go, and the error once none, one, two, ... are gone [units + 1].

    The error is the share of the readers' output power that refitting does not bring back, summed over them. An `order`
    that is given is followed. `alone` [units]: what each unit costs besides, whatever else is gone.
    """
    left = [_Left(reader) for reader in readers]
    assert readers or alone is not None
    width = len(readers[0].columns) if alone is None else len(alone)
    alive, errors, total = list(range(width)), [0.0], 0.0
    gone: list[int] = []
    while alive:
        some = torch.tensor(alive)
        cost = torch.zeros(len(alive), dtype=torch.double) if alone is None else alone[some].clone()
        for one in left:
            cost += one.costs(some)
        count = 1 if order is not None else max(1, len(alive) // _AT_ONCE)
        places = [alive.index(order[len(gone)])] if order is not None else cost.argsort(stable=True)[:count].tolist()
        for place in places:
            total += float(cost[place].clamp_min(0))
            gone.append(alive[place])
            errors.append(total)
        units_gone = torch.tensor([alive[place] for place in places])
        alive = [unit for place, unit in enumerate(alive) if place not in set(places)]
        for one in left:
            one.remove(units_gone)
    return gone, torch.tensor(errors, dtype=torch.double)


def removal_costs(readers: Sequence[Reader]) -> Tensor:
    """[units]: the error once the unit alone is gone, in the terms of `removal_errors`: its first step, for each."""
    every = torch.arange(len(readers[0].columns))
    return torch.stack([_Left(reader).costs(every) for reader in readers]).sum(0).clamp_min(0)


class _Left:
    """What is left of a reader while units go: the inverse, and the weights, of the columns that it still reads."""

    def __init__(self, reader: Reader) -> None:
        self._power, self._columns = reader.power, reader.columns
        self._inverse, self._rows = torch.linalg.inv(damped(reader.gram)), reader.rows.clone()
        self._live = torch.ones(len(self._rows), dtype=torch.bool)

    def costs(self, units: Tensor) -> Tensor:
        """What each of the units costs by now: w' (H^-1 of its columns)^-1 w over all outputs, over their power."""
        columns = self._columns[units]
        weights = self._rows[columns]
        block = self._inverse[columns[:, :, None], columns[:, None, :]]
        return (weights * torch.linalg.solve(block, weights)).sum((1, 2)).cpu() / self._power

    def remove(self, units: Tensor) -> None:
        """Inverse and weights once these units' columns are gone (block inverse)."""
        columns = self._columns[units].flatten()
        beside = self._inverse[:, columns]
        factor = torch.linalg.solve(self._inverse[columns][:, columns], beside.T)
        self._rows.addmm_(factor.T, self._rows[columns], alpha=-1)
        self._inverse.addmm_(beside, factor, alpha=-1)
        self._live[columns.cpu()] = False
        if int(self._live.sum()) < _WORTH_KEEPING * len(self._live):
            self._close_up()

    def _close_up(self) -> None:
        """Hold only what is still read: an update takes the square of what is held."""
        live = self._live.to(self._inverse.device)
        self._columns = (live.cumsum(0) - 1)[self._columns]  # of units that are gone nothing is asked any more
        self._inverse, self._rows = self._inverse[live][:, live], self._rows[live]
        self._live = torch.ones(len(self._rows), dtype=torch.bool)


def refitted_rows(reader: Reader, units: Sequence[int]) -> Tensor:
    """[d, out]: the reader's weights once these units are gone, the others fitted to its outputs as they were."""
    stays = torch.ones(len(reader.gram), dtype=torch.bool, device=reader.gram.device)
    stays[reader.columns[torch.tensor(list(units), dtype=torch.long)].flatten()] = False
    gram = damped(reader.gram)
    inner = gram[stays][:, stays]
    rows = torch.zeros_like(reader.rows)
    # damped towards the weights that stay, so that nothing moves where nothing is missing
    missing = reader.gram[stays][:, ~stays] @ reader.rows[~stays]
    rows[stays] = reader.rows[stays] + torch.linalg.solve(inner, missing)
    return rows
