"""SparseGPT's sweep over one matrix: columns from left to right, what comes later makes up for what goes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning_bootcamp.pruning.layers.least_squares import factorise, scale_of


@dataclass(frozen=True)
class ColumnBlock:
    """Neighbouring columns whose zeros are chosen together: all of `positions` kernel positions x `channels` inputs."""

    columns: slice
    positions: int
    channels: int

    def as_weight(self, block: Tensor) -> Tensor:
        """[rows, columns] -> [out, in, kernel positions], as patterns want it."""
        return block.reshape(len(block), self.positions, self.channels).transpose(1, 2)

    def as_columns(self, weight: Tensor) -> Tensor:
        """[out, in, kernel positions] -> [rows, columns]: `as_weight` undone."""
        return weight.transpose(1, 2).reshape(len(weight), -1)


def kernel_major(channels: int, positions: int) -> Tensor:
    """The order of columns in which the inputs of one kernel position are neighbours, as N:M and blocks want them."""
    return torch.arange(channels * positions).reshape(channels, positions).T.flatten()


def parts_of(channels: int, positions: int, size: int, fits: Callable[[int], bool]) -> list[ColumnBlock]:
    """Parts of about `size` columns, each with a number of channels that `fits`, in kernel-major order."""
    if channels > size and fits(size) and (channels % size == 0 or fits(channels % size)):
        bounds = [(start, min(start + size, channels)) for start in range(0, channels, size)]
        return [
            ColumnBlock(slice(position * channels + start, position * channels + end), 1, end - start)
            for position in range(positions)
            for start, end in bounds
        ]
    together = max(1, size // channels)
    starts = range(0, positions, together)
    spans = [(first, min(first + together, positions)) for first in starts]
    return [ColumnBlock(slice(first * channels, last * channels), last - first, channels) for first, last in spans]


def sweep(
    rows: Tensor,
    gram: Tensor,
    damping: float,
    parts: Sequence[ColumnBlock],
    choose: Callable[[ColumnBlock, Tensor], Tensor],
) -> tuple[Tensor, float]:
    """Zero weights of `rows` [r, n] in place, part by part, and say which stay (Frantar & Alistarh, 2023, algorithm 1).

    `choose(part, score)` gives a part's keep mask [r, columns] for scores w^2 / [U]_jj^2, U'U = (G + damping)^-1 upper
    triangular, G in units of its mean diagonal. Returns the mask and the damping at which G had a factor.
    """
    # G = R R' with R upper (a Cholesky factor of G turned round), so U = R^-1: no inverse is ever factorised
    gram = gram / scale_of(gram)
    turned, used = factorise(gram.flip(0, 1), damping)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    upper = torch.linalg.solve_triangular(turned.flip(0, 1), identity, upper=True)
    keep = torch.ones_like(rows, dtype=torch.bool)
    for part in parts:
        here = part.columns
        block, factor = rows[:, here].clone(), upper[here, here]
        kept = choose(part, (block / factor.diagonal()).square())
        errors = torch.zeros_like(block)
        for column in range(block.shape[1]):
            error = block[:, column].masked_fill(kept[:, column], 0) / factor[column, column]
            block[:, column:] -= error[:, None] * factor[column, column:]
            block[:, column].masked_fill_(~kept[:, column], 0)
            errors[:, column] = error
        rows[:, here], keep[:, here] = block, kept
        rows[:, here.stop :] -= errors @ upper[here, here.stop :]
    return keep, used
