"""The Pareto front of accuracy (as high as possible) against a cost (as low as possible), and how much it covers."""

from collections.abc import Sequence

Point = tuple[float, float]  # accuracy, cost


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Which points no other beats, by cost: another beats it when as good in both and better in one."""
    by_cost = sorted(range(len(points)), key=lambda number: (points[number][1], -points[number][0], number))
    front: list[int] = []
    for number in by_cost:
        accuracy, cost = points[number]
        if not front or accuracy > points[front[-1]][0] or (accuracy, cost) == points[front[-1]]:
            front.append(number)
    return front


def hypervolume(points: Sequence[Point], reference: Point, best: float = 100.0) -> float:
    """Share of the rectangle from `reference` (worst accuracy, highest cost) to (`best`, no cost) that is dominated.

    Points that are no better than the reference count for nothing. More is better; 1 is the whole rectangle.
    """
    worst, dearest = reference
    if not (worst < best and dearest > 0):
        raise ValueError(f"no rectangle between accuracies {worst} and {best} at cost {dearest}")
    inside = [point for point in points if point[0] > worst and point[1] < dearest]
    area, reached = 0.0, worst
    for number in pareto_front(inside):  # from the cheapest on, each adds the band of accuracy above those before
        accuracy, cost = inside[number]
        area += (accuracy - reached) * (dearest - cost)
        reached = accuracy
    return area / ((best - worst) * dearest)
