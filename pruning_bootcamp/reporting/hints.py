"""What profiles and sensitivity scans show: savings that did not arrive, the quickest way to run, layers to spare."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from pruning_bootcamp.reporting.collect import Found
from pruning_bootcamp.reporting.judgement import DELIVERED_SHARE, FAILURE_RULES, Failure
from pruning_bootcamp.reporting.picking import Advice
from pruning_bootcamp.reporting.values import measured_on
from pruning_bootcamp.results import Environment, LatencyPair, Profile, Scan, ScanRow

FRAGILE_POINTS = 1.0
TOUGH_POINTS = 0.25
_MOST_NAMED = 5


def slow_savings(profiles: Sequence[Found[Profile]]) -> list[Failure]:
    """Networks whose FLOPs fell and whose time did not."""
    found = []
    for profile in profiles:
        comparison = profile.content.comparison
        fewer, quicker = comparison.flops_reduction_pct, comparison.latency_reduction_pct
        if fewer and quicker is not None and fewer >= 5 and quicker < DELIVERED_SHARE * fewer:
            metrics = f"{fewer:.1f}% fewer FLOPs, {quicker:.1f}% less latency ({_measured(profile)})"
            found.append(Failure(profile.name, FAILURE_RULES[6], metrics))
    return found


def quickest(profiles: Sequence[Found[Profile]]) -> list[Advice]:
    """How to run the pruned networks on the machines where they were timed, and what keeps time from falling."""
    best: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # way, machine -> profile -> metrics
    behind: dict[tuple[str, str], list[str]] = defaultdict(list)  # the profiles whose dense network is quicker
    for profile in profiles:
        networks = profile.content.checkpoints
        if networks.baseline is not None and networks.baseline == networks.pruned:
            continue  # a network against itself: the noise of the machine
        every = profile.content.alternatives or {}
        ways = _times(every, "pruned")
        if len(ways) > 1:
            device = _environment(profile).device or "an unnamed machine"
            by_time = sorted(ways.items(), key=lambda way: way[1])
            times = ", ".join(f"{name} {time:.4f}" for name, (time, _) in by_time)
            least = min(n for _, n in ways.values())
            place = by_time[0][0], device
            best[place][profile.name] = f"{times} (n at least {least})"
            dense = min(_times(every, "baseline").items(), key=lambda way: way[1], default=None)
            noise = dense is not None and dense[0] == by_time[0][0] and _may_be_noise(every, dense[0])
            if dense is not None and dense[1][0] < by_time[0][1][0] and not noise:
                behind[place].append(profile.name)
                best[place][profile.name] += f"; the dense network, {dense[0]} {dense[1][0]:.4f}"
    found = [
        Advice(
            f"Run {', '.join(metrics)} with {way}." + _slower(behind[way, device], len(metrics)),
            f"the least time an image of the ways that were timed on {device}",
            "medians in ms an image: "
            + "; ".join(f"{name}: {said}" if len(metrics) > 1 else said for name, said in metrics.items()),
        )
        for (way, device), metrics in best.items()
    ]
    return found + [advice for profile in profiles for advice in _slow(profile)]


def _times(ways: Mapping[str, LatencyPair], which: Literal["baseline", "pruned"]) -> dict[str, tuple[float, int]]:
    """Way to run it -> ms an image and n, of the baseline or the pruned network."""
    timed = {name: pair.baseline if which == "baseline" else pair.pruned for name, pair in ways.items()}
    return {name: (s.median_ms / (s.batch_size or 1), s.n) for name, s in timed.items() if s is not None}


def _may_be_noise(ways: Mapping[str, LatencyPair], way: str) -> bool:
    """Whether the two networks can't be told apart in this way; False where the profile does not say."""
    paired = ways[way].paired
    return paired is not None and paired.verdict == "may be noise"


def _slower(behind: Sequence[str], of: int) -> str:
    if not behind:
        return ""
    which = f" than {', '.join(behind)}" if of > 1 else ""
    return f" The dense network at its quickest is quicker still{which}: pruning saved no time there."


def _slow(profile: Found[Profile]) -> list[Advice]:
    """The largest measured cause, where less of the FLOPs saved arrived than the rule asks."""
    analysis = profile.content.analysis
    if analysis is None or not analysis.causes or not slow_savings([profile]):
        return []
    points, cause = max((cause.points, cause.text) for cause in analysis.causes)
    return [
        Advice(
            f"Look at what keeps {profile.name} slow before cutting more{_widths(profile)}.",
            f"{FAILURE_RULES[6]}; the largest measured cause is named",
            f"{points:+.1f} points: {cause}",
        )
    ]


def _widths(profile: Found[Profile]) -> str:
    """What rounding could do for the network's widths; nothing where all that were cut are multiples of 8 already."""
    widths = profile.content.cut_widths
    if widths is None or not widths.uneven:
        return ""
    uneven = f"{widths.uneven} of its {widths.cut} cut widths are no multiple of 8"
    return f"; {uneven}, and multiples (--round-to 8) are worth a try"


def from_scan(scan: Found[Scan]) -> list[Advice]:
    """Layers to spare and layers that can lose more, of a sensitivity scan."""
    dense, images = scan.content.dense.accuracy, scan.content.images
    if images <= 0 or scan.content.metric is not None:  # the rules are those of an accuracy
        return []
    fragile, tough = [], []
    for row in scan.content.rows:
        points = sorted((point.sparsity, point.accuracy) for point in row.points)
        if not points:
            continue
        (low, at_low), (high, at_high) = points[0], points[-1]
        if dense - at_low > max(FRAGILE_POINTS, 2 * standard_error(at_low, images)):
            fragile.append(_lost(row, dense - at_low, low))
        if dense - at_high <= TOUGH_POINTS:
            tough.append(_lost(row, dense - at_high, high))
    source = f"{images} validation images, one scan, one seed"
    found = []
    if fragile:
        rule = (
            f"a {scan.content.by} that alone costs more than {FRAGILE_POINTS:g} point, and than two standard errors of "
            "an accuracy on so many images, at the least sparsity scanned"
        )
        names, said = _named(sorted(fragile, reverse=True))
        found.append(
            Advice(f"Prune these less, or leave them out (prune.exclude): {names}.", rule, f"{said} ({source})")
        )
    if tough:
        rule = f"a {scan.content.by} that alone costs at most {TOUGH_POINTS:g} points at the greatest sparsity scanned"
        names, said = _named(sorted(tough))
        found.append(Advice(f"These can lose more than the rest: {names}.", rule, f"{said} ({source})"))
    return found


def _lost(row: ScanRow, points: float, sparsity: float) -> tuple[float, str, str]:
    return points, row.name, f"{row.name} loses {points:.2f} points at {100 * sparsity:g}%"


def _named(layers: Sequence[tuple[float, str, str]]) -> tuple[str, str]:
    """The first few layers by name, and what each loses."""
    more = f" and {len(layers) - _MOST_NAMED} more" if len(layers) > _MOST_NAMED else ""
    names = ", ".join(name for _, name, _ in layers[:_MOST_NAMED])
    return names + more, "; ".join(line for _, _, line in layers[:_MOST_NAMED])


def standard_error(accuracy: float, images: float) -> float:
    """Of an accuracy in percent, measured on so many images (binomial)."""
    share = min(max(accuracy / 100, 0.0), 1.0)
    return 100 * float((share * (1 - share) / images) ** 0.5)


def _measured(profile: Found[Profile]) -> str:
    stats = profile.content.pruned_latency
    n = "?" if stats is None else stats.n
    return f"median of n {n}, {measured_on(profile.content.environment, stats)}"


def _environment(profile: Found[Profile]) -> Environment:
    return profile.content.environment or Environment()
