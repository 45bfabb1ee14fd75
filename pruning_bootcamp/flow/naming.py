"""The metric under its task's own name in what is written: the machine's `accuracy` is another task's `perplexity`."""

from typing import Any

from pruning_bootcamp.plain import Plain
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Metric

_OURS = IMAGE_CLASSIFICATION.metric


def as_written(metric: Metric, metrics: dict[str, Plain]) -> dict[str, Plain]:
    """The metrics with `accuracy` and `accuracy_drop`, alone or in a longer name, as the metric calls them."""
    return _renamed(metrics, _OURS, metric)


def as_read(metric: Metric, metrics: dict[str, Plain]) -> dict[str, Plain]:
    """What `as_written` wrote, in the machine's own names."""
    return _renamed(metrics, metric, _OURS)


def _renamed(metrics: Any, before: Metric, after: Metric) -> Any:
    if before.name == after.name:
        return metrics
    if isinstance(metrics, list):
        return [_renamed(inner, before, after) for inner in metrics]
    if not isinstance(metrics, dict):
        return metrics
    return {
        key.replace(before.lost_name, after.lost_name).replace(before.name, after.name): _renamed(value, before, after)
        for key, value in metrics.items()
    }
