"""Layers with too many inputs for their second moments: the same least squares, solved among samples instead.

Ridge regression's dual (Saunders, Gammerman & Vovk, 1998): W = W0 + X' (X X' + damping)^-1 (T - X W0), as wide as there
are samples. The first linear layer behind a flattened map is one: 25,088 inputs in VGG.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning_bootcamp.pruning.channels.refit.solving import DAMPINGS
from pruning_bootcamp.pruning.layers.least_squares import factorise
from pruning_bootcamp.pruning.layers.moments import Product, columns_of, in_order

# Rows of inputs that are held, and as many columns of the matrix that is solved; of very wide layers 1 GiB of them.
MOST_ROWS, MOST_NUMBERS = 4096, 2**28
_COLUMNS_AT_ONCE = 1024


def most_rows(columns: int) -> int:
    """How many rows of so many inputs are held."""
    return max(2, min(MOST_ROWS, MOST_NUMBERS // max(columns, 1)))


@dataclass(frozen=True)
class Samples:
    """Rows of a layer's inputs [n, columns], in the order of its weights, and what they should come to [n, out]."""

    inputs: Tensor
    goal: Tensor
    others: Tensor
    """what is added to the layer's output before it is compared with the goal"""

    @staticmethod
    def gathered(product: Product, batches: Iterable[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]) -> "Samples":
        """From batches of (inputs, goal rows, others' rows, positions), until there are `most_rows`."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for inputs, goal, others, where in batches:
            rows = torch.cat([columns[0] for columns in columns_of(product, inputs, where)])
            found.append((rows, goal, torch.zeros_like(goal) if others is None else others))
            if sum(len(one) for one, _, _ in found) >= most_rows(rows.shape[1]):
                break
        limit = most_rows(found[0][0].shape[1])
        rows, goal, others = (torch.cat(parts)[:limit] for parts in zip(*found, strict=True))
        order = in_order(product, rows.shape[1]).to(rows.device)
        return Samples(rows if not product.kernel else rows[:, order], goal.double(), others.double())


@dataclass(frozen=True)
class Fit:
    """The layer's product [1, columns + 1, out], and the share of its target's variance that least squares leaves."""

    rows: Tensor
    left: float


def fit(
    samples: Samples, start: Tensor, *, intercept: bool, reachable: Callable[[Tensor, Tensor], Tensor], iterations: int
) -> Fit:
    """Rows near `start` [1, columns + 1, out] whose outputs come to the goal less what others add.

    The damping is chosen on half of the samples for the other half, and the other way round. `reachable(given, goal)`:
    what to fit next, `iterations` times, where the goal is looked at between bounds only.
    """
    x, target = samples.inputs, samples.goal - samples.others
    mean = x.double().mean(0) if intercept else x.new_zeros(x.shape[1], dtype=torch.double)
    weights, kernel = start[0, :-1], _kernel(x, mean)
    scale = float(kernel.diagonal().sum()) / x.shape[1]
    scale = scale if scale > 0 else 1.0
    before = _times(x, mean, weights)
    damping = _choose(kernel, before, target, scale, intercept)
    factor, _ = factorise(kernel / scale, damping)

    def solved(wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Dual coefficients, the constant, and the outputs."""
        constant = wanted.mean(0) if intercept else torch.zeros_like(wanted[0])
        dual = torch.cholesky_solve((wanted - constant - before) / scale, factor)
        return dual, constant, before + kernel @ dual + constant

    dual, constant, outputs = solved(target)
    spread = target - (target.mean(0) if intercept else 0)
    left = float((outputs - target).square().sum()) / max(float(spread.square().sum()), 1e-30)
    for _ in range(iterations):
        moved = reachable(outputs + samples.others, samples.goal) - samples.others
        dual, constant, outputs = solved(moved)
    fitted = weights + _transposed(x, mean, dual)
    return Fit(torch.cat([fitted, (constant - mean @ fitted)[None]])[None], left)


def outputs_of(samples: Samples) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """For `unfold`: weights [1, columns, out] -> mean and variance of their outputs on these samples."""

    def look(weights: Tensor) -> tuple[Tensor, Tensor]:
        given = _times(samples.inputs, weights.new_zeros(weights.shape[1]), weights[0])
        return given.mean(0), given.var(0, unbiased=False)

    return look


def _choose(kernel: Tensor, before: Tensor, target: Tensor, scale: float, intercept: bool) -> float:
    """The damping with the least error on each half of the samples when fitted to the other."""
    halves = [torch.arange(part, len(kernel), 2, device=kernel.device) for part in (0, 1)]
    if not all(len(half) for half in halves):
        return 1e-3
    errors = dict.fromkeys(DAMPINGS, 0.0)
    for own, other in (halves, halves[::-1]):
        constant = target[own].mean(0) if intercept else torch.zeros_like(target[0])
        for damping in DAMPINGS:
            factor, _ = factorise(kernel[own][:, own] / scale, damping)
            dual = torch.cholesky_solve((target[own] - constant - before[own]) / scale, factor)
            given = before[other] + kernel[other][:, own] @ dual + constant
            errors[damping] += float((given - target[other]).square().sum())
    return min(errors, key=lambda damping: (errors[damping], -damping))


def _parts(columns: int) -> Sequence[slice]:
    """Some columns at a time: the inputs are held in single precision, and multiplied in double."""
    return [slice(start, start + _COLUMNS_AT_ONCE) for start in range(0, columns, _COLUMNS_AT_ONCE)]


def _kernel(x: Tensor, mean: Tensor) -> Tensor:
    total = x.new_zeros(len(x), len(x), dtype=torch.double)
    for part in _parts(x.shape[1]):
        centred = x[:, part].double() - mean[part]
        total += centred @ centred.T
    return total


def _times(x: Tensor, mean: Tensor, weights: Tensor) -> Tensor:
    total = x.new_zeros(len(x), weights.shape[1], dtype=torch.double)
    for part in _parts(x.shape[1]):
        total += (x[:, part].double() - mean[part]) @ weights[part]
    return total


def _transposed(x: Tensor, mean: Tensor, dual: Tensor) -> Tensor:
    return torch.cat([(x[:, part].double() - mean[part]).T @ dual for part in _parts(x.shape[1])])
