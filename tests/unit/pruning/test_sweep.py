"""SparseGPT's sweep against its paper's words: one column after the other, inverses eliminated one by one."""

import functools

import pytest
import torch
from torch import Tensor

from pruning_bootcamp.pruning.selection import keep_highest
from pruning_bootcamp.pruning.solvers.sweep import ColumnBlock, kernel_major, parts_of, sweep

ROWS, COLUMNS = 6, 16


def setting(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights, and mean products of inputs that depend on each other."""
    g = torch.Generator().manual_seed(seed)
    draw = functools.partial(torch.randn, generator=g, dtype=torch.float64)
    x = draw(200, COLUMNS) @ draw(COLUMNS, COLUMNS)
    return draw(ROWS, COLUMNS), x.T @ x / len(x)


def columns(size: int) -> list[ColumnBlock]:
    return [
        ColumnBlock(slice(start, min(start + size, COLUMNS)), 1, min(size, COLUMNS - start))
        for start in range(0, COLUMNS, size)
    ]


def half(part: ColumnBlock, score: Tensor) -> Tensor:
    return keep_highest(score, score.numel() // 2)


def by_the_paper(rows: Tensor, hessian: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Algorithm 1 with explicit inverses: after each column the inverse of what is left, by Gaussian elimination."""
    rows, keep = rows.clone(), torch.ones(rows.shape, dtype=torch.bool)
    inverse = torch.linalg.inv(hessian)
    inverses = []
    for j in range(len(hessian)):
        inverses.append(inverse.clone())
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    for j in range(len(hessian)):
        if j % size == 0:
            here = range(j, min(j + size, len(hessian)))
            scores = torch.stack([rows[:, c] ** 2 / inverses[c][c, c] for c in here], 1)
            keep[:, j : j + size] = half(columns(size)[0], scores)
        for i in (~keep[:, j]).nonzero().flatten().tolist():  # the optimal-brain-surgeon update of all later weights
            update = rows[i, j] / inverses[j][j, j] * inverses[j][j]
            rows[i, j + 1 :] -= update[j + 1 :]
            rows[i, j] = 0
    return rows, keep


@pytest.mark.parametrize("size", [1, 4, 5, 16])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_sweep_is_algorithm_1(size: int, seed: int) -> None:
    rows, gram = setting(seed)
    hessian = gram + 0.01 * gram.diagonal().mean() * torch.eye(COLUMNS, dtype=torch.float64)
    expected, wanted = by_the_paper(rows, hessian, size)
    keep, used = sweep(rows, gram, 0.01, columns(size), half)
    assert used == 0.01
    assert torch.equal(keep, wanted)
    assert torch.allclose(rows, expected, atol=1e-9)
    assert torch.equal(rows == 0, ~keep)


def test_scores_are_in_units_that_do_not_depend_on_the_inputs_size() -> None:
    rows, gram = setting()
    small, large = rows.clone(), rows.clone()
    masks = [sweep(some, gram * scale, 0.01, columns(4), half)[0] for some, scale in ((small, 1e-9), (large, 1e9))]
    assert torch.equal(*masks)
    assert torch.allclose(small, large)


def test_keeping_everything_changes_nothing() -> None:
    rows, gram = setting()
    before = rows.clone()
    keep, _ = sweep(rows, gram, 0.01, columns(4), lambda part, score: torch.ones_like(score, dtype=torch.bool))
    assert keep.all()
    assert torch.equal(rows, before)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [4, COLUMNS])
def test_outputs_are_nearer_than_with_magnitude_masks_of_the_same_counts(seed: int, size: int) -> None:
    """On inputs of which neighbours are alike, as those of images are."""
    rows, _ = setting(seed)
    distance = (torch.arange(COLUMNS)[:, None] - torch.arange(COLUMNS)).abs()
    gram = 0.8 ** distance.double()
    kept = [keep_highest(rows[:, part.columns].abs(), ROWS * size // 2) for part in columns(size)]
    lost = rows * ~torch.cat(kept, 1)
    by_size = (lost @ gram * lost).sum()
    before = rows.clone()
    sweep(rows, gram, 0.01, columns(size), half)
    assert float(((rows - before) @ gram * (rows - before)).sum()) < 0.8 * float(by_size)


@pytest.mark.parametrize("spoil", ["duplicate", "zeros", "dead"])
def test_singular_inputs_raise_the_damping_and_the_sweep_still_works(spoil: str) -> None:
    rows, gram = setting()
    rows, gram = rows.float(), gram.float()
    before = rows.clone()
    if spoil == "duplicate":
        gram[:, 1], gram[1] = gram[:, 0], gram[0]
        gram[1, 1] = gram[0, 0]
    elif spoil == "dead":
        gram[:, 1] = gram[1] = 0
    else:
        gram = torch.zeros_like(gram)
    keep, used = sweep(rows, gram, 0.0, columns(4), half)
    assert used > 0
    assert torch.isfinite(rows).all()
    assert int((~keep).sum()) == rows.numel() // 2
    if spoil == "zeros":  # nothing to tell by but the weights, nothing to make up for
        assert torch.equal(rows, before * keep)
        assert torch.equal(keep[:, :4], keep_highest(before[:, :4].abs(), ROWS * 2))


def test_kernel_major_puts_the_inputs_of_one_position_side_by_side() -> None:
    weight = torch.arange(2 * 6 * 4).reshape(2, 6, 2, 2)
    part = ColumnBlock(slice(0, 24), 4, 6)
    in_order = weight.flatten(1)[:, kernel_major(6, 4)]
    assert torch.equal(in_order[:, :6], weight[:, :, 0, 0])
    assert torch.equal(part.as_weight(in_order), weight.flatten(2))
    assert torch.equal(part.as_columns(part.as_weight(in_order)), in_order)


@pytest.mark.parametrize("channels", [1, 3, 4, 12, 64, 130])
@pytest.mark.parametrize("positions", [1, 4, 9])
@pytest.mark.parametrize("size", [1, 4, 32, 128])
@pytest.mark.parametrize("m", [1, 4])
def test_parts_cover_every_column_once_and_fit_what_the_layer_fits(
    channels: int, positions: int, size: int, m: int
) -> None:
    parts = parts_of(channels, positions, size, lambda some: some % m == 0)
    covered = [column for part in parts for column in range(channels * positions)[part.columns]]
    assert covered == list(range(channels * positions))
    assert all(len(range(channels * positions)[part.columns]) == part.channels * part.positions for part in parts)
    if channels % m == 0:
        assert all(part.channels % m == 0 for part in parts)
    assert all(part.positions == 1 or part.channels * part.positions <= size for part in parts)
