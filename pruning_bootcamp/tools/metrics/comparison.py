"""Two sets of figures side by side: what a pruned network saved and lost against its baseline."""

import math
from collections.abc import Mapping
from typing import Any

from pruning_bootcamp.errors import BootcampError, listed

_RATIOS = ("accuracy", "flops_g", "params_m", "latency_ms", "throughput_fps")
_REDUCTIONS = {
    "flops_reduction_pct": "flops_g",
    "params_reduction_pct": "params_m",
    "latency_reduction_pct": "latency_ms",
}

_DIGITS = 9  # a float's last digits must not decide whether a goal is met: 98.1 - 96.6 is 1.5


def normalize_metrics(metrics: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, float]:
    """Each figure as a multiple of the baseline's (flops_g 0.5 = half of it), under the figure's own name.

    For accuracy, flops_g, params_m, latency_ms, throughput_fps, where both know it; sparsity is a share already and
    has no baseline to be divided by, nor has an accuracy of 0. Raises BootcampError as compare_metrics.
    """
    known = _known(_RATIOS, baseline, metrics)
    return {name: float(metrics[name]) / float(baseline[name]) for name in known if baseline[name] != 0}


def compare_metrics(baseline: Mapping[str, Any], pruned: Mapping[str, Any]) -> dict[str, float]:
    """What `pruned` saves and loses: only the figures whose sources both know.

    flops_reduction_pct, params_reduction_pct, latency_reduction_pct (percent of the baseline, negative = grew),
    accuracy_drop (points, negative = gained), speedup (baseline's latency / pruned latency).
    Raises BootcampError when the two have no figure in common, or when one of the figures is not a positive number.
    """
    known = _known(_RATIOS, baseline, pruned)
    compared = {
        name: round(100.0 * (1.0 - float(pruned[source]) / float(baseline[source])), _DIGITS)
        for name, source in _REDUCTIONS.items()
        if source in known
    }
    if "accuracy" in known:
        compared["accuracy_drop"] = round(float(baseline["accuracy"]) - float(pruned["accuracy"]), _DIGITS)
    if "latency_ms" in known:
        compared["speedup"] = float(baseline["latency_ms"]) / float(pruned["latency_ms"])
    return compared


def _known(names: tuple[str, ...], baseline: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """The names that both have, each a usable number on both sides."""
    both = [name for name in names if baseline.get(name) is not None and metrics.get(name) is not None]
    if not both:
        raise BootcampError(
            f"metrics: the two have no figure in common to compare. The baseline has {listed(baseline) or 'nothing'}; "
            f"the other {listed(metrics) or 'nothing'}. Needed: one of {listed(names)} in both."
        )
    problems = [
        f"metrics: {name} of the {who} is {figures[name]!r}, not a positive number."
        for name in both
        for who, figures in (("baseline", baseline), ("pruned network", metrics))
        if not _usable(figures[name], zero_allowed=name == "accuracy")
    ]
    if problems:
        raise BootcampError(*problems)
    return both


def _usable(value: Any, zero_allowed: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return value > 0 or (zero_allowed and value == 0)
