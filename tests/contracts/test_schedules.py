"""Every registered schedule: non-decreasing, in [0, 1], and the whole target at the end."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.weights.schedules import (
    SCHEDULES,
    Cubic,
    Exponential,
    Gradual,
    OneShot,
    check_schedule,
    iterative_sparsities,
)

ARGS: dict[str, list[dict[str, Any]]] = {
    "one_shot": [{}, {"at": 0.4}, {"at": 1.0}],
    "exponential": [{}, {"initial": 0.1}, {"initial": 1.0}],
}
CASES = [(name, args) for name in SCHEDULES for args in ARGS.get(name, [{}])]


@pytest.mark.parametrize(("name", "args"), CASES)
@given(times=st.lists(st.floats(0, 1), min_size=2, max_size=20))
@settings(max_examples=40, deadline=None)
def test_non_decreasing_within_bounds_and_complete(name: str, args: dict[str, Any], times: list[float]) -> None:
    shares = [SCHEDULES[name](t, **args) for t in sorted(times)]
    assert all(0 <= share <= 1 for share in shares)
    assert all(earlier <= later + 1e-12 for earlier, later in pairwise(shares))
    assert SCHEDULES[name](1.0, **args) == 1.0


@pytest.mark.parametrize(("t", "percent"), [(0.0, 0.0), (0.25, 40.5), (0.5, 61.3), (0.75, 68.9), (1.0, 70.0)])
def test_cubic_is_zhu_and_gupta(t: float, percent: float) -> None:
    assert 100 * 0.7 * SCHEDULES["cubic"](t) == pytest.approx(percent, abs=0.0501)  # 61.25 is printed as 61.3


def test_exponential_grows_by_equal_factors() -> None:
    initial, final = 0.2, 0.8
    values = [final * SCHEDULES["exponential"](t / 4, initial=initial / final) for t in range(5)]
    assert values == pytest.approx([initial * (final / initial) ** (t / 4) for t in range(5)])


@pytest.mark.parametrize(("name", "args"), CASES)
@given(target=st.floats(0, 1, exclude_max=True), cycles=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_iterative_sparsities_rise_to_the_target(name: str, args: dict[str, Any], target: float, cycles: int) -> None:
    steps = iterative_sparsities(target, cycles, name, args)
    assert len(steps) == cycles
    assert steps[-1] == target
    assert all(earlier <= later + 1e-12 for earlier, later in pairwise(steps))


@given(step=st.integers(-50, 300), start=st.integers(0, 100), length=st.integers(1, 150), target=st.floats(0.01, 1))
def test_the_classes_say_what_the_functions_say(step: int, start: int, length: int, target: float) -> None:
    t = min(max((step - start) / length, 0), 1)
    pairs = [
        (Cubic(start, start + length, target), target * SCHEDULES["cubic"](t)),
        (Gradual(start, start + length, 0.0, target), target * SCHEDULES["linear"](t)),
        (OneShot(start, target), target * SCHEDULES["one_shot"](0.0 if step < start else 1.0, at=1.0)),
        (
            Exponential(start, start + length, target / 4, target),
            0.0 if step < start else target * SCHEDULES["exponential"](t, initial=0.25),
        ),
    ]
    for schedule, expected in pairs:
        assert schedule.sparsity_at_step(step) == pytest.approx(expected, abs=1e-9), schedule
        assert schedule.final_sparsity == schedule.sparsity_at_step(start + length) == target


@given(
    steps=st.lists(st.integers(0, 400), min_size=2, max_size=20),
    start=st.integers(0, 100),
    length=st.integers(1, 200),
    ends=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    frequency=st.integers(1, 50),
)
def test_the_classes_never_fall_and_stay_within_bounds(
    steps: list[int], start: int, length: int, ends: tuple[float, float], frequency: int
) -> None:
    low, high, end = *sorted(ends), start + length
    for schedule in (
        OneShot(start, high),
        Gradual(start, end, low, high, frequency),
        Cubic(start, end, high),
        Exponential(start, end, low, high),
    ):
        values = [schedule.sparsity_at_step(step) for step in sorted(steps)]
        assert all(0 <= value <= high + 1e-12 for value in values)
        assert all(earlier <= later + 1e-12 for earlier, later in pairwise(values))


def test_iterative_linear_by_hand() -> None:
    assert iterative_sparsities(0.9, 3, "linear") == pytest.approx([0.3, 0.6, 0.9])


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("cubik", {}, "Did you mean 'cubic'"),
        ("exponential", {"initial": 0.0}, r"initial: 0.0 is not in \(0, 1\]"),
        ("one_shot", {"at": 2}, r"at: 2.0 is not in \[0, 1\]"),
        ("linear", {"power": 2}, "unknown setting 'power'"),
    ],
)
def test_wrong_schedules_are_explained(name: str, args: dict[str, Any], message: str) -> None:
    (problem,) = check_schedule(name, args, "prune.schedule")
    assert str(problem).startswith("prune.schedule")
    with pytest.raises(BootcampError, match=message):
        iterative_sparsities(0.5, 2, name, args)


def test_no_cycle_is_refused() -> None:
    with pytest.raises(BootcampError, match="at least 1"):
        iterative_sparsities(0.5, 0)
