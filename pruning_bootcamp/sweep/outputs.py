"""What a sweep leaves for people and programs: sweep.yaml, trials.csv, pareto.html, and the table on the screen."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pruning_bootcamp import pages
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.reporting import markdown_table
from pruning_bootcamp.reporting.pareto import hypervolume, unbeaten
from pruning_bootcamp.reporting.plots import Figure, trade_off
from pruning_bootcamp.results import Study, Trial
from pruning_bootcamp.runs import write_text, write_yaml
from pruning_bootcamp.sweep.space import shown_setting, text_of

SWEEP, TABLE, PAGE = "sweep.yaml", "trials.csv", "pareto.html"
FORMATS = {
    "accuracy": "{:.2f}",
    "flops_g": "{:.4g}",
    "latency_ms": "{:.3f}",
    "size_mb": "{:.4f}",
    "params_m": "{:.4g}",
    "sparsity": "{:.3f}",
}
TITLES = {
    "accuracy": "validation %",
    "flops_g": "G macs",
    "latency_ms": "ms",
    "size_mb": "MB",
    "params_m": "M params",
    "sparsity": "zeros",
}
_DESCRIPTION = (
    "Each trial a point, and the dense network where there is one. Filled points are beaten by none (the dotted line)."
)
_NOTE = "accuracy: percent of the validation images; flops_g: multiply-accumulates in 10^9; size_mb: of the sparse file"


def concluded(study: Study) -> Study:
    """The study with its front, the hypervolume with its reference, and the trial to take, by its trials."""
    cost = cost_of_sweep(study)
    complete = [trial for trial in study.trials if trial.state == "complete"]
    points = [(trial.values["accuracy"], trial.values[cost]) for trial in complete]
    dense = None if study.dense is None else study.dense.values
    front = [complete[place] for place in unbeaten(points, (dense["accuracy"], dense[cost]) if dense else None)]
    # without a dense network (command train) the dearest trial is the corner, a little further out so that it counts
    dearest = dense[cost] if dense else 1.1 * max((point[1] for point in points), default=1.0)
    chosen = recommend(front, cost, dense, study.max_drop, len(complete))
    return replace(
        study,
        pareto=tuple(trial.number for trial in front),
        hypervolume=round(hypervolume(points, (0.0, dearest)), 6),
        hypervolume_reference={"accuracy": 0.0, cost: dearest},
        chosen=chosen.number,
        chosen_because=chosen.because,
        chosen_keeps_accuracy=chosen.keeps_accuracy,
    )


@dataclass(frozen=True)
class Recommendation:
    """The trial to take, and why; `keeps_accuracy`: else it is nearest, and not recommended."""

    number: int | None
    because: str
    keeps_accuracy: bool | None = None


def recommend(
    front: Sequence[Trial],
    cost: str,
    dense: Mapping[str, float] | None,
    max_drop: float,
    completed: int,
) -> Recommendation:
    """The cheapest of the front that loses at most `max_drop` points; where none is as good, the most accurate."""
    if not front:
        beaten = f"the dense network beats all {completed}: none is cheaper, or more accurate for as much"
        return Recommendation(None, beaten if completed else "no trial was completed")
    best = max(front, key=lambda trial: trial.values["accuracy"])
    least = (dense["accuracy"] if dense else best.values["accuracy"]) - max_drop
    than = f"{max_drop:g} points less accurate than the {'dense network' if dense else 'best trial'}"
    good = [trial for trial in front if trial.values["accuracy"] >= least]
    if not good:
        return Recommendation(best.number, f"the most accurate; all are more than {than}", keeps_accuracy=False)
    taken = min(good, key=lambda trial: trial.values[cost])
    return Recommendation(taken.number, f"the cheapest that is at most {than}", keeps_accuracy=True)


def cost_of_sweep(study: Study) -> str:
    """The metric that accuracy is traded against: the objective that is made small."""
    return next(objective.name for objective in study.objectives if objective.direction == "minimize")


def write_sweep(folder: Path, study: Study) -> None:
    """sweep.yaml, whole: every trial, the front and the recommendation."""
    write_yaml(folder / SWEEP, to_plain(study), _NOTE)


def write_csv(folder: Path, study: Study) -> None:
    """A row a trial."""
    text = io.StringIO()
    keys = list(study.space)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", "on_front", *keys, *FORMATS, "seconds", "folder"])
    for trial in study.trials:
        values = [trial.values.get(name, "") for name in FORMATS]
        settings = [text_of(trial.params.get(key, "")) for key in keys]
        on_front = trial.number in study.pareto
        row = [trial.number, trial.state, on_front, *settings, *values, trial.seconds, trial.folder]
        writer.writerow(row)
    write_text(folder / TABLE, text.getvalue())


def table_rows(study: Study, most: int = 40) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the trials: the front by cost, then the others by accuracy; at most so many."""
    keys, front = list(study.space), study.pareto
    by_number = {trial.number: trial for trial in study.trials}
    others = [trial for trial in study.trials if trial.number not in front]
    others.sort(key=lambda trial: (trial.state != "complete", -trial.values.get("accuracy", -1.0)))
    head = ["trial", *(key.removeprefix("structured.").removeprefix("prune.") for key in keys)]
    head += [*TITLES.values(), "s", "state"]
    rows = []
    for trial in [*(by_number[number] for number in front), *others][:most]:
        state = "front" if trial.number in front else trial.state
        values = [FORMATS[name].format(trial.values[name]) if name in trial.values else "" for name in FORMATS]
        settings = [shown_setting(trial.params.get(key, "")) for key in keys]
        seconds = f"{trial.seconds:.1f}" if trial.state != "running" else ""
        rows.append([str(trial.number), *settings, *values, seconds, state])
    return head, rows


def table(study: Study, most: int = 40) -> str:
    """The trials as a table in text, and what came of them."""
    head, rows = table_rows(study, most)
    lines = [markdown_table(head, rows)]
    if len(study.trials) > most:
        lines.append(f"({len(study.trials) - most} more are in {TABLE})")
    timed = [trial.latency_way for trial in (study.dense, *study.trials) if trial is not None and trial.latency_way]
    lines += [f"ms: {way}" for way in dict.fromkeys(timed)]
    cost = cost_of_sweep(study)
    reference = study.hypervolume_reference or {}
    lines.append(
        f"\nPareto front of accuracy against {cost}: {len(study.pareto)} of {len(study.trials)} trials. "
        f"Hypervolume {study.hypervolume:.4f} of the rectangle between {reference['accuracy']:g}% at "
        f"{reference[cost]:.4g} {cost} and 100% for nothing."
    )
    lines += [f"trial {entry.number} {entry.state}: {entry.reason}" for entry in _reasons(study)]
    return "\n".join(lines)


def _reasons(study: Study, most: int = 5) -> list[Trial]:
    return [trial for trial in study.trials if trial.state == "failed" and trial.reason][:most]


def write_page(folder: Path, study: Study) -> bool:
    """pareto.html, where plotly is installed; whether it was written."""
    if not pages.has_plotly():
        return False
    head, rows = table_rows(study, most=len(study.trials))
    columns = [
        pages.Column(title, numeric=_is_number([row[place] for row in rows])) for place, title in enumerate(head)
    ]
    table = pages.table(
        "Trials",
        columns,
        [pages.Row([_cell(cell, column) for cell, column in zip(row, columns, strict=True)]) for row in rows],
        identifier="trials",
        search=True,
    )
    caption = f"Validation accuracy against {cost_of_sweep(study)}"
    body = (
        f"<header><h1>{pages.escape(study.name)}</h1>\n<p>{pages.escape(study.command)}, sampler "
        f"{pages.escape(study.sampler)}, {len(study.trials)} trials. Accuracy is of the validation images; "
        'the test images were not read.</p></header>\n<main id="main">\n<h2>Pareto front</h2>\n'
        f"{pages.plot('front', caption, _DESCRIPTION, table)}</main>"
    )
    write_text(folder / PAGE, pages.page(f"Sweep: {study.name}", body, {"front": _figure(study)}))
    return True


def _is_number(cells: Sequence[str]) -> bool:
    return all(_number(cell) is not None for cell in cells if cell not in ("", "-"))


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _cell(cell: str, column: pages.Column) -> pages.Cell:
    return pages.Cell(cell, _number(cell) if column.numeric else None)


def _figure(study: Study) -> Figure:
    cost = cost_of_sweep(study)
    complete = [trial for trial in study.trials if trial.state == "complete"]
    points = [(trial.values[cost], trial.values["accuracy"], _about(trial)) for trial in complete]
    series = {"trials": points}
    if study.dense is not None:
        series["dense"] = [(study.dense.values[cost], study.dense.accuracy, "dense")]
    return trade_off(series, cost, "validation accuracy (%)")


def _about(trial: Trial) -> str:
    """What a point shows when it is pointed at."""
    params = ", ".join(f"{key}: {shown_setting(value)}" for key, value in trial.params.items())
    return f"trial {trial.number}: {trial.values['accuracy']:.2f}% ({params})"
