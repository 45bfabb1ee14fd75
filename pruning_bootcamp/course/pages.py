"""A day as its page and its script: both are written from the one description, so they can't say different things.

.venv/bin/python -m pruning_bootcamp.course.pages          after a change of a day: its script anew
"""

import shlex
import textwrap
from collections.abc import Callable
from pathlib import Path

from pruning_bootcamp.course.dataset import command_for, path_for
from pruning_bootcamp.course.day import CourseStep, Day
from pruning_bootcamp.course.marks import Marked, plain, render, with_names
from pruning_bootcamp.course.reading import days
from pruning_bootcamp.runs import write_text

WIDTH = 120  # of a line
COMMAND_WIDTH = 96  # so that a page shows it whole


def page_of(day: Day, dataset: str = "digits", show: Callable[[Marked], str] = with_names) -> str:
    """The day's page as the site has it; or as the screen has it, for another dataset or held against results."""
    other = "" if dataset == "digits" else f"DATASET={dataset} "
    parts = [
        f"# Day {day.number}: {day.title}",
        f"Week {day.week}. `{other}./{day.script}` takes about {day.seconds} s on two busy cores"
        f"{' with the digits' if other else ''}. {_before(day)}{_neighbours(day)}",
        "## What you learn",
        "\n".join(f"- {line}" for line in day.learn),
        "## Why",
        day.why,
        "## The idea",
        day.idea,
        "## What to run",
        "```\n" + "\n".join(_typed(step, dataset) for step in day.steps) + "\n```",
        "## What you should see",
        *([f"(All that follows was measured on the digits; with {dataset} nothing is claimed.)"] if other else []),
        day.see,
        "```figures\n" + "\n".join(f"{claim.name}: {claim.test}" for claim in day.claims) + "\n```",
        "(The name by which the text refers to it; file and key; and the range in which the digits' metric lies on any "
        f"machine, or what lies above what by how much. `pruning-bootcamp curriculum day {day.number} --figures` shows "
        "yours beside them.) Why they may be stated of a machine that is not this one:",
        _reasons(day),
        "## Questions",
    ]
    for number, question in enumerate(day.questions, start=1):
        parts += [
            f"**{number}. {question.ask}**",
            f"<details><summary>Answer</summary>\n\n{question.answer}\n\n</details>",
        ]
    parts += ["## Afterwards there is", "\n".join(f"- `{path_for(path, dataset)}`" for path in day.makes)]
    return render("\n\n".join(parts), show) + "\n"


def _reasons(day: Day) -> str:
    """Each reason once, with the claims that have it."""
    claims: dict[str, list[str]] = {}
    for claim in day.claims:
        claims.setdefault(claim.because, []).append(claim.name)
    return "\n".join(f"- {', '.join(names)}: {because}" for because, names in claims.items())


def _before(day: Day) -> str:
    days = sorted(set(day.needs.values()))
    if not days:
        return "It needs nothing but the install. "
    named = " and ".join(f"[day {number}](day{number:02}.md)" for number in days)
    return f"It builds on {named}. "


def _neighbours(day: Day) -> str:
    following = "" if day.number == len(days()) else f"Next: [day {day.number + 1}](day{day.number + 1:02}.md)."
    return following or "It is the last."


def _typed(step: CourseStep, dataset: str) -> str:
    return f"# {step.why}\n{_wrapped(command_for(step, dataset))}"


def _wrapped(command: str) -> str:
    """The command on lines of readable length."""
    lines = textwrap.wrap(command, COMMAND_WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return " \\\n  ".join(lines)


def script_of(day: Day) -> str:
    """scripts/dayNN_<topic>.sh."""
    see = textwrap.wrap(f"You should see: {summary_of(day)}", WIDTH - 2, break_on_hyphens=False)
    lines = [
        "#!/usr/bin/env bash",
        f"# ./{day.script}        about {day.seconds} s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)",
        *(f"# {line}" for line in see),
        f"# Written from {day.file} by python -m pruning_bootcamp.course.pages",
        "set -euo pipefail",
        '. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"',
        f"begin_day {day.number} {shlex.quote(day.title)}",
        *(f"needs_file {shlex.quote(path)} {number}" for path, number in day.needs.items()),
    ]
    for step in day.steps:
        call = "step_that_may_miss" if step.may_miss else "step"
        lines.append(f"{call} {shlex.quote(render(step.why, plain))} \\\n  {_wrapped(step.command)}")
    lines += [f"end_day {day.number}", ""]
    return "\n".join(lines)


def summary_of(day: Day) -> str:
    """The first sentence of what one should see."""
    text = " ".join(render(day.see, plain).split())
    return text.partition(". ")[0].rstrip(".") + "."


def course_script() -> str:
    """scripts/course.sh: every day in order."""
    minutes = round(sum(day.seconds for day in days()) / 60)
    lines = [
        "#!/usr/bin/env bash",
        f"# ./scripts/course.sh        all 21 days in order, {minutes} minutes on 2 busy cores; DATASET=cifar10 too.",
        "# You should see each day end in its metrics, and at last the checks of all weeks. A finished day is quick.",
        "# A goal that is missed (exit 3) does not stop it; the last exit code says that there was one.",
        "set -euo pipefail",
        'cd "$(dirname "${BASH_SOURCE[0]}")/.."',
        "code=0",
        'missed() { [ "$1" = 3 ] || exit "$1"; code=3; }',
        *(f"./{day.script} || missed $?" for day in days()),
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def files() -> dict[str, str]:
    """Path in the repository -> content, of every script that is written from the days."""
    return {**{day.script: script_of(day) for day in days()}, "scripts/course.sh": course_script()}


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    for name, text in files().items():
        write_text(root / name, text)
        (root / name).chmod(0o755)
