"""Two sets of metrics side by side: what a pruned network saved and lost against its baseline."""

import math
from collections.abc import Mapping

from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.plain import Plain

_RATIOS = ("accuracy", "flops_g", "params_m", "latency_ms", "throughput_fps")
_REDUCTIONS = {
    "flops_reduction_pct": "flops_g",
    "params_reduction_pct": "params_m",
    "latency_reduction_pct": "latency_ms",
}

_DIGITS = 9  # a float's last digits must not decide whether a goal is met: 98.1 - 96.6 is 1.5


def normalize_metrics(metrics: Mapping[str, Plain], baseline: Mapping[str, Plain]) -> dict[str, float]:
    """Each metric as a multiple of the baseline's (flops_g 0.5 = half of it), under the metric's own name.

    For accuracy, flops_g, params_m, latency_ms, throughput_fps, where both know it; sparsity is a share already and
    has no baseline to be divided by, nor has an accuracy of 0. Raises BootcampError as compare_metrics.
    """
    known = _known(_RATIOS, baseline, metrics)
    return {name: mine / theirs for name, (theirs, mine) in known.items() if theirs != 0}


def compare_metrics(
    baseline: Mapping[str, Plain], pruned: Mapping[str, Plain], *, higher_is_better: bool = True
) -> dict[str, float]:
    """What `pruned` saves and loses: only the metrics whose sources both know.

    flops_reduction_pct, params_reduction_pct, latency_reduction_pct (percent of the baseline, negative = grew),
    accuracy_drop (points, negative = gained), speedup (baseline's latency / pruned latency). Where `accuracy` stands
    for a metric of which less is better, `higher_is_better` is False: the drop is what it rose by.
    Raises BootcampError when the two have no metric in common, or when one of the metrics is not a positive number.
    """
    known = _known(_RATIOS, baseline, pruned)
    compared = {
        name: round(100.0 * (1.0 - known[source][1] / known[source][0]), _DIGITS)
        for name, source in _REDUCTIONS.items()
        if source in known
    }
    if "accuracy" in known:
        before, after = known["accuracy"]
        compared["accuracy_drop"] = round(before - after if higher_is_better else after - before, _DIGITS)
    if "latency_ms" in known:
        before, after = known["latency_ms"]
        compared["speedup"] = before / after
    return compared


def _known(
    names: tuple[str, ...], baseline: Mapping[str, Plain], metrics: Mapping[str, Plain]
) -> dict[str, tuple[float, float]]:
    """Of the names that both have: the baseline's value and the other's, each a usable number."""
    both = [name for name in names if baseline.get(name) is not None and metrics.get(name) is not None]
    if not both:
        raise BootcampError(
            f"metrics: the two have no metric in common to compare. The baseline has {listed(baseline) or 'nothing'}; "
            f"the other {listed(metrics) or 'nothing'}. Needed: one of {listed(names)} in both."
        )
    problems, found = [], {}
    for name in both:
        pair = []
        for who, theirs in (("baseline", baseline), ("pruned network", metrics)):
            value = _usable(theirs[name], zero_allowed=name == "accuracy")
            if value is None:
                problems.append(f"metrics: {name} of the {who} is {theirs[name]!r}, not a positive number.")
            else:
                pair.append(value)
        if len(pair) == 2:
            found[name] = (pair[0], pair[1])
    if problems:
        raise BootcampError(*problems)
    return found


def _usable(value: Plain, zero_allowed: bool) -> float | None:
    """The number; None for what is none, or is not above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if value > 0 or (zero_allowed and value == 0) else None
