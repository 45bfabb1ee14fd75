"""Findings -> the report's sections, in the order in which they are read; validation and test never share a column."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pruning_bootcamp.reporting.collect import Collected
from pruning_bootcamp.reporting.document import (
    Block,
    Bullets,
    Cell,
    Document,
    Filter,
    Item,
    Items,
    Row,
    Section,
    Subheading,
    Table,
    Text,
    columns,
)
from pruning_bootcamp.reporting.findings import ExperimentFindings, Findings
from pruning_bootcamp.reporting.judgement import FAILURE_RULES
from pruning_bootcamp.reporting.measured import latency, layers, scans, searches, sweeps
from pruning_bootcamp.reporting.methods import ablations, comparison, fairness, trade_offs
from pruning_bootcamp.reporting.picking import Advice
from pruning_bootcamp.reporting.records import Record
from pruning_bootcamp.reporting.sparsities import LayerSparsities
from pruning_bootcamp.reporting.stairs import time_by_width
from pruning_bootcamp.reporting.values import amount, counted, link, rate
from pruning_bootcamp.reporting.would_pay import would_pay

Maker = Callable[[ExperimentFindings, str], list[Block]]


def document(
    findings: Findings, sparsities: Sequence[tuple[str, LayerSparsities]], target: Path, command: str
) -> Document:
    """The whole report. `sparsities`: (experiment title, table) of each experiment; links are relative to `target`."""
    found = findings.collected
    sections = [
        _recommendations(findings),
        _baselines(findings),
        _runs(findings, target),
        _per_group("methods", "Methods compared", findings, comparison),
        _per_group("trade-offs", "What is given for what", findings, trade_offs),
        _per_group("ablations", "Ablations", findings, ablations),
        layers(sparsities),
        latency(found.profiles, found.evaluations),
        time_by_width(found.stairs),
        would_pay(found.profiles),
        scans(found.scans),
        sweeps(found.sweeps, target),
        searches(found.searches, target),
        _failures(findings),
        _per_group("fairness", "Fairness card", findings, fairness),
        _not_shown(findings),
        _machines(findings),
    ]
    problems = len(found.problems)
    lead = [
        f"{counted(len(findings.records), 'network')} in {counted(len(found.runs), 'finished run')}, "
        f"{counted(len(found.profiles), 'latency profile')}, {counted(len(found.scans), 'sensitivity scan')}, "
        f"{counted(len(found.sweeps), 'sweep')} below {found.root}."
        + made_by_sweeps(found)
        + (f" {counted(problems, 'folder')} could not be used (see “Not in the tables”)." if problems else ""),
        "Every metric was measured by the run it stands for. Accuracy is in percent; test accuracy was read once, at "
        "the end of a run, or not at all (–); choices rest on validation accuracy alone. ± is the standard deviation "
        "over seeds. FLOPs are multiply-accumulates, as pruning papers print them.",
    ]
    made = f"Made by `{command}` at {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}."
    return Document(f"Pruning results: {found.root.resolve().name}", lead, [s for s in sections if s is not None], made)


def made_by_sweeps(found: Collected) -> str:
    """How many runs sweeps made, which, and where they stand; nothing where there are none."""
    counts = Counter(str(run.sweep) for run in found.trials)
    if not counts:
        return ""
    whose = ", ".join(f"{count} by {sweep}" for sweep, count in sorted(counts.items()))
    if found.trials[0] in found.runs:
        return f" Sweeps made the runs: {whose}."
    verb = "was" if len(found.trials) == 1 else "were"
    return (
        f" {counted(len(found.trials), 'more run')} {verb} made by sweeps, each in its sweep's own section: {whose}. "
        "To compare them as runs, name the sweep: --results DIR."
    )


def _recommendations(findings: Findings) -> Section:
    blocks: list[Block] = []
    for found in findings.experiments:
        if found.advice:
            blocks += [Subheading(found.experiment.title), Items([_item(line) for line in found.advice])]
    if findings.advice:
        blocks += [Subheading("From profiles and scans"), Items([_item(line) for line in findings.advice])]
    return Section("recommendations", "Recommendations", blocks or [Text("None: no rule applies to these metrics.")])


def _item(advice: Advice) -> Item:
    return Item(advice.what, f"Metrics: {advice.metrics}.", f"Rule: {advice.rule}.", advice.command)


def _baselines(findings: Findings) -> Section:
    rows = []
    for found in findings.experiments:
        experiment = found.experiment
        trained = [setting for setting in experiment.settings if setting.first.command == "train"]
        for setting in trained:
            metrics = amount(setting.val_accuracy), amount(setting.accuracy)
            rows.append(
                Row([experiment.title, setting.label, setting.n_said, *metrics, *_size(setting.first, dense=False)])
            )
        if not trained and experiment.pruned:
            first = experiment.pruned[0].first
            metrics = rate(first.dense.val_accuracy), rate(first.dense.accuracy)
            what = "as the pruned runs measured it"
            rows.append(Row([experiment.title, what, "one seed", *metrics, *_size(first, dense=True)]))
    titles = columns(
        "Network | What | Seeds | # Validation accuracy (%) | # Test accuracy (%) | # Test images"
        " | # FLOPs (G) | # Params (M)"
    )
    return Section("baselines", "Baselines", [Table("baselines-table", "The dense networks", titles, rows)])


def _size(record: Record, dense: bool) -> tuple[Cell, Cell, Cell]:
    """Test images, FLOPs and parameters of a record, or of its dense network."""
    network = record.dense if dense else record.metrics
    return rate(record.metrics.test_images, "{:.0f}"), rate(network.flops_g, "{:.4g}"), rate(network.params_m, "{:.4g}")


def _runs(findings: Findings, target: Path) -> Section:
    titles = columns(
        "Run | Method | Budget | # Seed | # Validation accuracy (%) | # Test accuracy (%)"
        " | # Drop on test (points) | # Fewer FLOPs (%) | # Zeros (%) | # Params (M) | Goal met"
        " | Command | Dataset"
    )
    rows = []
    for record in findings.records:
        m = record.metrics
        goal = "✓ met" if m.goal_met else "✗ not met" if m.goal_met is False else "– none"
        zeros = None if m.sparsity is None else 100 * m.sparsity
        rows.append(
            Row(
                [
                    Cell(record.name, href=link(record.folder, target)),
                    record.method,
                    record.amount or "–",
                    rate(record.seed, "{:.0f}"),
                    rate(record.val_accuracy),
                    rate(record.accuracy),
                    rate(m.accuracy_drop),
                    rate(m.flops_reduction_pct, "{:.1f}"),
                    rate(zeros),
                    rate(m.params_m, "{:.4g}"),
                    goal,
                    record.command,
                    record.dataset,
                ],
                {"command": record.command, "dataset": record.dataset, "goal": goal},
            )
        )
    filters = [
        Filter("command", "Command", _options(row.attributes["command"] for row in rows)),
        Filter("dataset", "Dataset", _options(row.attributes["dataset"] for row in rows)),
        Filter("goal", "Goal", _options(row.attributes["goal"] for row in rows)),
    ]
    caption = "Every finished run, one seed a row. Both accuracies are in percent, each on its own images"
    return Section("runs", "All runs", [Table("runs-table", caption, titles, rows, filters, search=True)])


def _options(values: Iterable[str]) -> list[str]:
    return sorted(set(values))


def _per_group(identifier: str, title: str, findings: Findings, make: Maker) -> Section | None:
    blocks: list[Block] = []
    for place, found in enumerate(findings.experiments):
        made = make(found, f"{identifier}-{place}")
        if made:
            blocks += [Subheading(found.experiment.title), *made]
    return Section(identifier, title, blocks) if blocks else None


def _failures(findings: Findings) -> Section:
    cases = [(found.experiment.title, case) for found in findings.experiments for case in found.failures]
    cases += [("latency", case) for case in findings.slow]
    rules: list[Block] = [
        Text("A case is one of these, and random pruning's own losses are none:"),
        Bullets(list(FAILURE_RULES)),
    ]
    if not cases:
        return Section("failures", "Failure cases", [*rules, Text("None was found.")])
    rows = [
        Row([case.where, where, case.rule, case.metrics], {"rule": case.rule, "about": where}) for where, case in cases
    ]
    titles = columns("What | About | Rule | Metrics")
    filters = [Filter("rule", "Rule", _options(row.attributes["rule"] for row in rows))] if len(rows) > 8 else []
    table = Table("failures-table", "What went wrong, by the rules above", titles, rows, filters)
    return Section("failures", "Failure cases", [*rules, table])


def _not_shown(findings: Findings) -> Section | None:
    found = findings.collected
    if not found.problems and not found.left_out:
        return None
    rows = [Row([problem.name, "✗ could not be used", problem.reason]) for problem in found.problems]
    rows += [Row([problem.name, "– left out", problem.reason]) for problem in found.left_out]
    titles = columns("Folder | What | Why")
    return Section("not-shown", "Not in the tables", [Table("not-shown-table", "Folders without a row", titles, rows)])


def _machines(findings: Findings) -> Section | None:
    machines = [e for record in findings.records if (e := record.metrics.environment) is not None]
    facts = [(e.device, e.threads, e.platform, e.python, e.torch, e.pruning_bootcamp, e.commit) for e in machines]
    counts = Counter(tuple("–" if fact is None else str(fact) for fact in line) for line in facts)
    if not counts:
        return None
    rows = [Row([*seen, rate(count, "{:.0f}")]) for seen, count in counts.items()]
    titles = columns("Device | Threads | Platform | Python | Torch | Pruning bootcamp | Commit | # Networks")
    return Section("machines", "Machines and versions", [Table("machines-table", "Where it ran", titles, rows)])
