"""How much of accuracy against cost a sweep's Pareto front covers, in one number."""

from collections.abc import Sequence

from pruning_bootcamp.reporting.figures import Point, pareto_front


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
