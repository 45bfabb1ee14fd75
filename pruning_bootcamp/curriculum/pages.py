"""A day as its page and its script: both are written from the one description, so they can't say different things.

.venv/bin/python -m pruning_bootcamp.curriculum.pages          after a change of a day
"""

import shlex
import textwrap
from pathlib import Path

from pruning_bootcamp.curriculum import DAYS
from pruning_bootcamp.curriculum.day import Day, Figure, Step
from pruning_bootcamp.runs import write_text

WIDTH = 120  # of a line


def page_of(day: Day) -> str:
    """docs/course/dayNN.md."""
    parts = [
        f"# Day {day.number}: {day.title}",
        f"Week {day.week}. `./{day.script}` takes about {day.seconds} s on two busy cores. "
        f"{_before(day)}{_neighbours(day)}",
        "## What you learn",
        "\n".join(f"- {line}" for line in day.learn),
        "## Why",
        day.why.strip(),
        "## The idea",
        day.idea.strip(),
        "## What to run",
        "```\n" + "\n".join(_typed(step) for step in day.steps) + "\n```",
        "## What you should see",
        day.see.strip(),
        "```figures\n" + "\n".join(map(str, day.figures)) + "\n```",
        "(file, key, what was measured on the digits and how far from it another machine or number of threads may be; "
        f"`pruning-bootcamp curriculum day {day.number} --figures` shows yours beside them.)",
        "## Questions",
    ]
    for number, question in enumerate(day.questions, start=1):
        parts += [
            f"**{number}. {question.ask}**",
            f"<details><summary>Answer</summary>\n\n{question.answer.strip()}\n\n</details>",
        ]
    parts += ["## Afterwards there is", "\n".join(f"- `{path}`" for path in day.makes)]
    return "\n\n".join(parts) + "\n"


def _before(day: Day) -> str:
    days = sorted(set(day.needs.values()))
    if not days:
        return "It needs nothing but the install. "
    named = " and ".join(f"[day {number}](day{number:02}.md)" for number in days)
    return f"It builds on {named}. "


def _neighbours(day: Day) -> str:
    following = "" if day.number == len(DAYS) else f"Next: [day {day.number + 1}](day{day.number + 1:02}.md)."
    return following or "It is the last."


def _typed(step: Step) -> str:
    return f"# {step.why}\n{_wrapped(step.command)}"


def _wrapped(command: str) -> str:
    """The command on lines of readable length."""
    lines = textwrap.wrap(command, WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return " \\\n  ".join(lines)


def script_of(day: Day) -> str:
    """scripts/dayNN_<topic>.sh."""
    see = textwrap.wrap(f"You should see: {summary_of(day)}", WIDTH - 2, break_on_hyphens=False)
    lines = [
        "#!/usr/bin/env bash",
        f"# ./{day.script}        about {day.seconds} s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)",
        *(f"# {line}" for line in see),
        f"# Written from the course's data: change it in pruning_bootcamp/curriculum/, then see {day.page}",
        "set -euo pipefail",
        '. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"',
        f"begin_day {day.number} {shlex.quote(day.title)}",
        *(f"needs_file {shlex.quote(path)} {number}" for path, number in day.needs.items()),
    ]
    for step in day.steps:
        call = "step_that_may_miss" if step.may_miss else "step"
        lines.append(f"{call} {shlex.quote(step.why)} \\\n  {_wrapped(step.command)}")
    lines += [f"end_day {day.number}", ""]
    return "\n".join(lines)


def summary_of(day: Day) -> str:
    """The first sentence of what one should see."""
    text = " ".join(day.see.split())
    return text.partition(". ")[0].rstrip(".") + "."


def course_script() -> str:
    """scripts/course.sh: every day in order."""
    minutes = round(sum(day.seconds for day in DAYS) / 60)
    lines = [
        "#!/usr/bin/env bash",
        f"# ./scripts/course.sh        all 21 days in order, {minutes} minutes on 2 busy cores; DATASET=cifar10 too",
        "# You should see each day end in its figures, and at last the checks of all weeks. A finished day is quick.",
        "set -euo pipefail",
        'cd "$(dirname "${BASH_SOURCE[0]}")/.."',
        *(f"./{day.script}" for day in DAYS),
    ]
    return "\n".join(lines) + "\n"


def files() -> dict[str, str]:
    """Path in the repository -> content, of every file that is written from the course's data."""
    return {
        **{day.page: page_of(day) for day in DAYS},
        **{day.script: script_of(day) for day in DAYS},
        "scripts/course.sh": course_script(),
    }


def figures_in(page: str) -> list[Figure]:
    """The figures that a page states, read back from its text."""
    lines = page.partition("```figures\n")[2].partition("\n```")[0].splitlines()
    found = []
    for line in lines:
        file, key, *said = line.split()
        match said:
            case [value, "+-", tolerance]:
                found.append(Figure(file, key, "+-", float(value), float(tolerance)))
            case [">=" | "<=" as sign, value]:
                found.append(Figure(file, key, sign, float(value)))
            case _:
                raise ValueError(f"not a figure: {line}")
    return found


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    for name, text in files().items():
        write_text(root / name, text)
        if name.endswith(".sh"):
            (root / name).chmod(0o755)
