"""Sections on what was measured beside accuracy: layers' sparsities, latency, sensitivity scans, sweeps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pruning_bootcamp.reporting.collect import Found
from pruning_bootcamp.reporting.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Plot,
    Row,
    Section,
    Subheading,
    Table,
    Text,
    columns,
)
from pruning_bootcamp.reporting.pareto import unbeaten
from pruning_bootcamp.reporting.plots import flops_against_latency, heatmap, lines, trade_off
from pruning_bootcamp.reporting.sparsities import LayerSparsities
from pruning_bootcamp.reporting.values import UNKNOWN, counted, link, measured_on, number, rate
from pruning_bootcamp.results import (
    TRIALS,
    Analysis,
    Comparison,
    Latency,
    LatencyPair,
    Metrics,
    Profile,
    Scan,
    Search,
    Study,
)

ACCURACY = "accuracy"


def layers(found: Sequence[tuple[str, LayerSparsities]]) -> Section | None:
    """A heatmap and a table of each experiment: what each layer lost."""
    blocks: list[Block] = []
    for place, (title, entry) in enumerate(found):
        names = list(dict.fromkeys(layer for shares in entry.shares.values() for layer in shares))
        labels = list(entry.shares)
        of_what = "zero weights" if entry.kind == "weights" else "channels cut"
        blocks.append(Subheading(f"{title}: {of_what}"))
        if labels:
            values = [[_percent(entry.shares[label].get(name)) for label in labels] for name in names]
            cells = [
                Row([name, *(rate(value, "{:.1f}") for value in line)])
                for name, line in zip(names, values, strict=True)
            ]
            numbered = [f"{number_}. {label}" for number_, label in enumerate(labels, start=1)]
            titles = [Column("Layer"), *(Column(label, True) for label in numbered)]
            blocks.append(
                Plot(
                    f"layers-{place}",
                    f"Share of {of_what} (%) by layer",
                    f"{len(names)} layers; of each setting its first run (one seed): {'; '.join(numbered)}.",
                    heatmap(names, labels, values, "%"),
                    Table(f"layers-{place}-table", f"Share of {of_what} in each layer, percent", titles, cells),
                    height_px=max(420, 20 * len(names) + 160),
                )
            )
        if entry.notes:
            blocks += [Text("Not told by:"), Bullets(list(entry.notes))]
    return Section("layers", "Layer by layer", blocks) if blocks else None


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def latency(profiles: Sequence[Found[Profile]], evaluations: Sequence[Found[Metrics]]) -> Section | None:
    """FLOPs saved against time saved, each time with its n, spread and machine."""
    points, lines_ = [], []
    for profile in profiles:
        comparison, stats = profile.content.comparison, profile.content.latency or LatencyPair()
        fewer, quicker = comparison.flops_reduction_pct, comparison.latency_reduction_pct
        dense, pruned = stats.baseline, stats.pruned
        if fewer is None or quicker is None or pruned is None:
            continue
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
                    _difference(comparison, profile.content.analysis),
                    measured_on(profile.content.environment, pruned),
                ]
            )
        )
    blocks: list[Block] = []
    if points:
        titles = columns(
            "Network | # FLOPs reduction (%) | # Latency reduction (%) | # Gap (points)"
            " | # Dense: median ms (p5 to p95, n) | # Pruned: median ms (p5 to p95, n) | Difference"
            " | Measured on"
        )
        blocks.append(
            Plot(
                "latency-plot",
                "FLOPs saved against time saved",
                f"{counted(len(points), 'profiled network')}. On the dashed line every FLOP saved would be time "
                "saved; below it, less arrives.",
                flops_against_latency(points),
                Table("latency-table", "FLOPs against latency, dense and pruned interleaved", titles, lines_),
            )
        )
    timed = [
        Row([found.name, rate(m.accuracy), rate(m.latency_ms, "{:.3f} (n ?)"), _evaluated_on(m)])
        for found in evaluations
        if (m := found.content).latency_ms is not None or m.accuracy is not None
    ]
    if timed:
        titles = columns("Folder | # Test accuracy (%) | # Median ms (p5 to p95, n) | Measured on")
        blocks.append(Table("evaluations-table", "Evaluations of a checkpoint (`eval`), one seed each", titles, timed))
    return Section("latency", "FLOPs against latency", blocks) if blocks else None


def _evaluated_on(metrics: Metrics) -> str:
    if metrics.latency_processor is not None:
        return metrics.noted_latency_way
    return ", ".join(part for part in (measured_on(metrics.environment, None), metrics.noted_latency_way) if part)


def _difference(comparison: Comparison, analysis: Analysis | None) -> str:
    """Whether the two can be told apart: by the interval of the paired ratios, in older files by p5 and p95."""
    low, high = comparison.latency_reduction_low_pct, comparison.latency_reduction_high_pct
    if low is not None and high is not None:
        said = "– may be noise" if low <= 0 <= high else f"✓ {'faster' if low > 0 else 'slower'}"
        return f"{said} (95%: {low:.1f} to {high:.1f}, n {comparison.latency_pairs or 0})"
    if analysis is None or analysis.certain is None:
        return "– not judged"
    return "✓ beyond the spread" if analysis.certain else "– within the spread"


def _time(stats: Latency | None) -> Cell:
    if stats is None:
        return UNKNOWN
    return Cell(f"{stats.median_ms:.3f} ({stats.p5_ms:.3f} to {stats.p95_ms:.3f}, {stats.n})", stats.median_ms)


def scans(found: Sequence[Found[Scan]]) -> Section | None:
    """One layer pruned at a time: accuracy by layer and sparsity."""
    blocks: list[Block] = []
    for place, scan in enumerate(found):
        c = scan.content
        series = {row.name: sorted((point.sparsity, point.accuracy) for point in row.points) for row in c.rows}
        grid = sorted({sparsity for points in series.values() for sparsity, _ in points})
        if not grid:
            blocks.append(Text(f"{scan.name}: its sensitivity.yaml holds no points."))
            continue
        metric = c.judged
        unit, said = (f" ({metric.unit})" if metric.unit else "", ", percent" if metric.unit == "%" else "")
        titles = [Column(c.by), *(Column(f"at {100 * sparsity:g}%{unit}", True) for sparsity in grid)]
        cells = [
            Row([name, *(rate(dict(points).get(sparsity)) for sparsity in grid)]) for name, points in series.items()
        ]
        blocks += [
            Subheading(f"{scan.name}: {c.score} by {c.by}"),
            Plot(
                f"sensitivity-{place}",
                f"Validation {metric.title} with one {c.by} pruned at a time",
                f"{len(series)} of them, {c.judged_on}, dense {metric.text(c.dense.accuracy)}, "
                "nothing trained after (one seed).",
                lines(series, "Sparsity", f"Validation {metric.title}{unit}"),
                Table(f"sensitivity-{place}-table", f"{scan.name}: validation {metric.title}{said}", titles, cells),
                height_px=520,
            ),
        ]
    return Section("sensitivity", "Sensitivity", blocks) if blocks else None


def sweeps(found: Sequence[Found[Study]], target: Path) -> Section | None:
    """A table and a plot of each sweep's trials."""
    blocks: list[Block] = []
    for place, sweep in enumerate(found):
        blocks += _sweep(sweep, f"sweep-{place}", target)
    return Section("sweeps", "Sweeps", blocks) if blocks else None


def _sweep(sweep: Found[Study], identifier: str, target: Path) -> list[Block]:
    study = sweep.content
    keys = list(dict.fromkeys(key for trial in study.trials for key in trial.params))
    goals = [objective.name for objective in study.objectives]
    cost = next((goal for goal in goals if goal != ACCURACY), None)
    on_front = _front(study, cost)
    cells = []
    for place, trial in enumerate(study.trials):
        folder = sweep.folder / trial.folder
        own = link(folder, target) if folder.resolve().is_relative_to(sweep.folder.resolve()) else None
        cells.append(
            Row(
                [
                    Cell(str(trial.number), trial.number, own),
                    trial.state,
                    *(Cell(str(trial.params.get(key, "–")), number(trial.params.get(key))) for key in keys),
                    *(rate(trial.values.get(goal), "{:.4g}") for goal in goals),
                    "✓ on the front" if place in on_front else "–",
                ]
            )
        )
    shown = [f"{goal} (validation, %)" if goal == ACCURACY else goal for goal in goals]
    titles = [
        *(Column("Trial"), Column("State"), *(Column(key) for key in keys)),
        *(*(Column(goal, True) for goal in shown), Column("Pareto")),
    ]
    own_table = Table(f"{identifier}-table", f"{sweep.name}: its trials", titles, cells, search=len(cells) > 8)
    heading = Subheading(f"{sweep.name}: {study.command}, {study.sampler}")
    blocks: list[Block] = [heading, Text(_summary(study, len(on_front)))]
    points = _points(study, cost)
    if not points["trials"] or cost is None:
        return [*blocks, own_table]
    description = (
        f"Validation accuracy (%) against {cost}; up and left is better. Filled points are beaten by none (the dotted "
        "line), hollow ones are."
    )
    figure = trade_off(points, cost, "Validation accuracy (%)")
    return [*blocks, Plot(identifier, f"Trials of {sweep.name}", description, figure, own_table)]


def searches(found: Sequence[Found[Search]], target: Path) -> Section | None:
    """What each trial of a search within so many points saved, and lost."""
    blocks: list[Block] = []
    for place, search in enumerate(found):
        blocks += _search(search, f"search-{place}", target)
    return Section("searches", "As much as the accuracy allows", blocks) if blocks else None


def _search(found: Found[Search], identifier: str, target: Path) -> list[Block]:
    search = found.content
    what = "latency" if search.by == "latency_reduction" else "FLOPs"
    best, rows = search.best, []
    series: dict[str, list[tuple[float, float, str]]] = {"trials": [], "dense": [(100.0, 0.0, "the dense network")]}
    for trial in search.trials:
        kept = "✗ can't be cut" if trial.drop is None else "✓ within" if search.allows(trial) else "✗ beyond"
        cells = [rate(_percent(trial.reached), "{:.1f}"), rate(trial.drop)]
        own = Cell(
            f"{100 * trial.share:g}", 100 * trial.share, link(found.folder / TRIALS / f"{trial.share:g}", target)
        )
        rows.append(Row([own, *cells, kept, "✓ taken" if trial is best else trial.why or "–"]))
        if trial.drop is not None and trial.reached is not None:
            said = (
                f"{100 * trial.share:g}% less asked, {100 * trial.reached:.1f}% reached: {trial.drop:.2f} points lost"
            )
            series["trials"].append((100 * (1 - trial.reached), -trial.drop, said))
    asked = f"at most {search.limit:g} points lost on validation samples"
    titles = columns(f"# Less {what}, asked (%) | # Reached (%) | # Points lost on validation | Limit | Result")
    own_table = Table(f"{identifier}-table", f"{found.name}: its trials, {asked}", titles, rows)
    heading = Subheading(f"{found.name}: {asked}")
    if not series["trials"]:
        return [heading, own_table]
    title = f"{what[0].upper()}{what[1:]} (% of the dense network's)"
    described = f"Up and left is better; each trial is recovered, one seed. Asked: {asked}."
    figure = trade_off(series, title, "Points gained (negative: lost)")
    caption = f"Points on validation samples against {what}"
    return [heading, Plot(identifier, caption, described, figure, own_table)]


def _summary(study: Study, on_front: int) -> str:
    complete = sum(trial.state == "complete" for trial in study.trials)
    return (
        f"{complete} of {len(study.trials)} trials complete, {on_front} on the front"
        + (f", hypervolume {study.hypervolume:.4g}" if study.hypervolume is not None else "")
        + (f"; the dense network has {study.dense.accuracy:.2f}%" if study.dense is not None else "")
        + ". One seed a trial; its values are on validation images."
    )


def _front(study: Study, cost: str | None) -> set[int]:
    """Places of the trials that no trial and no dense network beats; by their metrics, whatever the file says."""
    points = [(place, _point(trial.values, cost)) for place, trial in enumerate(study.trials)]
    known = [(place, point) for place, point in points if point is not None]
    dense = None if study.dense is None else _point(study.dense.values, cost)
    return {known[number][0] for number in unbeaten([point for _, point in known], dense)}


def _point(values: Mapping[str, float], cost: str | None) -> tuple[float, float] | None:
    """(accuracy, cost), where both are known."""
    accuracy, price = values.get(ACCURACY), values.get(cost or "")
    return None if accuracy is None or price is None else (accuracy, price)


def _points(study: Study, cost: str | None) -> dict[str, list[tuple[float, float, str]]]:
    """By series: (cost, accuracy, what it is)."""
    series: dict[str, list[tuple[float, float, str]]] = {"trials": []}
    for trial in study.trials:
        if (point := _point(trial.values, cost)) is not None:
            said = ", ".join(f"{key}={value}" for key, value in trial.params.items())
            series["trials"].append((point[1], point[0], f"trial {trial.number}: {said}"))
    if study.dense is not None and (dense := _point(study.dense.values, cost)) is not None:
        series["dense"] = [(dense[1], dense[0], "the dense network")]
    return series
