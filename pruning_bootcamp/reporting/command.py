"""report: what is below a folder, as Markdown or one HTML page, with every run in summary.csv beside it."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

from pruning_bootcamp.errors import BootcampError, unknown
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pages import check_plotly
from pruning_bootcamp.reporting.collect import collect
from pruning_bootcamp.reporting.document import html, markdown
from pruning_bootcamp.reporting.fairness import quoted
from pruning_bootcamp.reporting.findings import Findings, find
from pruning_bootcamp.reporting.records import Record
from pruning_bootcamp.reporting.sections import document, made_by_sweeps
from pruning_bootcamp.reporting.sparsities import LayerSparsities, layer_sparsities
from pruning_bootcamp.runs import write_text

FORMATS = ("md", "html")
NAME = "summary"  # not report.md: that is a run's own


def report(results: Path, format: str = "md", save_dir: Path | None = None) -> Path:  # noqa: A002
    """Write summary.md or summary.html and summary.csv; the report's path. Made anew each time, from what is there."""
    if format not in FORMATS:
        raise BootcampError(unknown("format", format, FORMATS), where="--format")
    if format == "html":
        check_plotly("--format html")
    findings = find(collect(results))
    target = save_dir or results
    save = "" if save_dir is None else f" --save-dir {quoted(str(save_dir))}"
    command = f"pruning-bootcamp report --results {quoted(str(results))} --format {format}{save}"
    content = document(findings, _sparsities(findings), target, command)
    path = target / f"{NAME}.{format}"
    text = markdown(content) if format == "md" else html(content)
    write_text(target / f"{NAME}.csv", _csv(findings))
    write_text(path, text)
    found = findings.collected
    counts = len(findings.records), len(found.runs)
    LOGGER.info("%d networks in %d finished runs below %s.%s", *counts, results, made_by_sweeps(found))
    for problem in found.problems:
        LOGGER.warning("not used: %s: %s", problem.name, problem.reason)
    for left_out in found.left_out:
        LOGGER.info("left out: %s: %s", left_out.name, left_out.reason)
    LOGGER.info("Report: %s (%.2f MB)\nMetrics: %s", path, path.stat().st_size / 1e6, target / f"{NAME}.csv")
    return path


def _sparsities(findings: Findings) -> list[tuple[str, LayerSparsities]]:
    return [
        (found.experiment.title, entry)
        for found in findings.experiments
        for entry in layer_sparsities(found.experiment.settings)
    ]


_COLUMNS: dict[str, Callable[[Record], object]] = {
    "name": lambda record: record.name,
    "command": lambda record: record.command,
    "dataset": lambda record: record.dataset,
    "model": lambda record: record.model,
    "method": lambda record: record.method,
    "amount": lambda record: record.amount,
    "seed": lambda record: record.seed,
    "val_accuracy": lambda record: record.val_accuracy,
    "test_accuracy": lambda record: record.accuracy,
    "test_images": lambda record: record.metrics.test_images,
    "drop": lambda record: record.metrics.accuracy_drop,
    "flops_g": lambda record: record.metrics.flops_g,
    "params_m": lambda record: record.metrics.params_m,
    "sparsity": lambda record: record.metrics.sparsity,
    "flops_reduction_pct": lambda record: record.metrics.flops_reduction_pct,
    "goal": lambda record: record.metrics.goal,
    "goal_met": lambda record: record.metrics.goal_met,
}


def _csv(findings: Findings) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for record in findings.records:
        writer.writerow([_cell(read(record)) for read in _COLUMNS.values()])
    return stream.getvalue()


def _cell(value: object) -> object:
    # a spreadsheet would take text that begins so for a formula
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")) else value
