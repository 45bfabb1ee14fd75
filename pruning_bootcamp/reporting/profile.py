"""What a profile measured, dense against pruned -> tables: the whole, layer by layer, every way to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pruning_bootcamp.reporting.run import comparison_rows, markdown_table
from pruning_bootcamp.results import Comparison, NetworkMetrics

if TYPE_CHECKING:  # a table of a finished run needs no torch
    from pruning_bootcamp.tools.latency import Analysis, LatencyStats, LayerLatency


def profile_text(baseline: NetworkMetrics, pruned: NetworkMetrics, comparison: Comparison) -> str:
    """BASELINE vs PRUNED: every metric that both have, with its change."""
    said = {"FLOPs": comparison.flops_reduction_pct, "Params": comparison.params_reduction_pct}
    said |= {"Latency": comparison.latency_reduction_pct}
    changes = {name: f"{-saved:+.1f}%" for name, saved in said.items() if saved is not None}
    if comparison.latency_reduction_pct is not None and comparison.speedup is not None:
        changes["Throughput"] = f"{comparison.speedup:.2f}x"
    rows = [[*row, changes.get(row[0].partition(" ")[0], "")] for row in comparison_rows(baseline, pruned)]
    return "\n=== Baseline vs Pruned ===\n" + markdown_table(["metric", "baseline", "pruned", "change"], rows)


def layers_text(before: Sequence[LayerLatency], after: Sequence[LayerLatency], most: int = 15) -> str:
    """The layers by their time in the baseline: milliseconds and multiply-accumulates, before and after."""
    pruned = {layer.name: layer for layer in after}
    slowest = sorted(before, key=lambda layer: -layer.median_ms)
    rows = []
    for layer in slowest[:most]:
        other = pruned.get(layer.name)
        now = (f"{other.median_ms:.3f}", f"{other.macs / 1e6:.3g}") if other else ("-", "-")
        width = f"{layer.width} -> {other.width}" if other and layer.width is not None else ""
        rows.append(
            [layer.name, layer.kind, width, f"{layer.median_ms:.3f}", now[0], f"{layer.macs / 1e6:.3g}", now[1]]
        )
    header = ["layer", "kind", "width", "ms", "ms pruned", "M macs", "M macs pruned"]
    rest = f"\n({len(slowest) - most} quicker ones are in the profile file)" if len(slowest) > most else ""
    return f"\n=== Layers, slowest first ===\n{markdown_table(header, rows)}{rest}"


def analysis_text(analysis: Analysis, stats: Mapping[str, LatencyStats], pays: Sequence[str]) -> str:
    """FLOPs against latency: the two reductions, the gap in points, and the measured causes."""
    lines = ["\n=== FLOPs vs Latency ==="]
    lines += [f"{name}: {stat.spread}" for name, stat in stats.items()]
    ways = {name: stat.way for name, stat in stats.items()}
    lines += [f"both: {ways['pruned']}"] if len(set(ways.values())) == 1 else [f"{n}: {way}" for n, way in ways.items()]
    lines += _notes(stats)
    lines += [
        f"FLOPs reduction:   {analysis.flops_reduction_pct:.1f}%",
        f"Latency reduction: {analysis.ratio or f'{analysis.latency_reduction_pct:.1f}%'}",
        f"Discrepancy:       {analysis.discrepancy_points:.1f} points",
    ]
    lines.append(_difference(analysis))
    if analysis.causes:
        lines.append("Where the gap comes from (points; the layers were timed one by one):")
        lines += [f"  {cause.points:+6.1f}  {cause.text}" for cause in analysis.causes]
    lines += ["Where the time of the pruned network goes:", *(f"  {line}" for line in pays)]
    return "\n".join(lines)


def _difference(analysis: Analysis) -> str:
    """Which of the two is quicker, or that the timings don't tell."""
    if not analysis.certain:
        why = "The interval holds 0" if analysis.ratio is not None else "The two timings overlap (p5 to p95)"
        return f"{why}: the latency difference may be noise."
    return f"The pruned network is {'faster' if analysis.latency_reduction_pct > 0 else 'slower'}."


def backends_text(asked: Mapping[str, Mapping[str, LatencyStats]]) -> str:
    """Each backend that was asked for: what it ran, and how much quicker the pruned network is on it."""
    rows = [
        [name, f"{pair['baseline'].median_ms:.3f}", f"{pair['pruned'].median_ms:.3f}", *_speedup(pair)]
        for name, pair in asked.items()
    ]
    header = ["backend", "baseline", "pruned", "speedup", "95% interval"]
    n = min(pair["pruned"].n for pair in asked.values())
    lines = [
        f"\n=== Backends (medians in ms, n >= {n}, each pair interleaved) ===",
        markdown_table(header, rows),
        *(line for pair in asked.values() for line in (pair["pruned"].way, *_notes(pair))),
        f"What follows is of {next(iter(asked))}, which was named first.",
    ]
    return "\n".join(lines)


def _notes(pair: Mapping[str, LatencyStats]) -> list[str]:
    """What a backend that chooses has chosen for each of the networks."""
    return [f"  {name}: {stat.note}" for name, stat in pair.items() if stat.note]


def alternatives_text(
    alternatives: Mapping[str, Mapping[str, LatencyStats]],
    launch_bound: Sequence[str] = (),
    notes: Sequence[str] = (),
    widths: str | None = None,
) -> str:
    """What would pay on this machine: each way to run the pair, with the speedup that pruning gives there.

    `launch_bound` names ways whose time is that of launching kernels; `notes` say what was not timed; `widths` is what
    the cut network's widths leave to be gained, if anything.
    """
    rows = [
        [
            f"{way} (launch-bound)" if way in launch_bound else way,
            f"{pair['baseline'].median_ms / pair['baseline'].batch_size:.4f}",
            f"{pair['pruned'].median_ms / pair['pruned'].batch_size:.4f}",
            *_speedup(pair),
        ]
        for way, pair in alternatives.items()
    ]
    header = ["way to run it", "ms/image baseline", "ms/image pruned", "speedup by pruning", "95% interval"]
    n = min(pair["pruned"].n for pair in alternatives.values())
    title = f"What would pay on this machine (medians, n >= {n}, each pair interleaved)"
    best, still = _quickest(alternatives)
    lines = [f"\n=== {title} ===", markdown_table(header, rows), *notes]
    lines += [f"{way}: {pair['pruned'].note}" for way, pair in alternatives.items() if pair["pruned"].note]
    if launch_bound:
        lines.append(
            "Launch-bound: many images take hardly longer than one, so the time is that of starting kernels one by "
            "one, and no cut shortens it. A full batch or a CUDA graph shows what the network itself takes."
        )
    lines.append(f"Quickest: {best}")
    if still is not None:
        lines.append(still + (f" {widths[0].upper()}{widths[1:]}." if widths else ""))
    return "\n".join(lines)


def _speedup(pair: Mapping[str, LatencyStats]) -> tuple[str, str]:
    """How many times quicker the pruned network is, and the interval of that."""
    ratio = pair["pruned"].ratio_to(pair["baseline"])
    if ratio is None:
        return f"{pair['baseline'].median_ms / pair['pruned'].median_ms:.2f}x", "not paired"
    if not ratio.bounded:
        return f"{1 / ratio.median:.2f}x", f"n {ratio.n}: too few"
    noise = "" if ratio.certain else ", may be noise"
    return f"{1 / ratio.median:.2f}x", f"{1 / ratio.high:.2f} to {1 / ratio.low:.2f}{noise}"


def _quickest(alternatives: Mapping[str, Mapping[str, LatencyStats]]) -> tuple[str, str | None]:
    """The pruned network's quickest way, and a line where the dense network at its own is quicker still."""
    times = {
        which: {way: pair[which].median_ms / pair[which].batch_size for way, pair in alternatives.items()}
        for which in ("baseline", "pruned")
    }
    best, dense = (min(ways, key=ways.__getitem__) for ways in (times["pruned"], times["baseline"]))
    ratio = alternatives[best]["pruned"].ratio_to(alternatives[best]["baseline"])
    noise = dense == best and ratio is not None and not ratio.certain
    if times["baseline"][dense] >= times["pruned"][best] or noise:
        return best, None
    return best, (
        f"The dense network is quicker still: {times['baseline'][dense]:.4f} ms an image with {dense}, the pruned one "
        f"{times['pruned'][best]:.4f}. Pruning saved no time there."
    )
