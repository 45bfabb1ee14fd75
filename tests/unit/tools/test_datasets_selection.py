"""Which images are held out or kept: exact counts, the classes' true shares, the same on every machine."""

import pytest
import torch

from pruning_bootcamp.tools.datasets.selection import evenly_spaced, halve, hold_out, take

BALANCED = torch.arange(1000) % 10
SKEWED = torch.tensor([0] * 900 + [1] * 90 + [2] * 9 + [3])


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.333])
def test_hold_out_is_a_partition_in_true_shares(fraction: float) -> None:
    kept, held = hold_out(BALANCED, fraction, seed=0)
    assert len(held) == round(1000 * fraction)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(1000))
    counts = BALANCED[held].bincount(minlength=10)
    assert counts.max() - counts.min() <= 1


def test_rare_classes_keep_an_image_to_learn_from() -> None:
    for seed in range(20):
        kept, held = hold_out(SKEWED, 0.5, seed)
        assert SKEWED[kept].unique().tolist() == [0, 1, 2, 3]
        shares = SKEWED[held].bincount(minlength=4)
        assert shares[0] == pytest.approx(450, abs=2)
        assert shares[1] == pytest.approx(45, abs=1)


@pytest.mark.parametrize(("count", "fraction", "held"), [(2, 0.01, 1), (2, 0.99, 1), (5, 0.5, 2)])
def test_neither_side_is_empty(count: int, fraction: float, held: int) -> None:
    assert len(hold_out(torch.zeros(count, dtype=torch.long), fraction, 0)[1]) == held


def test_the_choice_is_random_within_a_class_and_fixed_by_the_seed() -> None:
    _, first = hold_out(BALANCED, 0.1, seed=0)
    _, again = hold_out(BALANCED, 0.1, seed=0)
    _, other = hold_out(BALANCED, 0.1, seed=1)
    assert torch.equal(first, again)
    assert len(set(first.tolist()) & set(other.tolist())) < 30  # 10 expected by chance
    assert first.float().mean() == pytest.approx(500, abs=90)  # from the whole list, not from one end


def test_a_smaller_take_is_part_of_a_larger_one() -> None:
    previous: set[int] = set()
    for count in (10, 100, 500, 999, 1000):
        chosen = take(BALANCED, count, seed=3)
        assert len(chosen) == len(set(chosen.tolist())) == count
        assert previous <= set(chosen.tolist())
        counts = BALANCED[chosen].bincount(minlength=10)
        assert counts.max() - counts.min() <= 1
        previous = set(chosen.tolist())


def test_spread_covers_the_whole_range() -> None:
    assert evenly_spaced(10, None).tolist() == list(range(10))
    assert evenly_spaced(10, 20).tolist() == list(range(10))
    assert evenly_spaced(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert evenly_spaced(50000, 10000).unique().numel() == 10000


def test_halves_are_a_partition_of_every_class_in_two() -> None:
    for suffix in ("png", "jpg", "webp"):
        names = [f"{label}/{index}.{suffix}" for index, label in enumerate(SKEWED.tolist())]
        first, second = halve(SKEWED, names)
        assert sorted([*first.tolist(), *second.tolist()]) == list(range(1000))
        counts = SKEWED[first].bincount(minlength=4), SKEWED[second].bincount(minlength=4)
        # 9 images and 1: the spare images go to the second half and to the first, in turn
        assert [counts[0].tolist(), counts[1].tolist()] == [[450, 45, 4, 1], [450, 45, 5, 0]]


def test_an_image_stays_on_its_side_whatever_the_order_and_whatever_is_added() -> None:
    names = [f"{index}.png" for index in range(200)]

    def side(order: list[str]) -> set[str]:
        first, _ = halve(torch.zeros(len(order), dtype=torch.long), order)
        return {order[index] for index in first.tolist()}

    first = side(names)
    assert side(names[::-1]) == first
    assert len(side([*names, "new.png"]) ^ first) <= 2  # the new one, and one that made room for it
    assert len(first & set(names[:100])) in range(30, 71)  # not the first ones, which cameras number in a row
