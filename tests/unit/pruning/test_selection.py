"""The exact k-th smallest, and masks with exactly so many zeros."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_bootcamp.pruning.selection import keep_highest, kth_smallest

numbers = st.lists(st.floats(-5, 5, width=32) | st.sampled_from([0.0, -0.0, float("-inf")]), min_size=1, max_size=60)


@given(numbers, st.data())
@settings(max_examples=150, deadline=None)
def test_kth_smallest_is_that_of_a_sort(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    cut = data.draw(st.integers(0, len(values)))
    parts = [torch.tensor(part, dtype=torch.float32) for part in (values[:cut], values[cut:]) if part]
    before = [part.clone() for part in parts]
    assert kth_smallest(parts, k) == sorted(values)[k - 1]
    assert all(torch.equal(a, b) for a, b in zip(parts, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_is_selected_exactly(dtype: torch.dtype) -> None:
    score = torch.randn(1001).to(dtype)
    for count in (0, 1, 500, 1000, 1001):
        keep = keep_highest(score, count)
        assert int((~keep).sum()) == count
        if 0 < count < 1001:
            assert score[~keep].max() <= score[keep].min()


def test_a_strided_score_is_read_in_its_own_order() -> None:
    score = torch.arange(12.0).reshape(3, 4).T  # not contiguous
    assert torch.equal(keep_highest(score, 5), score > 4)
    tied = torch.zeros(3, 4).T
    assert keep_highest(tied, 4).reshape(-1).tolist() == [False] * 4 + [True] * 8


@given(st.integers(1, 300), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_all_equal_scores_lose_the_first_ones(size: int, count: int) -> None:
    count = min(size, count)
    assert keep_highest(torch.ones(size), count).tolist() == [False] * count + [True] * (size - count)
