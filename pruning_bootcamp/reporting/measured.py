"""Sections on what was measured beside accuracy: layers' sparsities, latency, sensitivity scans, sweeps."""

from collections.abc import Sequence
from pathlib import Path

from pruning_bootcamp.reporting.collect import Found
from pruning_bootcamp.reporting.document import Block, Bullets, Cell, Column, Heading, Plot, Row, Section, Table, Text
from pruning_bootcamp.reporting.figures import flops_against_latency, heatmap, lines, scatter
from pruning_bootcamp.reporting.shown import link, rate, run_count, threads_said
from pruning_bootcamp.reporting.sparsities import LayerSparsities
from pruning_bootcamp.reporting.values import number, rows, table


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
                f"{run_count(len(points), 'profiled network')}. On the dashed line every FLOP saved would be time "
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


def sweeps(found: Sequence[Found], target: Path) -> Section | None:
    """Trials of each sweep, with its front; the trials' own folders are not among the runs above."""
    blocks: list[Block] = []
    for place, sweep in enumerate(found):
        c = sweep.content
        trials = rows(c.get("trials"))
        keys = list(dict.fromkeys(key for trial in trials for key in table(trial.get("params"))))
        goals = [str(entry.get("name")) for entry in rows(c.get("objectives"))]
        pareto = c.get("pareto")
        on_front: list[object] = pareto if isinstance(pareto, list) else []
        cells = []
        for trial in trials:
            params, values = table(trial.get("params")), table(trial.get("values"))
            front = "✓ on the front" if trial.get("number") in on_front else "–"
            folder = sweep.folder / str(trial.get("folder", ""))
            own = link(folder, target) if folder.resolve().is_relative_to(sweep.folder.resolve()) else None
            cells.append(
                Row(
                    [
                        Cell(str(trial.get("number")), number(trial.get("number")), own),
                        str(trial.get("state")),
                        *(Cell(str(params.get(key, "–")), number(params.get(key))) for key in keys),
                        *(rate(number(values.get(goal)), "{:.4g}") for goal in goals),
                        front,
                    ]
                )
            )
        shown = [f"{goal} (validation, %)" if goal == "accuracy" else goal for goal in goals]
        columns = [
            Column("Trial"),
            Column("State"),
            *(Column(key) for key in keys),
            *(Column(goal, True) for goal in shown),
            Column("Pareto"),
        ]
        complete = sum(trial.get("state") == "complete" for trial in trials)
        volume, dense = number(c.get("hypervolume")), number(table(c.get("dense")).get("accuracy"))
        blocks.append(Heading(f"{sweep.name}: {c.get('command')}, {c.get('sampler')}"))
        blocks.append(
            Text(
                f"{complete} of {len(trials)} trials complete, {len(on_front)} on the front"
                + (f", hypervolume {volume:.4g}" if volume is not None else "")
                + (f"; the dense network has {dense:.2f}%" if dense is not None else "")
                + ". One seed a trial; its values are on validation images."
            )
        )
        own_table = Table(f"sweep-{place}-table", f"{sweep.name}: its trials", columns, cells, search=len(cells) > 8)
        if len(goals) >= 2 and (figure := _sweep_figure(trials, goals, shown, on_front)):
            caption = f"Trials of {sweep.name}"
            blocks.append(Plot(f"sweep-{place}", caption, f"{shown[0]} against {shown[1]}.", figure, own_table))
        else:
            blocks.append(own_table)
    return Section("sweeps", "Sweeps", blocks) if blocks else None


def _sweep_figure(
    trials: Sequence[dict[str, object]], goals: Sequence[str], shown: Sequence[str], front: Sequence[object]
) -> dict[str, object] | None:
    series: dict[str, list[tuple[float, float, str]]] = {"on the front": [], "beaten": []}
    for trial in trials:
        values = table(trial.get("values"))
        y, x = (number(values.get(goal)) for goal in goals[:2])
        if x is None or y is None:
            continue
        said = ", ".join(f"{key}={value}" for key, value in table(trial.get("params")).items())
        kind = "on the front" if trial.get("number") in front else "beaten"
        series[kind].append((x, y, f"trial {trial.get('number')}: {said}"))
    if not any(series.values()):
        return None
    line = sorted((x, y) for x, y, _ in series["on the front"])
    return scatter(series, line, shown[1], shown[0])
