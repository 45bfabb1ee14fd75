"""Which points no other beats in accuracy and cost at once, and how much of the plane they dominate."""

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
