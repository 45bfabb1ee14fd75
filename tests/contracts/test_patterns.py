"""Every registered pattern: exactly `count` zeros of the score's shape, lowest first, or None when it does not fit."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.shorthand import parse_pattern

ARGS: dict[str, list[dict[str, Any]]] = {
    "nm": [{"n": 2, "m": 4}, {"n": 4, "m": 8}, {"n": 1, "m": 4}, {"n": 4, "m": 4}, {"n": 3, "m": 5}],
    "block": [{}, {"rows": 2, "columns": 1}, {"rows": 1, "columns": 3}],
    "threshold": [{}, {"value": 0.5}],
}
CASES = [(name, args) for name in PATTERNS for args in ARGS.get(name, [{}])]
SHAPES = [(8, 8), (4, 16), (10, 7), (8, 40, 3, 3), (16, 1, 3, 3), (12, 3, 3, 3), (4, 8, 5), (5,)]


def counts_for(name: str, score: Tensor, args: dict[str, Any]) -> list[int]:
    """Counts that the pattern can be asked for: its own, or multiples of its units' size."""
    facts = PATTERNS[name].facts
    if "fixed_count" in facts:
        return [facts["fixed_count"](score, **args)]
    units = facts["pool"](score, **args) if "pool" in facts else score
    size = score.numel() // units.numel()
    return [round(share * units.numel()) * size for share in (0, 0.25, 0.5, 0.9, 1)]


@pytest.mark.parametrize(("name", "args"), CASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_exactly_count_zeros_or_none_with_a_reason(name: str, args: dict[str, Any], shape: tuple[int, ...]) -> None:
    score = torch.rand(shape)
    misfit = PATTERNS[name].facts.get("misfit")
    reason = misfit(shape, **args) if misfit else None
    if reason:
        assert PATTERNS[name](score, 0, **args) is None
        assert str(args.get("m", args.get("rows", 4))) in reason
        return
    for count in counts_for(name, score, args):
        before = score.clone()
        keep = PATTERNS[name](score, count, **args)
        assert keep.shape == score.shape
        assert keep.dtype == torch.bool
        assert int((~keep).sum()) == count
        assert torch.equal(score, before)


@pytest.mark.parametrize(("name", "args"), CASES)
def test_all_equal_scores_still_give_the_exact_count(name: str, args: dict[str, Any]) -> None:
    score = torch.full((20, 40), 0.3)
    if (misfit := PATTERNS[name].facts.get("misfit")) and misfit((20, 40), **args):
        score = torch.full((24, 24), 0.3)
    for count in counts_for(name, score, args):
        assert int((~PATTERNS[name](score, count, **args)).sum()) == count


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_unstructured_is_one_stable_sort(values: list[int], share: float) -> None:
    score = torch.tensor(values, dtype=torch.float32)
    count = round(share * len(values))
    expected = torch.ones(len(values), dtype=torch.bool)
    expected[score.argsort(stable=True)[:count]] = False
    assert torch.equal(PATTERNS["unstructured"](score, count), expected)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 3), st.integers(1, 3), st.sampled_from([(), (3,), (2, 3)]))
@settings(max_examples=80, deadline=None)
def test_nm_keeps_the_n_highest_of_every_m_inputs(n: int, m: int, outputs: int, groups: int, kernel: tuple) -> None:
    n, m = min(n, m), max(n, m)
    score = torch.randint(0, 5, (outputs, groups * m, *kernel)).float()  # many ties
    keep = PATTERNS["nm"](score, score.numel() // m * (m - n), n=n, m=m)
    # by hand: every (output, kernel position) is a row of inputs, cut into groups of m neighbours
    rows, kept_rows = (t.movedim(1, -1).reshape(-1, groups, m) for t in (score, keep))
    for row, kept_row in zip(rows.tolist(), kept_rows.tolist(), strict=True):
        for values, kept in zip(row, kept_row, strict=True):
            going = sorted(range(m), key=values.__getitem__)[: m - n]  # stable: ties by lowest index
            assert kept == [i not in going for i in range(m)]


def test_nm_groups_in_channels_of_a_convolution_by_hand() -> None:
    score = torch.arange(8.0).reshape(1, 4, 1, 2)  # in-channels 0..3, two kernel positions
    keep = PATTERNS["nm"](score, 4, n=2, m=4)
    assert keep[0, :, 0, 0].tolist() == [False, False, True, True]
    assert keep[0, :, 0, 1].tolist() == [False, False, True, True]


def test_block_takes_whole_blocks_with_the_lowest_mean() -> None:
    score = torch.ones(4, 4)
    score[2:, :2] = 0.1
    score[0, 0] = 0.0  # one low weight does not condemn its block
    keep = PATTERNS["block"](score, 4, rows=2, columns=2)
    expected = torch.ones(4, 4, dtype=torch.bool)
    expected[2:, :2] = False
    assert torch.equal(keep, expected)


def test_per_output_takes_as_many_from_each_row_and_the_rest_where_it_costs_least() -> None:
    score = torch.tensor([[1.0, 2.0, 3.0, 9.0], [8.0, 7.0, 6.0, 5.0], [4.0, 1.5, 0.5, 2.5]])
    keep = PATTERNS["per_output"](score, 6)
    assert keep.tolist() == [[False, False, True, True], [True, True, False, False], [True, False, False, True]]
    keep = PATTERNS["per_output"](score, 7)  # the third of the last row (2.5) is worth less than 3 and 7
    assert keep.sum(1).tolist() == [2, 2, 1]
    assert not keep[2, 3]


def test_per_output_counts_earlier_zeros_in() -> None:
    score = torch.ones(3, 4)
    score[0, :3] = -torch.inf
    keep = PATTERNS["per_output"](score, 6)
    assert (~keep).sum(1).tolist() == [3, 2, 1]
    assert not keep[0, :3].any()


def test_threshold_prunes_what_is_below_and_keeps_what_is_equal() -> None:
    score = torch.tensor([[0.0, 0.01], [0.0099, 2.0]])
    assert PATTERNS["threshold"](score, 2, value=0.01).tolist() == [[False, True], [False, True]]


def test_short_forms() -> None:
    assert parse_pattern("2:4") == ("nm", {"n": 2, "m": 4})
    assert parse_pattern(" 4 : 8 ") == ("nm", {"n": 4, "m": 8})
    assert parse_pattern("4x1") == ("block", {"rows": 4, "columns": 1})
    assert parse_pattern("unstructured") == ("unstructured", {})


@pytest.mark.parametrize(("number", "meant"), [(124, "2:4"), (248, "4:8"), (64, "1:4"), (976, "16:16")])
def test_an_unquoted_nm_in_yaml_is_explained(number: int, meant: str) -> None:
    with pytest.raises(BootcampError, match=f'{meant} unquoted in YAML is the number {number}. Write "{meant}"'):
        parse_pattern(number)


@pytest.mark.parametrize("value", [True, 12, 120, 2.4, None])
def test_other_values_are_no_patterns(value: object) -> None:
    with pytest.raises(BootcampError, match="is not a pattern"):
        parse_pattern(value)
