"""Findings -> the report's sections, in the order in which they are read; validation and test never share a column."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pruning_bootcamp.reporting.advice import Advice
from pruning_bootcamp.reporting.collect import Collected
from pruning_bootcamp.reporting.comparison import comparison, trade_offs
from pruning_bootcamp.reporting.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Command,
    Document,
    Filter,
    Heading,
    Item,
    Items,
    Row,
    Section,
    Table,
    Text,
)
from pruning_bootcamp.reporting.findings import Findings, GroupFindings
from pruning_bootcamp.reporting.judgement import FAILURE_RULES
from pruning_bootcamp.reporting.measured import latency, layers, scans
from pruning_bootcamp.reporting.records import Record
from pruning_bootcamp.reporting.searches import sweeps
from pruning_bootcamp.reporting.shown import amount, link, rate
from pruning_bootcamp.reporting.sparsities import LayerSparsities
from pruning_bootcamp.reporting.values import counted, number, spread

Maker = Callable[[GroupFindings, str], list[Block]]
MARKS = {True: "✓ yes", False: "✗ no", None: "– n/a"}


def document(
    findings: Findings, sparsities: Sequence[tuple[str, LayerSparsities]], target: Path, command: str
) -> Document:
    """The whole report. `sparsities`: (group title, table) of each group; links are relative to `target`."""
    found = findings.collected
    sections = [
        _recommendations(findings),
        _baselines(findings),
        _runs(findings, target),
        _per_group("methods", "Methods compared", findings, comparison),
        _per_group("trade-offs", "What is given for what", findings, trade_offs),
        _per_group("ablations", "Ablations", findings, _ablations),
        layers(sparsities),
        latency(found.profiles, found.evaluations),
        scans(found.scans),
        sweeps(found.sweeps, target),
        _failures(findings),
        _per_group("fairness", "Fairness card", findings, _fairness),
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
        "Every figure was measured by the run it stands for. Accuracy is in percent; test accuracy was read once, at "
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
    for found in findings.groups:
        if found.advice:
            blocks += [Heading(found.group.title), Items([_item(line) for line in found.advice])]
    if findings.advice:
        blocks += [Heading("From profiles and scans"), Items([_item(line) for line in findings.advice])]
    return Section("recommendations", "Recommendations", blocks or [Text("None: no rule applies to these figures.")])


def _item(advice: Advice) -> Item:
    return Item(advice.what, f"Figures: {advice.figures}.", f"Rule: {advice.rule}.", advice.command)


def _baselines(findings: Findings) -> Section:
    rows = []
    for found in findings.groups:
        group = found.group
        trained = [setting for setting in group.settings if setting.first.command == "train"]
        for setting in trained:
            val = setting.figure("val_accuracy")
            first = setting.first
            cells: list[Cell | str] = [
                group.title,
                setting.label,
                setting.n_said,
                amount(val),
                amount(setting.accuracy),
            ]
            rows.append(Row([*cells, _images(first), rate(first.flops_g, "{:.4g}"), rate(first.params_m, "{:.4g}")]))
        if not trained and group.pruned:
            dense = group.pruned[0].first.dense
            test = spread([dense.get("accuracy")])
            cells = [
                group.title,
                "as the pruned runs measured it",
                "one seed",
                rate(dense.get("val_accuracy")),
                amount(test),
            ]
            flops, params = rate(dense.get("flops_g"), "{:.4g}"), rate(dense.get("params_m"), "{:.4g}")
            rows.append(Row([*cells, _images(group.pruned[0].first), flops, params]))
    columns = [
        Column("Network"),
        Column("What"),
        Column("Seeds"),
        Column("Validation accuracy (%)", True),
        Column("Test accuracy (%)", True),
        Column("Test images", True),
        Column("FLOPs (G)", True),
        Column("Params (M)", True),
    ]
    return Section("baselines", "Baselines", [Table("baselines-table", "The dense networks", columns, rows)])


def _images(record: Record) -> Cell:
    count = record.test_images
    return Cell("–") if count is None else Cell(str(count), count)


def _runs(findings: Findings, target: Path) -> Section:
    columns = [
        Column("Run"),
        Column("Method"),
        Column("Budget"),
        Column("Seed", True),
        Column("Validation accuracy (%)", True),
        Column("Test accuracy (%)", True),
        Column("Drop on test (points)", True),
        Column("Fewer FLOPs (%)", True),
        Column("Zeros (%)", True),
        Column("Params (M)", True),
        Column("Goal met"),
        Column("Command"),
        Column("Dataset"),
    ]
    rows = []
    for record in findings.records:
        goal = "✓ met" if record.goal_met else "✗ not met" if record.goal_met is False else "– none"
        zeros = None if record.sparsity is None else 100 * record.sparsity
        rows.append(
            Row(
                [
                    Cell(record.name, href=link(record.folder, target)),
                    record.method,
                    record.amount or "–",
                    "–" if record.seed is None else Cell(str(record.seed), record.seed),
                    rate(record.val_accuracy),
                    rate(record.accuracy),
                    rate(record.drop),
                    rate(record.flops_reduction_pct, "{:.1f}"),
                    rate(zeros),
                    rate(record.params_m, "{:.4g}"),
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
    return Section("runs", "All runs", [Table("runs-table", caption, columns, rows, filters, search=True)])


def _options(values: Iterable[str]) -> list[str]:
    return sorted(set(values))


def _per_group(identifier: str, title: str, findings: Findings, make: Maker) -> Section | None:
    blocks: list[Block] = []
    for place, found in enumerate(findings.groups):
        made = make(found, f"{identifier}-{place}")
        if made:
            blocks += [Heading(found.group.title), *made]
    return Section(identifier, title, blocks) if blocks else None


def _ablations(found: GroupFindings, identifier: str) -> list[Block]:
    blocks: list[Block] = []
    for place, ablation in enumerate(found.ablations):
        rows = [
            Row(
                [
                    value,
                    setting.label,
                    setting.n_said,
                    amount(setting.figure("val_accuracy")),
                    amount(setting.accuracy),
                    amount(setting.figure("flops_reduction_pct"), "{:.1f}"),
                ]
            )
            for value, setting in ablation.values
        ]
        columns = [
            Column(ablation.key),
            Column("Setting"),
            Column("Seeds"),
            Column("Validation accuracy (%)", True),
            Column("Test accuracy (%)", True),
            Column("Fewer FLOPs (%)", True),
        ]
        caption = f"Only {ablation.key} differs between these rows, by their config.yaml"
        blocks.append(Table(f"{identifier}-{place}", caption, columns, rows))
    return blocks


def _fairness(found: GroupFindings, identifier: str) -> list[Block]:
    if not found.group.pruned:
        return []
    rows = [Row([check.question, MARKS[check.met], check.found]) for check in found.fairness]
    columns = [Column("What a fair comparison needs"), Column("There?"), Column("Found")]
    blocks: list[Block] = [Table(identifier, f"Fairness of the comparison: {found.group.title}", columns, rows)]
    for check in found.fairness:
        if check.met is not True and check.mend:
            commands = [line for line in check.mend if line.startswith("pruning-bootcamp")]
            words = [line for line in check.mend if line not in commands]
            blocks.append(Text(f"To mend “{check.question}”:{' ' + ' '.join(words) if words else ''}"))
            if commands:
                blocks.append(Command(commands))
    return blocks


def _failures(findings: Findings) -> Section:
    cases = [(found.group.title, case) for found in findings.groups for case in found.failures]
    cases += [("latency", case) for case in findings.slow]
    rules: list[Block] = [
        Text("A case is one of these, and random pruning's own losses are none:"),
        Bullets(list(FAILURE_RULES)),
    ]
    if not cases:
        return Section("failures", "Failure cases", [*rules, Text("None was found.")])
    rows = [
        Row([case.where, where, case.rule, case.figures], {"rule": case.rule, "about": where}) for where, case in cases
    ]
    columns = [Column("What"), Column("About"), Column("Rule"), Column("Figures")]
    filters = [Filter("rule", "Rule", _options(row.attributes["rule"] for row in rows))] if len(rows) > 8 else []
    table = Table("failures-table", "What went wrong, by the rules above", columns, rows, filters)
    return Section("failures", "Failure cases", [*rules, table])


def _not_shown(findings: Findings) -> Section | None:
    found = findings.collected
    if not found.problems and not found.left_out:
        return None
    rows = [Row([problem.name, "✗ could not be used", problem.reason]) for problem in found.problems]
    rows += [Row([problem.name, "– left out", problem.reason]) for problem in found.left_out]
    columns = [Column("Folder"), Column("What"), Column("Why")]
    return Section("not-shown", "Not in the tables", [Table("not-shown-table", "Folders without a row", columns, rows)])


def _machines(findings: Findings) -> Section | None:
    keys = ("device", "threads", "platform", "python", "torch", "pruning_bootcamp", "commit")
    counts: dict[tuple[str, ...], int] = {}
    for record in findings.records:
        if record.environment:
            seen = tuple(str(record.environment.get(key, "–")) for key in keys)
            counts[seen] = counts.get(seen, 0) + 1
    if not counts:
        return None
    rows = [Row([*seen, Cell(str(count), number(count))]) for seen, count in counts.items()]
    columns = [*(Column(key.replace("_", " ").capitalize()) for key in keys), Column("Networks", True)]
    return Section("machines", "Machines and versions", [Table("machines-table", "Where it ran", columns, rows)])
