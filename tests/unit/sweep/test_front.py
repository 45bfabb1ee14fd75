"""The Pareto front and the hypervolume, by hand and against brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_bootcamp.reporting.pareto import hypervolume, pareto_front

POINTS = st.lists(st.tuples(st.integers(0, 20).map(float), st.integers(0, 20).map(float)), max_size=30)


def test_the_front_by_hand() -> None:
    points = [(90.0, 3.0), (95.0, 5.0), (80.0, 4.0), (95.0, 6.0), (70.0, 1.0)]
    assert pareto_front(points) == [4, 0, 1]
    assert pareto_front([]) == []
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)]) == [0, 1], "equals don't beat each other"


def test_the_hypervolume_by_hand() -> None:
    # of the rectangle 100 x 10: 50 x 8 below the first point, and (80 - 50) x 5 more
    assert hypervolume([(50.0, 2.0), (80.0, 5.0)], (0.0, 10.0)) == pytest.approx((50 * 8 + 30 * 5) / 1000)
    assert hypervolume([], (0.0, 10.0)) == 0
    assert hypervolume([(100.0, 0.0)], (0.0, 10.0)) == 1
    assert hypervolume([(50.0, 10.0), (0.0, 1.0)], (0.0, 10.0)) == 0, "no better than the reference"


@given(POINTS)
def test_the_front_is_what_brute_force_finds(points: list[tuple[float, float]]) -> None:
    def beaten(one: tuple[float, float]) -> bool:
        return any(a >= one[0] and c <= one[1] and (a, c) != one for a, c in points)

    expected = {number for number, point in enumerate(points) if not beaten(point)}
    front = pareto_front(points)
    assert set(front) == expected
    assert len(front) == len(expected)
    assert [points[number][1] for number in front] == sorted(points[number][1] for number in front)


@given(POINTS)
def test_the_hypervolume_is_the_share_of_unit_squares_that_are_dominated(points: list[tuple[float, float]]) -> None:
    squares = sum(
        any(accuracy >= row + 1 and cost <= column for accuracy, cost in points)
        for row in range(20)
        for column in range(20)
    )
    assert hypervolume(points, (0.0, 20.0), best=20.0) == pytest.approx(squares / 400)


@given(POINTS, st.tuples(st.integers(0, 20).map(float), st.integers(0, 20).map(float)))
def test_another_point_never_makes_it_smaller(points: list[tuple[float, float]], more: tuple[float, float]) -> None:
    before = hypervolume(points, (0.0, 20.0))
    assert hypervolume([*points, more], (0.0, 20.0)) >= before - 1e-12
