"""The settings of an experiment side by side: tables, plots of quality against cost, ablations, fairness."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pruning_bootcamp.reporting.document import Block, Cell, Column, CommandLines, Plot, Row, Table, Text, columns
from pruning_bootcamp.reporting.experiments import Experiment, SettingRuns
from pruning_bootcamp.reporting.findings import ExperimentFindings, validation_of
from pruning_bootcamp.reporting.pareto import pareto_front
from pruning_bootcamp.reporting.plots import trade_off
from pruning_bootcamp.reporting.values import Spread, amount, beaten_by_none

CostOf = Callable[[SettingRuns], Spread | None]
MARKS = {True: "✓ yes", False: "✗ no", None: "– n/a"}
_SHOWN_POINTS = 15.0  # below that far from the best, points would press the others together


def comparison(found: ExperimentFindings, identifier: str) -> list[Block]:
    """A row a setting: mean and spread over its seeds."""
    settings = found.experiment.pruned
    if not settings:
        return []
    fronts = {"FLOPs": found.front_flops, "parameters": found.front_params}
    rows = []
    for setting in settings:
        met = [goal for record in setting.records if (goal := record.metrics.goal_met) is not None]
        rows.append(
            Row(
                [
                    setting.label,
                    setting.n_said,
                    amount(setting.over_seeds(lambda record: record.val_pruned)),
                    amount(setting.val_accuracy),
                    amount(setting.accuracy),
                    amount(setting.drop),
                    amount(setting.fewer_flops_pct, "{:.1f}"),
                    amount(setting.zeros_pct),
                    Cell(f"{sum(met)} of {len(met)}", sum(met) / len(met)) if met else "–",
                    _fronts_said(setting, fronts),
                ]
            )
        )
    titles = columns(
        "Setting | Seeds | # Validation, just pruned (%) | # Validation accuracy (%)"
        " | # Test accuracy (%) | # Drop on test (points) | # Fewer FLOPs (%) | # Zeros (%) | # Goal met"
        " | On the front of"
    )
    return [Table(identifier, f"{found.experiment.title}: one row a setting, over its seeds", titles, rows)]


def trade_offs(found: ExperimentFindings, identifier: str) -> list[Block]:
    """Validation accuracy against FLOPs, parameters that are not zero and time, each with its Pareto front."""
    settings = found.experiment.settings
    without = [setting for setting in settings if validation_of(setting) is None]
    asked: list[tuple[str, str, str, Sequence[_Point]]] = [
        ("flops-g", "FLOPs (G multiply-accumulates)", "", _points(settings, lambda one: one.flops_g)),
        ("kept-params-m", "Parameters that are not zero (M)", "", _points(settings, lambda one: one.kept_params_m)),
    ]
    for place, way in enumerate(dict.fromkeys(one.timed_by for one in found.experiment.pruned if one.timed_by)):
        said = f" Each network was timed in turn with its dense one: {way}."
        title = "Latency (% of the dense network's)"
        asked.append((f"latency-{place}", title, said, _timed(found.experiment, way)))
    plots = [_trade_off(found, f"{identifier}-{name}", title, said, points) for name, title, said, points in asked]
    blocks: list[Block] = [plot for plot in plots if plot is not None]
    if blocks and without:
        names = ", ".join(setting.label for setting in without[:5]) + (", ..." if len(without) > 5 else "")
        blocks.append(Text(f"Without a recorded validation accuracy, so in none of these: {len(without)} ({names})."))
    return blocks


@dataclass(frozen=True)
class _Point:
    """A setting, or the dense network, in a plot of quality against cost."""

    label: str
    series: str
    n_said: str
    val: Spread
    price: Spread


def _points(settings: Sequence[SettingRuns], cost: CostOf) -> list[_Point]:
    """The settings that know both."""
    known = [(one, one.val_accuracy, cost(one)) for one in settings]
    return [
        _Point(one.label, one.first.method, one.n_said, val, price)
        for one, val, price in known
        if val is not None and price is not None
    ]


def _timed(experiment: Experiment, way: str) -> list[_Point]:
    """What was timed in this way, and the dense network, which takes all of its own time."""
    points = _points([one for one in experiment.pruned if one.timed_by == way], lambda one: one.time_pct)
    whole = Spread(100.0, None, 1)
    trained = [one for one in experiment.settings if one.first.command == "train"]
    dense = _points(trained, lambda one: whole)
    if not dense and (val := experiment.dense_val_accuracy) is not None:
        dense = [_Point("the dense network", "dense", "as the pruned runs know it", Spread(val, None, 1), whole)]
    return [*dense, *points]


def _trade_off(
    found: ExperimentFindings, identifier: str, title: str, said: str, points: Sequence[_Point]
) -> Plot | None:
    if len(points) < 2 or len({one.price.mean for one in points}) < 2:  # nothing is traded for anything
        return None
    front = set(pareto_front([(one.val.mean, one.price.mean) for one in points]))
    series: dict[str, list[tuple[float, float, str]]] = {}
    rows = []
    for place, one in enumerate(points):
        text = f"{one.label}: {one.val.shown()}% on validation ({one.n_said}), {one.price.shown('{:.4g}')}"
        series.setdefault(one.series, []).append((one.price.mean, one.val.mean, text))
        beaten = "✓ on the front" if place in front else "– beaten"
        rows.append(Row([one.label, one.n_said, amount(one.price, "{:.4g}"), amount(one.val), beaten]))
    titles = [
        Column("Setting"),
        Column("Seeds"),
        Column(title, True),
        Column("Validation accuracy (%)", True),
        Column("Pareto"),
    ]
    best, worst = (choose(one.val.mean for one in points) for choose in (max, min))
    hidden = sum(one.val.mean < best - _SHOWN_POINTS for one in points)
    low = max(worst, best - _SHOWN_POINTS)
    margin = 0.06 * (best - low) + 0.1
    figure = trade_off(series, title, "Validation accuracy (%)", (low - margin, best + margin))
    description = (
        f"{len(rows)} settings; up and left is better. {beaten_by_none(len(front))}; hollow points are beaten. "
        f"Means over seeds, on the validation images: a choice made here has not seen the test images.{said}"
    )
    if hidden:
        description += f" Zoom out to see the {hidden} that lie more than {_SHOWN_POINTS:g} points below the best."
    return Plot(
        identifier,
        f"Validation accuracy against {title[0].lower() + title[1:] if not title.startswith('FLOPs') else title}",
        description,
        figure,
        Table(f"{identifier}-table", f"{found.experiment.title}: {title} against validation accuracy", titles, rows),
    )


def _fronts_said(setting: SettingRuns, fronts: Mapping[str, Sequence[SettingRuns]]) -> str:
    """Against which costs no other setting beats it: one that leads by parameters may well be beaten by FLOPs."""
    mine = [cost for cost, front in fronts.items() if any(setting is other for other in front)]
    return f"✓ {' and '.join(mine)}" if mine else "–"


def ablations(found: ExperimentFindings, identifier: str) -> list[Block]:
    """A table for each config key in which settings differ alone."""
    blocks: list[Block] = []
    for place, ablation in enumerate(found.ablations):
        rows = [
            Row(
                [
                    value,
                    setting.label,
                    setting.n_said,
                    amount(setting.val_accuracy),
                    amount(setting.accuracy),
                    amount(setting.fewer_flops_pct, "{:.1f}"),
                ]
            )
            for value, setting in ablation.values
        ]
        titles = [
            Column(ablation.key),
            Column("Setting"),
            Column("Seeds"),
            Column("Validation accuracy (%)", True),
            Column("Test accuracy (%)", True),
            Column("Fewer FLOPs (%)", True),
        ]
        caption = f"Only {ablation.key} differs between these rows, by their config.yaml"
        blocks.append(Table(f"{identifier}-{place}", caption, titles, rows))
    return blocks


def fairness(found: ExperimentFindings, identifier: str) -> list[Block]:
    """The fairness card as a table, with the commands that mend what it misses; nothing where nothing was pruned."""
    if not found.experiment.pruned:
        return []
    rows = [Row([check.question, MARKS[check.met], check.found]) for check in found.fairness]
    titles = columns("What a fair comparison needs | There? | Found")
    blocks: list[Block] = [Table(identifier, f"Fairness of the comparison: {found.experiment.title}", titles, rows)]
    for check in found.fairness:
        if check.met is not True and check.mend:
            commands = [line for line in check.mend if line.startswith("pruning-bootcamp")]
            words = [line for line in check.mend if line not in commands]
            blocks.append(Text(f"To mend “{check.question}”:{' ' + ' '.join(words) if words else ''}"))
            if commands:
                blocks.append(CommandLines(commands))
    return blocks
