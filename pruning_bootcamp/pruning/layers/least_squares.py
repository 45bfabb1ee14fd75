"""Rows of weights on their masks: the best fit to given outputs, and what taking one more weight away would cost."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Direct solutions up to so many multiply-accumulates a layer (minutes on one core), conjugate gradients beyond.
_DIRECT_LIMIT = 2e12
_NUMBERS_AT_ONCE = 2**23
_DAMPINGS = 12


def scale_of(gram: Tensor) -> Tensor:
    """Its mean diagonal, the unit in which a damping is given; 1 for a gram of zeros."""
    mean = gram.diagonal().mean()
    return torch.where(mean > torch.finfo(gram.dtype).tiny, mean, torch.ones_like(mean))


def factorise(gram: Tensor, damping: float) -> tuple[Tensor, float]:
    """Lower Cholesky factors of gram [..., n, n] + damping * identity, and the damping it took.

    It grows tenfold until a factor exists that is more than rounding. `gram` has been divided by its scale_of.
    """
    rounding = 10 * torch.finfo(gram.dtype).eps
    for attempt in range(_DAMPINGS):
        tried = damping if attempt == 0 else max(damping, 1e-8) * 10**attempt
        damped = gram.clone()
        damped.diagonal(dim1=-2, dim2=-1).add_(tried)
        factor, failed = torch.linalg.cholesky_ex(damped)
        # the pivots are squares of its diagonal: a column's share that the columns before it do not say
        if not bool(failed.any()) and bool((factor.diagonal(dim1=-2, dim2=-1).square() > rounding).all()):
            return factor, tried
    raise AssertionError(f"no Cholesky factor of a finite Gram matrix at damping {tried}")  # dominated by its diagonal


def fit_rows(gram: Tensor, products: Tensor, keep: Tensor, damping: float, towards: Tensor) -> tuple[Tensor, float]:
    """Rows w [r, n] with zeros where `keep` is False, that minimise w G w' - 2 p w' + damping |w - towards|^2.

    `gram` G [n, n] are mean products of the inputs, `products` [r, n] those of the wanted outputs with the inputs;
    the damping is in units of G's mean diagonal. Exact by Cholesky, or by conjugate gradients where that would take too
    long. Returns the rows and the damping that was needed.
    """
    scale = scale_of(gram)
    gram, products = gram / scale, products / scale
    largest = int(keep.sum(1).max())
    if len(keep) * largest**3 / 3 > _DIRECT_LIMIT:
        return _conjugate_gradients(gram, products + damping * towards, keep, damping, towards), damping
    rows, used = torch.zeros_like(products), damping
    for some, index, valid, part in _submatrices(gram, keep):
        factor, needed = factorise(part, damping)
        wanted = (products[some] + needed * towards[some]).gather(1, index) * valid
        solved = torch.cholesky_solve(wanted[:, :, None], factor)[:, :, 0] * valid
        rows[some] = torch.zeros_like(rows[some]).scatter_(1, index, solved)
        used = max(used, needed)
    return rows, used


def removal_costs(gram: Tensor, rows: Tensor, keep: Tensor, damping: float) -> tuple[Tensor, Tensor, float]:
    """What each kept weight's removal adds to (w - rows) G (w - rows)' / 2, the other weights of its row re-fitted.

    w_q^2 / (2 [G_S^-1]_qq), S what the row keeps (Hassibi & Stork, 1993, eq. 5), with w the rows re-fitted on their
    masks already. Returns the costs (0 where nothing is kept), those rows, and the damping that was needed.
    """
    scale = scale_of(gram)
    gram = gram / scale
    costs, refitted, used = torch.zeros_like(rows), torch.zeros_like(rows), damping
    products = rows @ gram
    if bool(keep.all()):  # every row has the same matrix
        factor, used = factorise(gram, damping)
        inverse = torch.cholesky_inverse(factor).diagonal()
        return 0.5 * scale * rows.square() / inverse, rows.clone(), used
    for some, index, valid, part in _submatrices(gram, keep):
        factor, needed = factorise(part, damping)
        wanted = (products[some] + needed * rows[some]).gather(1, index) * valid
        inverse = torch.cholesky_inverse(factor)
        solved = (inverse @ wanted[:, :, None])[:, :, 0] * valid
        cost = 0.5 * scale * solved.square() / inverse.diagonal(dim1=1, dim2=2)
        refitted[some] = torch.zeros_like(rows[some]).scatter_(1, index, solved)
        costs[some] = torch.zeros_like(rows[some]).scatter_(1, index, cost)
        used = max(used, needed)
    return costs, refitted, used


def _submatrices(gram: Tensor, keep: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Rows of similar support together: which rows, their columns [r, k], which of them count, gram there [r, k, k].

    Shorter supports are filled up with columns that don't count, as an identity: sparse rows make small matrices.
    """
    counts = keep.sum(1)
    order = counts.argsort(descending=True, stable=True)
    start = 0
    while start < len(order):
        size = max(1, int(counts[order[start]]))
        some = order[start : start + max(1, _NUMBERS_AT_ONCE // size**2)]
        kept = keep[some]
        index = kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :size]
        valid = kept.gather(1, index).to(gram.dtype)
        part = gram[index[:, :, None], index[:, None, :]]
        part.mul_(valid[:, :, None]).mul_(valid[:, None, :])
        part.diagonal(dim1=1, dim2=2).add_(1 - valid)
        yield some, index, valid, part
        start += len(some)


def _conjugate_gradients(gram: Tensor, products: Tensor, keep: Tensor, damping: float, start: Tensor) -> Tensor:
    """The same minimum for many long rows at once, each with its own mask (Hestenes & Stiefel, 1952), Jacobi scaled."""
    mask = keep.to(gram.dtype)
    inverse_diagonal = mask / (gram.diagonal() + damping).clamp_min(torch.finfo(gram.dtype).eps)
    w = start * mask
    residual = (products - w @ gram - damping * w) * mask
    z = residual * inverse_diagonal
    direction, energy = z.clone(), (residual * z).sum(1, keepdim=True)
    goal = 1e-8 * energy
    for _ in range(300):
        if bool((energy <= goal).all()):
            break
        along = (direction @ gram + damping * direction) * mask
        curvature = (direction * along).sum(1, keepdim=True)
        step = torch.where(curvature > 0, energy / curvature, torch.zeros_like(energy))
        w += step * direction
        residual -= step * along
        z = residual * inverse_diagonal
        energy, before = (residual * z).sum(1, keepdim=True), energy
        direction = z + torch.where(before > 0, energy / before, torch.zeros_like(energy)) * direction
    return w
