"""Least squares on second moments: rows that stay near given ones, and how near, chosen on moments held out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pruning_bootcamp.pruning.layers.least_squares import factorise, fit_rows, scale_of
from pruning_bootcamp.pruning.layers.moments import Moments

DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_OUTPUTS = 8
_INTERCEPT = 1e-8  # a bias is hardly held back


def solve(moments: Moments, towards: Tensor, damping: float, keep: Tensor | None = None) -> Tensor:
    """[groups, d, out / groups]: W with least |X W - T|^2 + damping * scale * |W - towards|^2, by Cholesky.

    The scale is the mean square of a column; the last row is the intercept. `keep` [groups, d - 1, out / groups]: where
    it is False, W is zero.
    """
    if keep is not None:
        return _solve_kept(moments, towards, damping, keep)
    scale = torch.stack([scale_of(one[:-1, :-1]) for one in moments.gram])[:, None, None]
    gram, cross = moments.gram / scale, moments.cross / scale
    weight = torch.full_like(gram[:, 0], damping)
    weight[:, -1] = _INTERCEPT * gram[:, -1, -1].clamp_min(1e-30)
    factor, more = factorise(gram + weight.diag_embed(), 0.0)
    return torch.cholesky_solve(cross + (weight + more)[:, :, None] * towards, factor)


def _solve_kept(moments: Moments, towards: Tensor, damping: float, keep: Tensor) -> Tensor:
    """Each output has columns of its own; the intercept, eliminated, leaves covariances in place of products."""
    fitted = []
    for gram, cross, near, kept in zip(moments.gram, moments.cross, towards, keep, strict=True):
        count, x, y = gram[-1, -1], gram[-1, :-1], cross[-1]
        covariance = gram[:-1, :-1] - torch.outer(x, x) / count
        products = cross[:-1].mT - torch.outer(y, x) / count
        rows, _ = fit_rows(covariance, products, kept.mT, damping, near[:-1].mT * kept.mT)
        fitted.append(torch.cat([rows.mT, (y - rows @ x)[None] / count]))
    return torch.stack(fitted)


def without_intercept(moments: Moments) -> Moments:
    """The same of a layer that has nothing to take a constant up: the column of ones says nothing."""
    gram, cross = moments.gram.clone(), moments.cross.clone()
    gram[:, -1, :-1] = gram[:, :-1, -1] = 0
    cross[:, -1] = 0
    return Moments(gram, cross)


def error(moments: Moments, rows: Tensor) -> float:
    """|X W - T|^2 but for the constant |T|^2."""
    return float(((moments.gram @ rows - 2 * moments.cross) * rows).sum())


def choose_damping(parts: Sequence[Moments], towards: Tensor, keep: Tensor | None = None) -> float:
    """The damping with the least error on each part when fitted to the others, all parts together."""
    if len(parts) < 2:
        return 1e-3
    if keep is not None:  # each output is a solution of its own: some of them say it for all
        some = slice(None, None, -(-keep.shape[-1] // _OUTPUTS))
        parts = [Moments(part.gram, part.cross[..., some]) for part in parts]
        towards, keep = towards[..., some], keep[..., some]
    totals = dict.fromkeys(DAMPINGS, 0.0)
    for held in range(len(parts)):
        others = added([part for number, part in enumerate(parts) if number != held])
        for damping in DAMPINGS:
            totals[damping] += error(parts[held], solve(others, towards, damping, keep))
    return min(totals, key=lambda damping: (totals[damping], -damping))


def added(parts: Sequence[Moments]) -> Moments:
    """The sums of several parts of the images."""
    return Moments(sum((p.gram for p in parts[1:]), parts[0].gram), sum((p.cross for p in parts[1:]), parts[0].cross))
