"""The Pareto front of accuracy (as high as possible) against a cost (as low as possible)."""

from collections.abc import Sequence

Point = tuple[float, float]  # accuracy, cost


def unbeaten(points: Sequence[Point], dense: Point | None) -> list[int]:
    """The front among `points`, by cost, without those that the dense network (if it is known) beats."""
    together = [*points, dense] if dense is not None else list(points)
    return [place for place in pareto_front(together) if place < len(points)]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Which points no other beats, by cost: another beats it when as good in both and better in one."""
    by_cost = sorted(range(len(points)), key=lambda number: (points[number][1], -points[number][0], number))
    front: list[int] = []
    for number in by_cost:
        accuracy, cost = points[number]
        if not front or accuracy > points[front[-1]][0] or (accuracy, cost) == points[front[-1]]:
            front.append(number)
    return front
