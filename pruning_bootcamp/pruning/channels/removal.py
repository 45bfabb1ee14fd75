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
    inverses = [torch.linalg.inv(damped(reader.gram)) for reader in readers]
    rows = [reader.rows.clone() for reader in readers]
    assert readers or alone is not None
    width = len(readers[0].columns) if alone is None else len(alone)
    alive, errors, total = list(range(width)), [0.0], 0.0
    gone: list[int] = []
    while alive:
        some = torch.tensor(alive)
        cost = torch.zeros(len(alive), dtype=torch.double) if alone is None else alone[some].clone()
        for reader, inverse, row in zip(readers, inverses, rows, strict=True):
            cost += _costs(reader, inverse, row, some)
        count = 1 if order is not None else max(1, len(alive) // _AT_ONCE)
        places = [alive.index(order[len(gone)])] if order is not None else cost.argsort(stable=True)[:count].tolist()
        for place in places:
            total += float(cost[place].clamp_min(0))
            gone.append(alive[place])
            errors.append(total)
        columns_gone = torch.tensor([alive[place] for place in places])
        alive = [unit for place, unit in enumerate(alive) if place not in set(places)]
        for number, reader in enumerate(readers):
            inverses[number], rows[number] = _without(inverses[number], rows[number], reader.columns[columns_gone])
    return gone, torch.tensor(errors, dtype=torch.double)


def removal_costs(readers: Sequence[Reader]) -> Tensor:
    """[units]: the error once the unit alone is gone, in the terms of `removal_errors`: its first step, for each."""
    every = torch.arange(len(readers[0].columns))
    inverses = (torch.linalg.inv(damped(reader.gram)) for reader in readers)
    costs = [_costs(reader, inverse, reader.rows, every) for reader, inverse in zip(readers, inverses, strict=True)]
    return torch.stack(costs).sum(0).clamp_min(0)


def _costs(reader: Reader, inverse: Tensor, rows: Tensor, units: Tensor) -> Tensor:
    """What each of the units costs by now: w' (H^-1 of its columns)^-1 w over all outputs, over their power."""
    columns = reader.columns[units]
    weights = rows[columns]
    block = inverse[columns[:, :, None], columns[:, None, :]]
    return (weights * torch.linalg.solve(block, weights)).sum((1, 2)).cpu() / reader.power


def _without(inverse: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse and weights once these columns are gone (block inverse), zero where they were."""
    columns = columns.flatten()
    beside = inverse[:, columns]
    factor = torch.linalg.solve(inverse[columns][:, columns], beside.T)
    rows = rows - factor.T @ rows[columns]
    inverse = inverse - beside @ factor
    inverse[columns], inverse[:, columns], rows[columns] = 0, 0, 0
    return inverse, rows


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
