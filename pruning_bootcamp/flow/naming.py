"""The metric under its task's own name in what is written: the machine's `accuracy` is another task's `perplexity`."""

from typing import Any

from pruning_bootcamp.plain import Plain
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Metric

_OURS = IMAGE_CLASSIFICATION.metric


def as_written(metric: Metric, figures: dict[str, Plain]) -> dict[str, Plain]:
    """The figures with `accuracy` and `accuracy_drop`, alone or in a longer name, as the metric calls them."""
    return _renamed(figures, _OURS, metric)


def as_read(metric: Metric, figures: dict[str, Plain]) -> dict[str, Plain]:
    """What `as_written` wrote, in the machine's own names."""
    return _renamed(figures, metric, _OURS)


def _renamed(figures: Any, before: Metric, after: Metric) -> Any:
    if before.name == after.name:
        return figures
    if isinstance(figures, list):
        return [_renamed(inner, before, after) for inner in figures]
    if not isinstance(figures, dict):
        return figures
    return {
        key.replace(before.lost_name, after.lost_name).replace(before.name, after.name): _renamed(value, before, after)
        for key, value in figures.items()
    }
