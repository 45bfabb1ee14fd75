"""Why latency fell by less (or more) than FLOPs: the gap in points, split exactly over what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from pruning_bootcamp.tools.latency.advice import LANES
from pruning_bootcamp.tools.latency.clock import LatencyStats
from pruning_bootcamp.tools.latency.layers import OUTSIDE, LayerLatency
from pruning_bootcamp.tools.latency.pairs import PairedRatio

WORTH_SAYING_POINTS = 1.0  # a cause that explains less is not listed
SIGNIFICANT_POINTS = 5.0


@dataclass(frozen=True)
class TimedNetwork:
    """One network: multiply-accumulates for one input, its latency, and its layers' (may be empty)."""

    macs: float
    latency: LatencyStats
    layers: Sequence[LayerLatency] = ()


@dataclass(frozen=True)
class Cause:
    """How many points of the gap come from here (positive = slower than the FLOPs promise), and why."""

    points: float
    text: str


@dataclass(frozen=True)
class Analysis:
    """FLOPs reduction against latency reduction, in percent of the baseline; the gap, and where it comes from."""

    flops_reduction_pct: float
    latency_reduction_pct: float
    causes: list[Cause]
    certain: bool  # False: the interval of the paired ratios holds 1, so the latency difference may be noise
    ratio: PairedRatio | None = None  # None: the two were not timed in the same rounds

    @property
    def discrepancy_points(self) -> float:
        """FLOPs reduction minus latency reduction; positive: slower than the FLOPs promise."""
        return self.flops_reduction_pct - self.latency_reduction_pct

    @property
    def significant(self) -> bool:
        """Whether the gap is wide enough to be worth a word, in either direction."""
        return abs(self.discrepancy_points) > SIGNIFICANT_POINTS


def flops_latency_analysis(baseline: TimedNetwork, pruned: TimedNetwork) -> Analysis:
    """The gap between the two reductions and its causes, largest first, from the two per-layer tables.

    With R the FLOPs reduction and T the baseline's time, the gap T'/T - (1 - R) is the sum over layers of four parts:
    layers whose time fell less than their own multiply-accumulates, t' - t m'/m; layers without any, t' - t (1 - R);
    the time between the layers, likewise; and cuts that fell where little time is spent, t m'/m - t (1 - R).
    T'/T is the median of the paired ratios where both were timed in the same rounds. Causes below WORTH_SAYING_POINTS
    are left out. Without tables there are none.
    """
    kept = pruned.macs / baseline.macs
    fast, slow = pruned.latency, baseline.latency
    ratio = fast.ratio_to(slow)
    saved = 100.0 * (1.0 - fast.median_ms / slow.median_ms) if ratio is None else ratio.reduction_pct
    # timed apart, only ranges that don't even touch tell the two from each other
    apart = fast.p95_ms < slow.p5_ms or slow.p95_ms < fast.p5_ms
    return Analysis(
        flops_reduction_pct=100.0 * (1.0 - kept),
        latency_reduction_pct=saved,
        causes=_causes(baseline.layers, pruned.layers, kept, pruned.latency.batch_size),
        certain=apart if ratio is None else ratio.certain,
        ratio=ratio,
    )


@dataclass(frozen=True)
class _Pair:
    """A layer before and after; the one that is missing counts as nothing."""

    name: str
    before: LayerLatency
    after: LayerLatency

    @property
    def macs_kept(self) -> float:
        return self.after.macs / self.before.macs

    @property
    def excess_ms(self) -> float:
        """Time above what the layer's own multiply-accumulates promise."""
        return self.after.median_ms - self.before.median_ms * self.macs_kept


def _causes(before: Sequence[LayerLatency], after: Sequence[LayerLatency], kept: float, batch_size: int) -> list[Cause]:
    if not before or not after:
        return []
    pairs = _paired(before, after)
    total = sum(layer.median_ms for layer in before)
    outside = [pair for pair in pairs if pair.name == OUTSIDE]
    working = [pair for pair in pairs if pair.name != OUTSIDE and pair.before.macs > 0]
    idle = [pair for pair in pairs if pair.name != OUTSIDE and pair.before.macs == 0]
    causes = [
        _without_macs(idle, kept, total),
        _between(outside, kept, total, batch_size),
        _elsewhere(working, kept, total),
        *_slow_layers(working, total),
    ]
    worth = [cause for cause in causes if abs(cause.points) >= WORTH_SAYING_POINTS]
    return sorted(worth, key=lambda cause: -abs(cause.points))


def _paired(before: Sequence[LayerLatency], after: Sequence[LayerLatency]) -> list[_Pair]:
    olds, news = {layer.name: layer for layer in before}, {layer.name: layer for layer in after}
    nothing = LayerLatency("", "", 0.0, 0.0, 0.0)
    return [_Pair(name, olds.get(name, nothing), news.get(name, nothing)) for name in {**olds, **news}]


def _times(pairs: Sequence[_Pair]) -> tuple[float, float]:
    return sum(pair.before.median_ms for pair in pairs), sum(pair.after.median_ms for pair in pairs)


def _without_macs(pairs: list[_Pair], kept: float, total: float) -> Cause:
    """Batch norm, activations, pooling: they move memory, and their time follows the sizes of the feature maps."""
    old, new = _times(pairs)
    kinds = sorted({pair.before.kind or pair.after.kind for pair in pairs})
    return Cause(
        100.0 * (new - old * kept) / total,
        f"layers without multiply-accumulates ({', '.join(kinds)}), bound by memory: {old:.3f} -> {new:.3f} ms "
        f"({_fell(old, new)}), {100 * old / total:.0f}% of the baseline's time",
    )


def _between(pairs: list[_Pair], kept: float, total: float, batch_size: int) -> Cause:
    old, new = _times(pairs)
    return Cause(
        100.0 * (new - old * kept) / total,
        f"time between the layers (residual additions, Python, dispatch) at batch {batch_size}: {old:.3f} -> {new:.3f} "
        f"ms ({_fell(old, new)}), {100 * old / total:.0f}% of the baseline's time",
    )


def _elsewhere(pairs: list[_Pair], kept: float, total: float) -> Cause:
    """Had every layer's time followed its own multiply-accumulates, what would be left differs from their total."""
    old, _ = _times(pairs)
    promised = sum(pair.before.median_ms * pair.macs_kept for pair in pairs)
    where = "are slower" if promised > old * kept else "are quicker"
    return Cause(
        100.0 * (promised - old * kept) / total,
        f"the layers that kept most of their multiply-accumulates {where} per multiply-accumulate than the rest: with "
        f"each layer's time in step with its own, {old:.3f} ms would become {promised:.3f}, not {old * kept:.3f}",
    )


def _slow_layers(pairs: list[_Pair], total: float) -> list[Cause]:
    """Layers whose time did not follow their own multiply-accumulates: uneven widths apart from even ones."""
    cut = [pair for pair in pairs if 0 < pair.macs_kept < 1]
    uneven = [pair for pair in cut if pair.after.width != pair.before.width and (pair.after.width or 0) % LANES]
    even = [pair for pair in cut if pair not in uneven]
    uncut = [pair for pair in pairs if pair not in cut]
    described = (
        (uneven, f"layers cut to a width that is no multiple of {LANES}"),
        (even, f"layers cut to a multiple of {LANES}, or only in their inputs"),
        (uncut, "layers that kept all their multiply-accumulates, or are gone"),
    )
    causes = []
    for group, what in described:
        if not group:
            continue
        old, new = _times(group)
        worst = max(group, key=lambda pair: abs(pair.excess_ms))
        width = f", width {worst.before.width} -> {worst.after.width}" if worst.after.width is not None else ""
        causes.append(
            Cause(
                100.0 * sum(pair.excess_ms for pair in group) / total,
                f"{len(group)} {what}: {old:.3f} -> {new:.3f} ms ({_fell(old, new)}), and their multiply-accumulates "
                f"{_fell(sum(p.before.macs for p in group), sum(p.after.macs for p in group))}; furthest off: "
                f"{worst.name}{width}, time {_fell(worst.before.median_ms, worst.after.median_ms)}, "
                f"multiply-accumulates {_fell(worst.before.macs, worst.after.macs)}",
            )
        )
    return causes


def _fell(old: float, new: float) -> str:
    """`fell by 12%`, `grew by 3%`."""
    if old == 0:
        return "new"
    change = 100.0 * (1.0 - new / old)
    return f"{'fell' if change >= 0 else 'grew'} by {abs(change):.0f}%"


def what_would_pay(network: TimedNetwork, most: int = 3) -> list[str]:
    """Where the next millisecond is to be found on this machine: the slowest layers, with their rate of work."""
    images = network.latency.batch_size
    layers = network.layers
    overall = _rate(sum(layer.macs for layer in layers), sum(layer.median_ms for layer in layers), images)
    lines = []
    for layer in sorted(layers, key=lambda layer: -layer.median_ms)[:most]:
        work = (
            f"{_rate(layer.macs, layer.median_ms, images):.1f} G multiply-accumulates/s (all layers: {overall:.1f})"
            if layer.macs
            else "no multiply-accumulates"
        )
        lines.append(f"{layer.name}: {layer.median_ms:.3f} ms, {100 * layer.share:.0f}% of the pass; {work}")
    return lines


def _rate(macs: float, milliseconds: float, images: int) -> float:
    """10^9 multiply-accumulates a second."""
    return macs * images / max(milliseconds, 1e-9) / 1e6
