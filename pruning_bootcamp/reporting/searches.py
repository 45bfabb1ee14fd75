"""The section on sweeps: every trial, and the front that neither a trial nor the dense network beats."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning_bootcamp.reporting.collect import Found
from pruning_bootcamp.reporting.document import Block, Cell, Column, Heading, Plot, Row, Section, Table, Text
from pruning_bootcamp.reporting.figures import trade_off
from pruning_bootcamp.reporting.front import unbeaten
from pruning_bootcamp.reporting.shown import link, rate
from pruning_bootcamp.reporting.values import number, rows, table

ACCURACY = "accuracy"


def sweeps(found: Sequence[Found], target: Path) -> Section | None:
    """A table and a plot of each sweep's trials."""
    blocks: list[Block] = []
    for place, sweep in enumerate(found):
        blocks += _sweep(sweep, f"sweep-{place}", target)
    return Section("sweeps", "Sweeps", blocks) if blocks else None


def _sweep(sweep: Found, identifier: str, target: Path) -> list[Block]:
    c = sweep.content
    trials = rows(c.get("trials"))
    keys = list(dict.fromkeys(key for trial in trials for key in table(trial.get("params"))))
    goals = [str(entry.get("name")) for entry in rows(c.get("objectives"))]
    cost = next((goal for goal in goals if goal != ACCURACY), None)
    on_front = _front(c, trials, cost)
    cells = []
    for trial in trials:
        params, values = table(trial.get("params")), table(trial.get("values"))
        folder = sweep.folder / str(trial.get("folder", ""))
        own = link(folder, target) if folder.resolve().is_relative_to(sweep.folder.resolve()) else None
        cells.append(
            Row(
                [
                    Cell(str(trial.get("number")), number(trial.get("number")), own),
                    str(trial.get("state")),
                    *(Cell(str(params.get(key, "–")), number(params.get(key))) for key in keys),
                    *(rate(number(values.get(goal)), "{:.4g}") for goal in goals),
                    "✓ on the front" if id(trial) in on_front else "–",
                ]
            )
        )
    shown = [f"{goal} (validation, %)" if goal == ACCURACY else goal for goal in goals]
    columns = [
        *(Column("Trial"), Column("State"), *(Column(key) for key in keys)),
        *(*(Column(goal, True) for goal in shown), Column("Pareto")),
    ]
    own_table = Table(f"{identifier}-table", f"{sweep.name}: its trials", columns, cells, search=len(cells) > 8)
    heading = Heading(f"{sweep.name}: {c.get('command')}, {c.get('sampler')}")
    blocks: list[Block] = [heading, Text(_summary(c, trials, len(on_front)))]
    figure = _figure(c, trials, cost)
    if figure is None or cost is None:
        return [*blocks, own_table]
    description = (
        f"Validation accuracy (%) against {cost}; up and left is better. Filled points are beaten by none (the dotted "
        "line), hollow ones are."
    )
    return [*blocks, Plot(identifier, f"Trials of {sweep.name}", description, figure, own_table)]


def _summary(c: dict[str, Any], trials: Sequence[dict[str, Any]], on_front: int) -> str:
    complete = sum(trial.get("state") == "complete" for trial in trials)
    volume, dense = number(c.get("hypervolume")), number(table(c.get("dense")).get(ACCURACY))
    return (
        f"{complete} of {len(trials)} trials complete, {on_front} on the front"
        + (f", hypervolume {volume:.4g}" if volume is not None else "")
        + (f"; the dense network has {dense:.2f}%" if dense is not None else "")
        + ". One seed a trial; its values are on validation images."
    )


def _point(values: Any, cost: str | None) -> tuple[float, float] | None:
    """(accuracy, cost), where both are known."""
    accuracy, price = number(table(values).get(ACCURACY)), number(table(values).get(str(cost)))
    return None if accuracy is None or price is None else (accuracy, price)


def _front(c: dict[str, Any], trials: Sequence[dict[str, Any]], cost: str | None) -> set[int]:
    """Identities of the trials that no trial and no dense network beats; by their figures, whatever the file says."""
    known = [(trial, point) for trial in trials if (point := _point(trial.get("values"), cost)) is not None]
    front = unbeaten([point for _, point in known], _point(c.get("dense"), cost))
    return {id(known[place][0]) for place in front}


def _figure(c: dict[str, Any], trials: Sequence[dict[str, Any]], cost: str | None) -> dict[str, Any] | None:
    points = []
    for trial in trials:
        if (point := _point(trial.get("values"), cost)) is not None:
            said = ", ".join(f"{key}={value}" for key, value in table(trial.get("params")).items())
            points.append((point[1], point[0], f"trial {trial.get('number')}: {said}"))
    if not points:
        return None
    series = {"trials": points}
    if (dense := _point(c.get("dense"), cost)) is not None:
        series["dense"] = [(dense[1], dense[0], "the dense network")]
    return trade_off(series, str(cost), "Validation accuracy (%)")
