"""The course on the screen: what there is and what was done, one day, its metrics beside yours, the comparison."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.text import Text

from pruning_bootcamp.course.claims import judge
from pruning_bootcamp.course.day import WEEKS, Day
from pruning_bootcamp.course.marks import judged, with_names
from pruning_bootcamp.course.pages import page_of
from pruning_bootcamp.course.reading import days
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.reporting import markdown_table
from pruning_bootcamp.runs import METRICS, read_yaml, write_text

COMPARISON = "final_comparison.csv"
COLUMNS = ("Method", "Sparsity", "FLOPs_Reduction", "Accuracy_Drop", "Goal_Met")


def day_number(number: int) -> Day:
    """The day of that number; a BootcampError that says which there are."""
    count = len(days())
    if not 1 <= number <= count:
        raise BootcampError(
            f"curriculum day: {number} is not one of the {count} days. Give 1 to {count}; `pruning-bootcamp "
            "curriculum` lists them."
        )
    return days()[number - 1]


def show_course(results: Path, dataset: str = "digits") -> None:
    """The three weeks, a mark at each day that was done, and which comes next."""
    console = Console()
    done = [not missing_of(day, results) for day in days()]
    for week, title in enumerate(WEEKS, start=1):
        console.print(f"\n[bold]Week {week}: {title}[/bold]", highlight=False)
        for day in (day for day in days() if day.week == week):
            mark = "[green]✓[/green]" if done[day.number - 1] else " "
            console.print(f"  {mark} day {day.number:2}  ", Text(day.title), highlight=False)
    console.print(f"\n{sum(done)} of {len(days())} days done (their files are in {results}).", highlight=False)
    if not all(done):
        following = days()[done.index(False)]
        other = "" if dataset == "digits" else f"DATASET={dataset} "
        console.print(
            f"Next: {other}pruning-bootcamp curriculum day {following.number}, then {other}./{following.script}",
            highlight=False,
        )


def show_day(day: Day, results: Path, dataset: str = "digits") -> None:
    """The day's page, each claim in it held against `results` (those of the digits), and what of it was done."""
    console = Console()
    verdicts = {claim.name: judge(claim, results) for claim in day.claims}
    page = page_of(day, dataset, judged(verdicts) if dataset == "digits" else with_names)
    page = page.replace("<details><summary>Answer</summary>", "*Answer.*").replace("</details>", "")
    console.print(Markdown(page))
    missing = missing_of(day, results)
    console.print(f"\nDone: {'no, not there yet: ' + ', '.join(missing) if missing else 'yes'}", highlight=False)


def missing_of(day: Day, results: Path) -> list[str]:
    """The day's files that are not there, as paths under `results`."""
    places = [results / path.removeprefix("results/") for path in day.makes]
    return [str(place) for place in places if not place.exists()]


def show_figures(day: Day, results: Path, dataset: str = "digits") -> bool:
    """The day's claims beside what is in `results`; whether all hold. Only those of the digits are judged."""
    rows, good = [], True
    for claim in day.claims:
        verdict = judge(claim, results)
        good &= verdict.holds is True
        mark = ("✓" if verdict.holds else "✗") if dataset == "digits" else "-"
        stated = str(claim.test).replace("results/", "").replace("/metrics.yaml", "")
        rows.append([claim.name, stated, verdict.measured, mark])
    console = Console(soft_wrap=True)
    console.print(markdown_table(["claim", "course", "here", ""], rows), markup=False, highlight=False)
    if dataset != "digits":
        console.print(f"\nThe course's metrics are the digits': nothing is claimed of {dataset}.", highlight=False)
    return good


def compare(results: Path) -> Path:
    """Every pruning run under `results` in one table, written to final_comparison.csv and shown."""
    rows = comparison_rows(results)
    if not rows:
        raise BootcampError(
            f"curriculum compare: {results} holds no finished pruning run. Do a day first: ./scripts/day03_layerwise.sh"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    target = results / COMPARISON
    write_text(target, text.getvalue())
    console = Console(soft_wrap=True)
    console.print(markdown_table(COLUMNS, rows), markup=False, highlight=False)
    console.print(f"\n{len(rows)} runs, one seed each. Written to {target}", highlight=False)
    return target


def comparison_rows(results: Path) -> list[list[str]]:
    """[method, sparsity, percent fewer FLOPs, points lost, goal met] of each pruning run, least lost first."""
    found: list[tuple[float, list[str]]] = []
    for path in sorted(results.rglob(METRICS)):
        parts = path.relative_to(results).parts
        if any(part.startswith(("previous-", "cycle_", "trials")) for part in parts):
            continue
        metrics = read_yaml(path)
        if metrics.get("status") == "complete" and "accuracy_drop" in metrics and "goal_met" in metrics:
            found.append((float(metrics["accuracy_drop"]), _row("/".join(parts[:-1]), metrics)))
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def _row(name: str, metrics: Mapping[str, Any]) -> list[str]:
    return [
        name,
        f"{metrics.get('sparsity', 0):.4f}",
        f"{metrics.get('flops_reduction_pct', 0):.1f}",
        f"{metrics['accuracy_drop']:.2f}",
        "true" if metrics["goal_met"] else "false",
    ]
