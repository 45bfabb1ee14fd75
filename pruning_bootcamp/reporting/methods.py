"""The settings of an experiment side by side: tables, plots of quality against cost, ablations, fairness."""

from collections.abc import Callable, Mapping, Sequence

from pruning_bootcamp.reporting.document import Block, Cell, Column, CommandLines, Plot, Row, Table, Text, columns
from pruning_bootcamp.reporting.experiments import SettingRuns
from pruning_bootcamp.reporting.findings import ExperimentFindings, validation_of
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
    """Validation accuracy against FLOPs and against parameters that are not zero, each with its Pareto front."""
    without = [setting for setting in found.experiment.settings if validation_of(setting) is None]
    blocks: list[Block] = []
    asked: tuple[tuple[str, CostOf, str, Sequence[SettingRuns]], ...] = (
        ("flops-g", lambda one: one.flops_g, "FLOPs (G multiply-accumulates)", found.front_flops),
        (
            "kept-params-m",
            lambda one: one.kept_params_m,
            "Parameters that are not zero (M)",
            found.front_params,
        ),
    )
    for name, cost, title, front in asked:
        plot = _trade_off(found, f"{identifier}-{name}", cost, title, front)
        if plot is not None:
            blocks.append(plot)
    if blocks and without:
        names = ", ".join(setting.label for setting in without[:5]) + (", ..." if len(without) > 5 else "")
        blocks.append(Text(f"Without a recorded validation accuracy, so in neither plot: {len(without)} ({names})."))
    return blocks


def _trade_off(
    found: ExperimentFindings, identifier: str, cost: CostOf, title: str, front: Sequence[SettingRuns]
) -> Plot | None:
    series: dict[str, list[tuple[float, float, str]]] = {}
    rows = []
    on_front = {id(setting) for setting in front}
    for setting in found.experiment.settings:
        val, price = setting.val_accuracy, cost(setting)
        if val is None or price is None:
            continue
        said = f"{setting.label}: {val.shown()}% on validation ({setting.n_said}), {price.shown('{:.4g}')}"
        series.setdefault(setting.first.method, []).append((price.mean, val.mean, said))
        beaten = "✓ on the front" if id(setting) in on_front else "– beaten"
        rows.append(Row([setting.label, setting.n_said, amount(price, "{:.4g}"), amount(val), beaten]))
    prices = {x for points in series.values() for x, _, _ in points}
    if len(rows) < 2 or len(prices) < 2:  # nothing is traded for anything
        return None
    titles = [
        Column("Setting"),
        Column("Seeds"),
        Column(title, True),
        Column("Validation accuracy (%)", True),
        Column("Pareto"),
    ]
    best, worst = (choose(y for points in series.values() for _, y, _ in points) for choose in (max, min))
    hidden = sum(y < best - _SHOWN_POINTS for points in series.values() for _, y, _ in points)
    low = max(worst, best - _SHOWN_POINTS)
    margin = 0.06 * (best - low) + 0.1
    figure = trade_off(series, title, "Validation accuracy (%)", (low - margin, best + margin))
    description = (
        f"{len(rows)} settings; up and left is better. {beaten_by_none(len(front))}; hollow points are beaten. "
        "Means over seeds, on the validation images: a choice made here has not seen the test images."
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
