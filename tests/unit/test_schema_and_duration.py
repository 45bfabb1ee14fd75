"""Values against annotations: what converts without loss does, and nothing else."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_bootcamp.duration import parse_duration
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.schema import Mismatch, coerce


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, 1.0),
        ("1e-3", float, 1e-3),
        (3.0, int, 3),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([0.5, 0.5], tuple[float, float], (0.5, 0.5)),
        ("3ep", int | str, "3ep"),
        (3, int | str, 3),
        (None, float | None, None),
        ("bf16", Literal["bf16", "fp16"] | None, "bf16"),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ("x", Any, "x"),
    ],
)
def test_converts_what_loses_nothing(value: Any, annotation: Any, expected: Any) -> None:
    result = coerce(value, annotation)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (True, int),
        (1, bool),
        (1.5, int),
        ("x", float),
        (float("nan"), float),
        (False, Literal["bf16"] | None),
        (1, str),
        ([1], tuple[int, int]),
        ("abc", list[str]),
        (3, dict[str, int]),
    ],
)
def test_refuses_what_would_change_meaning(value: Any, annotation: Any) -> None:
    with pytest.raises(Mismatch):
        coerce(value, annotation)


@given(st.integers(0, 10**6), st.sampled_from(["ep", "it"]), st.integers(1, 10**4))
def test_a_duration_survives_its_own_text(value: int, unit: str, per_epoch: int) -> None:
    duration = parse_duration(f"{value}{unit}")
    assert parse_duration(str(duration)) == duration
    assert duration.steps(per_epoch) == (value * per_epoch if unit == "ep" else value)


def test_a_bare_number_is_epochs_and_nonsense_is_refused() -> None:
    assert parse_duration(3).unit == "ep"
    for nonsense in ("3 weeks", "-1ep", "", True, "1.5ep"):
        with pytest.raises(BootcampError, match="not a duration"):
            parse_duration(nonsense)
