"""Which weights may go together: any, N of M, whole blocks, or all below a threshold. A pattern turns counts to masks.

A score comes as [out, in, *kernel] (a transposed convolution's is brought into that order), higher = keep. With
`count` zeros asked for, the mask has exactly that many, ties going by lowest index first.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pruning_bootcamp.pruning.selection import count_below, keep_highest
from pruning_bootcamp.registry import Registry


def _not_a_mask(mask: Any, score: Tensor, count: int) -> str | None:
    promised = f"a pattern gives a torch.bool mask of shape {tuple(score.shape)} with {count} zeros"
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool or mask.shape != score.shape:
        what = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        return f"{what}, and {promised}"
    zeros = mask.numel() - int(torch.count_nonzero(mask))
    return f"{zeros} zeros, and {promised}" if zeros != count else None


# f(score, count, *, ...) -> BoolTensor (True = keep), or None when the pattern does not fit the layer. Facts:
#   misfit(shape, **args) -> str | None      why the pattern can't fit a layer of that shape
#   invalid(**args) -> str | None            what is wrong with the settings, whatever the layer
#   fixed_count(score, **args) -> int        the pattern itself says how many zeros: there is nothing to allocate
#   fixed_sparsity(**args) -> float | None   the share that makes, where it is known before any score is
#   pool(score, **args) -> Tensor            scores of the units that go together; `count` is a multiple of their size
PATTERNS: Registry = Registry("pattern", plural="patterns", takes=("score", "count"), contract=_not_a_mask)


@PATTERNS.register("unstructured")
def unstructured(score: Tensor, count: int) -> Tensor:
    """Any weight on its own."""
    return keep_highest(score, count)


@PATTERNS.register("per_output")
def per_output(score: Tensor, count: int) -> Tensor:
    """Any weight, as many in each output as in the others, as Wanda compares them (Sun et al., 2024, section 3).

    Where `count` is no multiple of the outputs, those whose next weight is worth least lose one more. An output that
    has lost more already (scores of -inf) keeps those zeros, and the others share the rest.
    """
    rows = score.reshape(score.shape[0], -1)
    gone = (rows == -torch.inf).sum(1)
    if int(gone.sum()) > count:
        gone = torch.zeros_like(gone)

    def losses(each: int) -> Tensor:
        return torch.maximum(gone, torch.full_like(gone, each))

    low, high = 0, rows.shape[1]  # the most that every output can lose
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(losses(middle).sum()) <= count else (low, middle - 1)
    lost = losses(low)
    order = rows.argsort(dim=1, stable=True)
    if extra := count - int(lost.sum()):
        open_rows = (lost == low).nonzero()[:, 0]
        following = rows[open_rows, order[open_rows, low]]
        lost[open_rows[following.argsort(stable=True)[:extra]]] += 1
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(rows.shape[1], device=order.device).expand_as(order)
    )
    return (ranks >= lost[:, None]).reshape(score.shape)


def _nm_invalid(*, n: int, m: int) -> str | None:
    if n < 1 or m < 1:
        return f"{n}:{m} keeps {n} of {m}: both must be at least 1. Write 2:4 to keep 2 of every 4."
    if n > m:
        return f"{n}:{m} would keep {n} of {m}: N must not be above M. Did you mean {m}:{n}?"
    return None


def _nm_misfit(shape: tuple[int, ...], *, n: int, m: int) -> str | None:
    if len(shape) > 1 and shape[1] % m == 0:
        return None
    inputs = shape[1] if len(shape) > 1 else 1
    return f"{inputs} input{'s' if inputs != 1 else ''} per output, {n}:{m} needs a multiple of {m}"


@PATTERNS.register(
    "nm",
    invalid=_nm_invalid,
    misfit=_nm_misfit,
    fixed_count=lambda score, *, n, m: score.numel() // m * (m - n),
    fixed_sparsity=lambda *, n, m: 1 - n / m,
)
def nm(score: Tensor, count: int, *, n: int, m: int) -> Tensor | None:
    """N kept of every M neighbours along the input dimension: 2:4, 4:8, 1:4.

    Inputs are what one output sums over: columns of a linear layer; in-channels of a convolution, separately for each
    output channel and kernel position. That is the dimension along which sparse tensor cores multiply (a convolution
    runs as a matrix product with the channels innermost, NHWC), so only there do the zeros save work.
    """
    if _nm_misfit(tuple(score.shape), n=n, m=m):
        return None
    assert count == score.numel() // m * (m - n)
    groups = score.movedim(1, -1).reshape(-1, m)
    lowest = groups.argsort(dim=1, stable=True)[:, : m - n]
    keep = torch.ones_like(groups, dtype=torch.bool).scatter_(1, lowest, False)
    order = (score.shape[0], *score.shape[2:], score.shape[1])
    return keep.reshape(order).movedim(-1, 1).contiguous()


def _block_invalid(*, rows: int = 4, columns: int = 4) -> str | None:
    return None if rows >= 1 and columns >= 1 else f"a block of {rows}x{columns} has no weights in it."


def _block_misfit(shape: tuple[int, ...], *, rows: int = 4, columns: int = 4) -> str | None:
    if len(shape) > 1 and shape[0] % rows == 0 and shape[1] % columns == 0:
        return None
    size = f"{shape[0]} outputs x {shape[1] if len(shape) > 1 else 1} inputs"
    return f"{size} can't be tiled with {rows}x{columns} blocks"


def _block_pool(score: Tensor, *, rows: int = 4, columns: int = 4) -> Tensor:
    outputs, inputs, *kernel = score.shape
    tiled = score.reshape(outputs // rows, rows, inputs // columns, columns, *kernel)
    return tiled.mean(dim=(1, 3))


@PATTERNS.register("block", invalid=_block_invalid, misfit=_block_misfit, pool=_block_pool)
def block(score: Tensor, count: int, *, rows: int = 4, columns: int = 4) -> Tensor | None:
    """Whole blocks of `rows` outputs x `columns` inputs (per kernel position), by their mean score."""
    if _block_misfit(tuple(score.shape), rows=rows, columns=columns):
        return None
    assert count % (rows * columns) == 0
    kept = keep_highest(_block_pool(score, rows=rows, columns=columns), count // (rows * columns))
    return kept.repeat_interleave(rows, dim=0).repeat_interleave(columns, dim=1)


@PATTERNS.register(
    "threshold",
    fixed_count=lambda score, *, value=0.01: count_below(score, value),
    fixed_sparsity=lambda *, value=0.01: None,
)
def threshold(score: Tensor, count: int, *, value: float = 0.01) -> Tensor:
    """Every weight whose score is below `value` (|w| < value with magnitude L1), however many that are."""
    keep = score >= value
    assert count == score.numel() - int(torch.count_nonzero(keep))
    return keep


def fact(name: str, fact_name: str) -> Callable[..., Any] | None:
    """A fact of the named pattern, or None where it has none."""
    return PATTERNS[name].facts.get(fact_name)
