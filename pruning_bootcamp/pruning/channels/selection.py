"""Channels in an order, from the second moments of what reads them alone: no weight moves meanwhile."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pruning_bootcamp.pruning.channels.removal import Reader

# Below this share of the first one a squared pivot is rounding: moments are sums of float32 products.
_ROUNDING = 1e-6


def mean_squares(readers: Sequence[Reader]) -> Tensor:
    """[units]: the mean square of what a reader multiplies of the unit, mean over the readers."""
    each = [reader.gram.diagonal()[reader.columns].mean(1).cpu() / reader.gram[-1, -1].cpu() for reader in readers]
    return torch.stack(each).mean(0)


def errors_unfitted(readers: Sequence[Reader]) -> Tensor:
    """[units]: the readers' squared error once the unit is gone and all that went before, each the one that adds least.

    As a share of the readers' output power, summed over them. Units that went later never have less: where losses
    cancel, the highest error so far counts.
    """
    shared = torch.stack([_shared_outputs(reader) for reader in readers]).sum(0)
    width = len(shared)
    added, alive = shared.diagonal().clone(), torch.ones(width, dtype=torch.bool)
    order, errors, total = [], [], 0.0
    for _ in range(width):
        unit = int(added.masked_fill(~alive, float("inf")).argmin())
        alive[unit] = False
        total += float(added[unit])
        order.append(unit)
        errors.append(total)
        added += 2 * shared[unit]
    return _by_unit(order, torch.tensor(errors, dtype=torch.double).clamp_min(0))


def _shared_outputs(reader: Reader) -> Tensor:
    """[units, units]: products of what two units give to the outputs, over all outputs, as a share of their power."""
    units, size = reader.columns.shape
    columns = reader.columns.flatten()
    rows = reader.rows[columns]
    products = reader.gram[columns][:, columns] * (rows @ rows.T)
    return products.view(units, size, units, size).sum((1, 3)).cpu() / reader.power


def pivots(readers: Sequence[Reader]) -> Tensor:
    """[units]: the unit's pivot when the matrix of the units' activations is factorised by QR with column pivoting.

    A column is all that the readers are shown of the unit; a pivot is how much of it those chosen before do not say, as
    a share of the first. By Cholesky factorisation of the columns' products, which takes the same pivots.
    """
    left = torch.stack([_products(reader) for reader in readers]).sum(0)
    width = len(left)
    alive = torch.ones(width, dtype=torch.bool)
    order: list[int] = []
    squares: list[float] = []
    for _ in range(width):
        unit = int(left.diagonal().masked_fill(~alive, -1.0).argmax())
        square = max(float(left[unit, unit]), 0.0)
        order.append(unit)
        squares.append(square)
        alive[unit] = False
        if square > _ROUNDING * squares[0]:
            column = left[:, unit] / square**0.5
            left = left - column[:, None] * column
    values = torch.tensor(squares, dtype=torch.double).div(max(squares[0], 1e-30)).sqrt()
    return _by_unit(order[::-1], values.flip(0))


def _products(reader: Reader) -> Tensor:
    """[units, units]: products of the units' columns, place by place of the kernel (or of what was flattened)."""
    places = reader.columns.T
    return reader.gram[places[:, :, None], places[:, None, :]].sum(0).cpu()


def _by_unit(order: Sequence[int], values: Tensor) -> Tensor:
    """Each unit's value, never less than that of the units before it; equal ones apart, so that the order is kept."""
    found, last = torch.empty(len(order), dtype=torch.double), torch.tensor(-1.0, dtype=torch.double)
    for unit, value in zip(order, values, strict=True):
        last = value if value > last else torch.nextafter(last, last + 1)
        found[unit] = last
    return found
