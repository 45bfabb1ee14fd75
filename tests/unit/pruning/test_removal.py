"""Units that go one by one, against every choice tried by hand."""

import itertools

import pytest
import torch
from torch import Tensor

from pruning_bootcamp.pruning.channels.removal import Reader, refitted_rows, removal_errors


def reader(units: int, columns_each: int, outputs: int, seed: int) -> tuple[Reader, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width = units * columns_each
    x = torch.randn(400, width, generator=generator, dtype=torch.double)
    x = x @ torch.randn(width, width, generator=generator, dtype=torch.double)
    x = torch.cat([x, torch.ones(400, 1).double()], 1)
    rows = torch.randn(width + 1, outputs, generator=generator, dtype=torch.double)
    columns = torch.arange(width).view(units, columns_each)
    return Reader(x.T @ x, rows, columns), x


def left_without(one: Reader, x: Tensor, units: list[int]) -> float:
    """Least squares itself, on the samples."""
    stays = [c for c in range(x.shape[1]) if c not in one.columns[units].flatten().tolist()]
    wanted = x @ one.rows
    solved = torch.linalg.lstsq(x[:, stays], wanted).solution
    return float((x[:, stays] @ solved - wanted).square().sum())


def test_the_first_to_go_is_the_one_that_costs_least() -> None:
    one, x = reader(6, 2, 3, seed=0)
    gone, errors = removal_errors([one])
    alone = [left_without(one, x, [unit]) for unit in range(6)]
    assert gone[0] == min(range(6), key=alone.__getitem__)
    assert float(errors[1]) == pytest.approx(min(alone) / one.power, rel=0.05)  # damped a little
    assert sorted(gone) == list(range(6))
    assert bool((errors.diff() >= 0).all())


def test_errors_add_up_to_what_is_left_of_all_that_are_gone() -> None:
    one, x = reader(5, 1, 2, seed=1)
    gone, errors = removal_errors([one])
    for count in (1, 2, 3):
        assert float(errors[count]) == pytest.approx(left_without(one, x, gone[:count]) / one.power, rel=0.05)


def test_an_order_that_is_given_is_followed() -> None:
    one, _ = reader(5, 2, 2, seed=2)
    gone, errors = removal_errors([one], [4, 3, 2, 1, 0])
    assert gone == [4, 3, 2, 1, 0]
    assert float(errors[-1]) >= float(removal_errors([one])[1][3])


def test_two_readers_are_weighed_by_what_they_put_out() -> None:
    first, _ = reader(4, 1, 2, seed=3)
    second, _ = reader(4, 1, 2, seed=4)
    loud = Reader(second.gram * 1e6, second.rows, second.columns)
    assert removal_errors([first, loud])[0] == removal_errors([first, second])[0]


def test_a_channel_that_others_make_up_for_costs_nothing() -> None:
    """x2 = 2 x0 - x1, by hand: w = (1, 3, 5) becomes (11, -2) without it."""
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    x = torch.cat([x, 2 * x[:, :1] - x[:, 1:], torch.ones(50, 1).double()], 1)
    rows = torch.tensor([[1.0], [3.0], [5.0], [0.5]], dtype=torch.double)
    one = Reader(x.T @ x, rows, torch.arange(3)[:, None])
    found = refitted_rows(one, [2])
    assert found.flatten().tolist() == pytest.approx([11.0, -2.0, 0.0, 0.5], abs=0.02)
    _, errors = removal_errors([one])
    assert float(errors[1]) < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_the_greedy_order_is_near_the_best_pair(seed: int) -> None:
    one, x = reader(6, 1, 3, seed=seed)
    gone, _ = removal_errors([one])
    best = min(left_without(one, x, list(pair)) for pair in itertools.combinations(range(6), 2))
    assert left_without(one, x, gone[:2]) <= 3 * best
