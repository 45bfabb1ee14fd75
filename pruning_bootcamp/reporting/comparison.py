"""The settings of a group side by side, and what each gives for what it takes: tables and plots."""

from collections.abc import Callable, Mapping, Sequence

from pruning_bootcamp.reporting.document import Block, Cell, Column, Plot, Row, Table, Text
from pruning_bootcamp.reporting.figures import trade_off
from pruning_bootcamp.reporting.findings import GroupFindings, validation_of
from pruning_bootcamp.reporting.groups import Setting
from pruning_bootcamp.reporting.shown import amount, beaten_by_none
from pruning_bootcamp.reporting.values import Spread

_SHOWN_POINTS = 15.0  # below that far from the best, points would press the others together


def comparison(found: GroupFindings, identifier: str) -> list[Block]:
    """A row a setting: mean and spread over its seeds."""
    settings = found.group.pruned
    if not settings:
        return []
    fronts = {"FLOPs": found.front_flops, "parameters": found.front_params}
    rows = []
    for setting in settings:
        zeros = setting.figure("sparsity")
        met = [record.goal_met for record in setting.records if record.goal_met is not None]
        rows.append(
            Row(
                [
                    setting.label,
                    setting.n_said,
                    amount(setting.figure("val_pruned")),
                    amount(setting.figure("val_accuracy")),
                    amount(setting.accuracy),
                    amount(setting.figure("drop")),
                    amount(setting.figure("flops_reduction_pct"), "{:.1f}"),
                    amount(None if zeros is None else _times_100(zeros)),
                    Cell(f"{sum(met)} of {len(met)}", sum(met) / len(met)) if met else "–",
                    _fronts_said(setting, fronts),
                ]
            )
        )
    columns = [
        Column("Setting"),
        Column("Seeds"),
        Column("Validation, just pruned (%)", True),
        Column("Validation accuracy (%)", True),
        Column("Test accuracy (%)", True),
        Column("Drop on test (points)", True),
        Column("Fewer FLOPs (%)", True),
        Column("Zeros (%)", True),
        Column("Goal met", True),
        Column("On the front of"),
    ]
    return [Table(identifier, f"{found.group.title}: one row a setting, over its seeds", columns, rows)]


def trade_offs(found: GroupFindings, identifier: str) -> list[Block]:
    """Validation accuracy against FLOPs and against parameters that are not zero, each with its Pareto front."""
    without = [setting for setting in found.group.settings if validation_of(setting) is None]
    blocks: list[Block] = []
    asked = (
        ("flops_g", "FLOPs (G multiply-accumulates)", found.front_flops),
        ("kept_params_m", "Parameters that are not zero (M)", found.front_params),
    )
    for key, title, front in asked:
        plot = _trade_off(found, f"{identifier}-{key.replace('_', '-')}", key, title, front)
        if plot is not None:
            blocks.append(plot)
    if blocks and without:
        names = ", ".join(setting.label for setting in without[:5]) + (", ..." if len(without) > 5 else "")
        blocks.append(Text(f"Without a recorded validation accuracy, so in neither plot: {len(without)} ({names})."))
    return blocks


def _trade_off(found: GroupFindings, identifier: str, key: str, title: str, front: Sequence[Setting]) -> Plot | None:
    cost: Callable[[Setting], Spread | None] = lambda setting: setting.figure(key)  # noqa: E731
    series: dict[str, list[tuple[float, float, str]]] = {}
    rows = []
    on_front = {id(setting) for setting in front}
    for setting in found.group.settings:
        val, price = setting.figure("val_accuracy"), cost(setting)
        if val is None or price is None:
            continue
        said = f"{setting.label}: {val.shown()}% on validation ({setting.n_said}), {price.shown('{:.4g}')}"
        series.setdefault(setting.first.method, []).append((price.mean, val.mean, said))
        beaten = "✓ on the front" if id(setting) in on_front else "– beaten"
        rows.append(Row([setting.label, setting.n_said, amount(price, "{:.4g}"), amount(val), beaten]))
    prices = {x for points in series.values() for x, _, _ in points}
    if len(rows) < 2 or len(prices) < 2:  # nothing is traded for anything
        return None
    columns = [
        Column("Setting"),
        Column("Seeds"),
        Column(title, True),
        Column("Validation accuracy (%)", True),
        Column("Pareto"),
    ]
    figure = trade_off(series, title, "Validation accuracy (%)")
    best, worst = (choose(y for points in series.values() for _, y, _ in points) for choose in (max, min))
    hidden = sum(y < best - _SHOWN_POINTS for points in series.values() for _, y, _ in points)
    low = max(worst, best - _SHOWN_POINTS)
    margin = 0.06 * (best - low) + 0.1
    figure["layout"]["yaxis"]["range"] = [low - margin, best + margin]
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
        Table(f"{identifier}-table", f"{found.group.title}: {title} against validation accuracy", columns, rows),
    )


def _fronts_said(setting: Setting, fronts: Mapping[str, Sequence[Setting]]) -> str:
    """Against which costs no other setting beats it: one that leads by parameters may well be beaten by FLOPs."""
    mine = [cost for cost, front in fronts.items() if any(setting is other for other in front)]
    return f"✓ {' and '.join(mine)}" if mine else "–"


def _times_100(share: Spread) -> Spread:
    return Spread(100 * share.mean, None if share.std is None else 100 * share.std, share.n)
