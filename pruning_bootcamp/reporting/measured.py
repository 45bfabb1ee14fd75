"""Sections on what was measured beside accuracy: layers' sparsities, latency, sensitivity scans."""

from collections.abc import Sequence

from pruning_bootcamp.reporting.collect import Found
from pruning_bootcamp.reporting.document import Block, Bullets, Cell, Column, Heading, Plot, Row, Section, Table, Text
from pruning_bootcamp.reporting.figures import flops_against_latency, heatmap, lines
from pruning_bootcamp.reporting.shown import rate, threads_said
from pruning_bootcamp.reporting.sparsities import LayerSparsities
from pruning_bootcamp.reporting.values import counted, number, rows, table


def layers(found: Sequence[tuple[str, LayerSparsities]]) -> Section | None:
    """A heatmap and a table of each group: what each layer lost."""
    blocks: list[Block] = []
    for place, (title, entry) in enumerate(found):
        names = list(dict.fromkeys(layer for shares in entry.shares.values() for layer in shares))
        labels = list(entry.shares)
        of_what = "zero weights" if entry.kind == "weights" else "channels cut"
        blocks.append(Heading(f"{title}: {of_what}"))
        if labels:
            values = [[_percent(entry.shares[label].get(name)) for label in labels] for name in names]
            cells = [
                Row([name, *(rate(value, "{:.1f}") for value in line)])
                for name, line in zip(names, values, strict=True)
            ]
            numbered = [f"{number_}. {label}" for number_, label in enumerate(labels, start=1)]
            columns = [Column("Layer"), *(Column(label, True) for label in numbered)]
            blocks.append(
                Plot(
                    f"layers-{place}",
                    f"Share of {of_what} (%) by layer",
                    f"{len(names)} layers; of each setting its first run (one seed): {'; '.join(numbered)}.",
                    heatmap(names, labels, values, "%"),
                    Table(f"layers-{place}-table", f"Share of {of_what} in each layer, percent", columns, cells),
                    height_px=max(420, 20 * len(names) + 160),
                )
            )
        if entry.notes:
            blocks += [Text("Not told by:"), Bullets(list(entry.notes))]
    return Section("layers", "Layer by layer", blocks) if blocks else None


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def latency(profiles: Sequence[Found], evaluations: Sequence[Found]) -> Section | None:
    """FLOPs saved against time saved, each time with its n, spread and machine."""
    points, lines_ = [], []
    for profile in profiles:
        comparison, stats = table(profile.content.get("comparison")), table(profile.content.get("latency"))
        fewer, quicker = (number(comparison.get(f"{key}_reduction_pct")) for key in ("flops", "latency"))
        dense, pruned = table(stats.get("baseline")), table(stats.get("pruned"))
        if fewer is None or quicker is None or not pruned:
            continue
        certain = table(profile.content.get("analysis")).get("certain")
        points.append((fewer, quicker, f"{profile.name}: {fewer:.1f}% fewer FLOPs, {quicker:.1f}% less latency"))
        lines_.append(
            Row(
                [
                    profile.name,
                    rate(fewer, "{:.1f}"),
                    rate(quicker, "{:.1f}"),
                    rate(fewer - quicker, "{:.1f}"),
                    _time(dense),
                    _time(pruned),
                    _difference(comparison, certain),
                    _machine(profile, pruned),
                ]
            )
        )
    blocks: list[Block] = []
    if points:
        columns = [
            Column("Network"),
            Column("FLOPs reduction (%)", True),
            Column("Latency reduction (%)", True),
            Column("Gap (points)", True),
            Column("Dense: median ms (p5 to p95, n)", True),
            Column("Pruned: median ms (p5 to p95, n)", True),
            Column("Difference"),
            Column("Measured on"),
        ]
        blocks.append(
            Plot(
                "latency-plot",
                "FLOPs saved against time saved",
                f"{counted(len(points), 'profiled network')}. On the dashed line every FLOP saved would be time "
                "saved; below it, less arrives.",
                flops_against_latency(points),
                Table("latency-table", "FLOPs against latency, dense and pruned interleaved", columns, lines_),
            )
        )
    timed = [
        Row([found.name, rate(number(found.content.get("accuracy"))), _time(stats), _machine(found, stats)])
        for found in evaluations
        if (stats := table(found.content.get("latency"))) or number(found.content.get("accuracy")) is not None
    ]
    if timed:
        columns = [
            Column("Folder"),
            Column("Test accuracy (%)", True),
            Column("Median ms (p5 to p95, n)", True),
            Column("Measured on"),
        ]
        blocks.append(Table("evaluations-table", "Evaluations of a checkpoint (`eval`), one seed each", columns, timed))
    return Section("latency", "FLOPs against latency", blocks) if blocks else None


def _difference(comparison: dict[str, object], certain: object) -> str:
    """Whether the two can be told apart: by the interval of the paired ratios, in older files by p5 and p95."""
    low, high = (number(comparison.get(f"latency_reduction_{end}_pct")) for end in ("low", "high"))
    if low is not None and high is not None:
        said = "– may be noise" if low <= 0 <= high else f"✓ {'faster' if low > 0 else 'slower'}"
        return f"{said} (95%: {low:.1f} to {high:.1f}, n {number(comparison.get('latency_pairs')) or 0:.0f})"
    if not isinstance(certain, bool):
        return "– not judged"
    return "✓ beyond the spread" if certain else "– within the spread"


def _time(stats: dict[str, object]) -> Cell:
    median, low, high, n = (number(stats.get(key)) for key in ("median_ms", "p5_ms", "p95_ms", "n"))
    if median is None:
        return Cell("–")
    spread = (
        f" ({low:.3f} to {high:.3f}, {n:.0f})" if low is not None and high is not None and n is not None else " (n ?)"
    )
    return Cell(f"{median:.3f}{spread}", median)


def _machine(found: Found, stats: dict[str, object]) -> str:
    device = table(found.content.get("environment")).get("device", "machine not recorded")
    if not stats:
        return str(device)
    threads, batch = stats.get("threads", "?"), stats.get("batch_size", "?")
    return f"{device}, {threads_said(threads)}, {stats.get('backend', '?')}, batch {batch}"


def scans(found: Sequence[Found]) -> Section | None:
    """One layer pruned at a time: accuracy by layer and sparsity."""
    blocks: list[Block] = []
    for place, scan in enumerate(found):
        c = scan.content
        series: dict[str, list[tuple[float, float]]] = {}
        for row in rows(c.get("rows")):
            series[str(row.get("name"))] = sorted(
                (sparsity, accuracy)
                for point in rows(row.get("points"))
                if (sparsity := number(point.get("sparsity"))) is not None
                and (accuracy := number(point.get("accuracy"))) is not None
            )
        grid = sorted({sparsity for points in series.values() for sparsity, _ in points})
        if not grid:
            blocks.append(Text(f"{scan.name}: its sensitivity.yaml holds no points."))
            continue
        columns = [
            Column(str(c.get("by", "layer"))),
            *(Column(f"at {100 * sparsity:g}% (%)", True) for sparsity in grid),
        ]
        cells = [
            Row([name, *(rate(dict(points).get(sparsity)) for sparsity in grid)]) for name, points in series.items()
        ]
        dense = number(table(c.get("dense")).get("accuracy"))
        said = f", dense {dense:.2f}%" if dense is not None else ""
        blocks += [
            Heading(f"{scan.name}: {c.get('score')} by {c.get('by')}"),
            Plot(
                f"sensitivity-{place}",
                f"Validation accuracy with one {c.get('by', 'layer')} pruned at a time",
                f"{len(series)} of them, {c.get('images')} validation images{said}, nothing trained after (one seed).",
                lines(series, "Sparsity", "Validation accuracy (%)"),
                Table(f"sensitivity-{place}-table", f"{scan.name}: validation accuracy, percent", columns, cells),
                height_px=520,
            ),
        ]
    return Section("sensitivity", "Sensitivity", blocks) if blocks else None
