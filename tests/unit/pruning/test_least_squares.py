"""Rows fitted on their masks against torch.linalg.lstsq; removals against taking each weight away and fitting again."""

import pytest
import torch
from torch import Tensor

from pruning_bootcamp.pruning.layers import least_squares
from pruning_bootcamp.pruning.layers.least_squares import factorise, fit_rows, removal_costs, scale_of

SAMPLES, COLUMNS, ROWS = 60, 12, 7


def towards_of(seed: int = 7) -> Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Correlated inputs x, wanted outputs y, and masks: one row with everything pruned, one with nothing."""
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(COLUMNS, COLUMNS, generator=g, dtype=torch.float64)
    x = torch.randn(SAMPLES, COLUMNS, generator=g, dtype=torch.float64) @ mixing * scale
    y = torch.randn(SAMPLES, ROWS, generator=g, dtype=torch.float64)
    keep = torch.rand(ROWS, COLUMNS, generator=g) < torch.linspace(0.1, 0.9, ROWS)[:, None]
    keep[0], keep[-1] = False, True
    return x, y, keep


def moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x.T @ x / len(x), y.T @ x / len(x)


def by_lstsq(x: Tensor, y: Tensor, keep: Tensor) -> Tensor:
    rows = torch.zeros(y.shape[1], x.shape[1], dtype=x.dtype)
    for row, kept in enumerate(keep):
        if kept.any():
            rows[row, kept] = torch.linalg.lstsq(x[:, kept], y[:, row, None]).solution[:, 0]
    return rows


def regularised(gram: Tensor, products: Tensor, keep: Tensor, damping: float, towards: Tensor) -> Tensor:
    """The minimum that fit_rows promises, one row at a time."""
    rows, lift = torch.zeros_like(products), damping * gram.diagonal().mean()
    for row, kept in enumerate(keep):
        inner = gram[kept][:, kept] + lift * torch.eye(int(kept.sum()), dtype=gram.dtype)
        rows[row, kept] = torch.linalg.solve(inner, products[row, kept] + lift * towards[row, kept])
    return rows


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_rows_are_the_least_squares_solution_on_their_masks(scale: float) -> None:
    x, y, keep = problem(scale=scale)
    rows, used = fit_rows(*moments(x, y), keep, 1e-12, torch.zeros(ROWS, COLUMNS, dtype=torch.float64))
    assert used == 1e-12
    assert torch.allclose(rows * scale, by_lstsq(x, y, keep) * scale, atol=1e-6)
    assert (rows[~keep] == 0).all()
    assert (rows[0] == 0).all()


@pytest.mark.parametrize("at_once", [1, 200, 2**23])
def test_damping_pulls_towards_the_given_rows_by_the_same_share_in_every_row(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever rows are solved together, and however large the inputs are that a row keeps."""
    monkeypatch.setattr(least_squares, "_NUMBERS_AT_ONCE", at_once)
    x, y, keep = problem()
    x = x * torch.logspace(-1, 1, COLUMNS, dtype=torch.float64)
    towards = towards_of()
    gram, products = moments(x, y)
    rows, _ = fit_rows(gram, products, keep, 0.1, towards)
    assert torch.allclose(rows, regularised(gram, products, keep, 0.1, towards), atol=1e-10)


@pytest.mark.parametrize("damping", [1e-3, 0.1])
def test_conjugate_gradients_find_the_same_minimum(damping: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, keep = problem()
    gram, products = moments(x, y)
    towards = towards_of()
    direct, _ = fit_rows(gram, products, keep, damping, towards)
    monkeypatch.setattr(least_squares, "_DIRECT_LIMIT", 0)
    monkeypatch.setattr(least_squares, "factorise", None)  # not called any more
    rows, used = fit_rows(gram, products, keep, damping, towards)
    assert used == damping
    assert (rows[~keep] == 0).all()

    def value(w: Tensor) -> Tensor:
        away = ((w - towards) * keep).square().sum(1) * damping * gram.diagonal().mean()
        return ((w @ gram) * w).sum(1) - 2 * (products * w).sum(1) + away

    assert (value(rows) - value(direct) <= 1e-6 * (value(towards * keep) - value(direct))).all()
    assert torch.allclose(rows, direct, atol=0.02 * float(direct.abs().max()))


def test_conjugate_gradients_do_without_damping_on_dead_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least_squares, "_DIRECT_LIMIT", 0)
    x, y, keep = problem()
    x[:, 3] = 0
    towards = torch.ones(ROWS, COLUMNS, dtype=torch.float64)
    rows, _ = fit_rows(*moments(x, y), keep, 0.0, towards)
    assert torch.isfinite(rows).all()
    wanted = by_lstsq(x[:, torch.arange(COLUMNS) != 3], y, keep[:, torch.arange(COLUMNS) != 3])
    assert torch.allclose(rows[:, torch.arange(COLUMNS) != 3], wanted, atol=1e-2)


@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_inputs_that_are_all_zero_leave_the_rows_where_they_were(damping: float) -> None:
    gram, products = torch.zeros(4, 4), torch.zeros(3, 4)
    towards = torch.randn(3, 4)
    for keep in (torch.ones(3, 4, dtype=torch.bool), torch.eye(3, 4, dtype=torch.bool)):
        rows, _ = fit_rows(gram, products, keep, damping, towards)
        assert torch.allclose(rows, towards * keep)


def test_a_dead_column_keeps_its_weight_and_the_others_are_fitted() -> None:
    x, y, _ = problem()
    x[:, 5] = 0
    towards, keep = torch.full((ROWS, COLUMNS), 0.7, dtype=torch.float64), torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    rows, used = fit_rows(*moments(x, y), keep, 1e-9, towards)
    assert used == 1e-9
    assert torch.allclose(rows[:, 5], towards[:, 5])
    others = torch.arange(COLUMNS) != 5
    assert torch.allclose(rows[:, others], by_lstsq(x[:, others], y, keep[:, others]), atol=1e-5)


@pytest.mark.parametrize("spoil", ["duplicate", "dead", "few"])
def test_a_gram_without_a_factor_gets_more_damping_and_says_so(spoil: str) -> None:
    x, y, keep = problem()
    keep[:] = True
    if spoil == "duplicate":
        x[:, 1] = x[:, 0]
    elif spoil == "dead":
        x[:, 1] = 0
    else:
        x, y = x[:3], y[:3]
    gram, products = moments(x.float(), y.float())
    rows, used = fit_rows(gram, products, keep, 0.0, torch.zeros(ROWS, COLUMNS))
    assert 0 < used <= 1e-4  # and no more of it than need be
    best = by_lstsq(x, y, keep) if spoil == "few" else None
    left = ((x.float() @ rows.T - y.float()) ** 2).mean()
    if best is None:
        kept = torch.arange(COLUMNS) != 1
        best = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
        best[:, kept] = by_lstsq(x[:, kept], y, keep[:, kept])
    assert float(left) <= float(((x @ best.T - y) ** 2).mean()) + 0.01


def test_a_factor_is_of_the_damped_gram_and_never_of_an_identity() -> None:
    gram = torch.ones(2, 3, 3, dtype=torch.float64)
    gram[1] = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    for damping in (0.0, 1e-6, 0.5):
        factor, used = factorise(gram, damping)
        assert used >= damping
        assert torch.allclose(factor @ factor.mT, gram + used * torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert float(scale_of(torch.zeros(2, 2))) == 1
    assert float(scale_of(torch.diag(torch.tensor([1.0, 3.0])))) == 2


def added(x: Tensor, w: Tensor, kept: Tensor) -> Tensor:
    """Half the mean squared change of the output when only `kept` is left and fitted again to what w gave."""
    wanted = x @ w
    refitted = torch.linalg.lstsq(x[:, kept], wanted[:, None]).solution[:, 0] if kept.any() else w[:0]
    return 0.5 * (x[:, kept] @ refitted - wanted).square().mean()


@pytest.mark.parametrize("full", [True, False])
def test_removal_costs_are_what_removing_each_weight_adds(full: bool) -> None:
    x, _, keep = problem(seed=1)
    keep = torch.ones_like(keep) if full else keep
    rows = towards_of()
    costs, refitted, used = removal_costs(x.T @ x / len(x), rows, keep, 1e-10)
    assert used == 1e-10
    assert torch.allclose(refitted, by_lstsq(x, x @ rows.T, keep), atol=1e-6)
    checked = 0
    for row in range(ROWS):
        start = added(x, rows[row], keep[row])
        for column in range(COLUMNS):
            if not keep[row, column]:
                assert costs[row, column] == 0
                continue
            without = keep[row].clone()
            without[column] = False
            rise = float(added(x, rows[row], without) - start)
            assert float(costs[row, column]) == pytest.approx(rise, rel=1e-5, abs=1e-8)
            checked += 1
    assert checked == int(keep.sum())


def test_full_rows_cost_the_same_alone_and_among_sparse_ones() -> None:
    x, _, keep = problem(seed=2)
    x, rows = x * torch.logspace(-1, 1, COLUMNS, dtype=torch.float64), towards_of()
    gram = x.T @ x / len(x)
    among, fitted, _ = removal_costs(gram, rows, keep, 0.05)
    alone, _, _ = removal_costs(gram, rows[-1:], keep[-1:], 0.05)
    assert torch.allclose(among[-1:], alone)
    assert torch.allclose(fitted[-1], rows[-1])


def test_removals_from_inputs_that_are_all_zero_cost_next_to_nothing() -> None:
    rows = torch.randn(3, 4)
    costs, refitted, _ = removal_costs(torch.zeros(4, 4), rows, torch.rand(3, 4) < 2, 1e-3)
    assert (costs <= 1e-3 * rows.square()).all()
    assert torch.equal(refitted, rows)
