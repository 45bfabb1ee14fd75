"""The course as data: 21 distinct days, their pages and scripts written from it, its figures checked against files."""

import ast
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from pruning_bootcamp.curriculum import DAYS, WEEKS
from pruning_bootcamp.curriculum.day import Day
from pruning_bootcamp.curriculum.pages import files
from pruning_bootcamp.curriculum.view import compare, comparison_rows, missing_of, show_course
from pruning_bootcamp.errors import BootcampError

REPOSITORY = Path(__file__).resolve().parents[2]
by_number = pytest.mark.parametrize("day", DAYS, ids=lambda day: f"day{day.number:02}")


def test_there_are_21_distinct_days_in_three_weeks() -> None:
    assert [day.number for day in DAYS] == list(range(1, 22))
    assert [day.week for day in DAYS] == [1] * 7 + [2] * 7 + [3] * 7
    assert len(WEEKS) == 3
    for distinct in ("topic", "title", "why", "idea", "see", "steps", "makes"):
        assert len({getattr(day, distinct) for day in DAYS}) == 21, distinct
    asked = [question.ask for day in DAYS for question in day.questions]
    assert len(asked) == len(set(asked)) == 63


@pytest.mark.parametrize("name", files())
def test_pages_and_scripts_are_as_the_data_says(name: str) -> None:
    path = REPOSITORY / name
    assert path.read_text() == files()[name], "run: python -m pruning_bootcamp.curriculum.pages"
    assert not name.endswith(".sh") or os.access(path, os.X_OK)


def test_there_is_no_other_day() -> None:
    written = {f"scripts/{path.name}" for path in (REPOSITORY / "scripts").glob("day*.sh")}
    written |= {f"docs/course/{path.name}" for path in (REPOSITORY / "docs" / "course").glob("day*.md")}
    assert written == {day.script for day in DAYS} | {day.page for day in DAYS}


@by_number
def test_a_page_has_every_section_and_the_scripts_commands(day: Day) -> None:
    page = (REPOSITORY / day.page).read_text()
    sections = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert sections == [
        "What you learn",
        "Why",
        "The idea",
        "What to run",
        "What you should see",
        "Questions",
        "Afterwards there is",
    ]
    assert page.count("<details>") == page.count("</details>") == 3
    typed = [shlex.split(line) for line in _commands(page.partition("## What to run\n\n```\n")[2].partition("```")[0])]
    assert typed == [shlex.split(step.command) for step in day.steps]
    script = [
        words[2:]
        for words in map(shlex.split, _commands((REPOSITORY / day.script).read_text()))
        if words and words[0] in ("step", "step_that_may_miss")
    ]
    assert script == typed
    stated = page.partition("```figures\n")[2].partition("\n```")[0].splitlines()
    assert stated == [f"{claim.name}: {claim.test}" for claim in day.claims]


def _commands(text: str) -> list[str]:
    """The lines of a shell text with continued lines joined, without comments."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


@by_number
def test_what_a_day_needs_is_made_by_the_day_that_it_names(day: Day) -> None:
    for path, number in day.needs.items():
        assert number < day.number
        maker = DAYS[number - 1]
        folder = path.rpartition("/")[0]
        assert any(made.rpartition("/")[0] == folder for made in maker.makes), (path, number)


def test_a_day_is_done_when_its_files_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day = DAYS[0]
    assert len(missing_of(day, tmp_path)) == len(day.makes)
    for name in day.makes:
        path = tmp_path / name.removeprefix("results/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert missing_of(day, tmp_path) == []
    show_course(tmp_path)
    shown = capsys.readouterr().out
    assert "✓ day  1" in shown
    assert "1 of 21 days done" in shown
    assert DAYS[1].script in shown


def test_the_comparison_holds_every_pruning_run(tmp_path: Path) -> None:
    for name, drop in (("unstructured/global_global_sp0.5", 0.4), ("structured/l1_sp0.4", -0.1)):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        figures = {"status": "complete", "accuracy_drop": drop, "sparsity": 0.5, "flops_reduction_pct": 1.0}
        (folder / "metrics.yaml").write_text(yaml.safe_dump({**figures, "goal_met": drop < 0}))
    old = tmp_path / "structured" / "l1_sp0.4" / "previous-1"
    old.mkdir()
    (old / "metrics.yaml").write_text((folder / "metrics.yaml").read_text())
    assert [row[0] for row in comparison_rows(tmp_path)] == ["structured/l1_sp0.4", "unstructured/global_global_sp0.5"]
    lines = compare(tmp_path).read_text().splitlines()
    assert lines[0] == "Method,Sparsity,FLOPs_Reduction,Accuracy_Drop,Goal_Met"
    assert lines[1:] == [
        "structured/l1_sp0.4,0.5000,1.0,-0.10,true",
        "unstructured/global_global_sp0.5,0.5000,1.0,0.40,false",
    ]


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match="no finished pruning run"):
        compare(tmp_path)


def test_a_day_without_what_it_builds_on_names_the_day(tmp_path: Path) -> None:
    """The real functions of lib.sh, with the set-up and the commands left out."""
    program = (
        f'. "{REPOSITORY}/scripts/lib.sh"; set_up() {{ cd "{tmp_path}"; }}; begin_day 3 title; '
        "needs_file results/baseline/best_model.pth 1"
    )
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "day01_baseline.sh").touch()
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        "results/baseline/best_model.pth is not there: day 1 makes it. Run ./scripts/day01_baseline.sh" in done.stderr
    )
    other = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, env={**os.environ, "DATASET": "cifar100"}
    )
    assert other.returncode == 2
    assert "'cifar100' is not known. Available: digits, cifar10" in other.stderr


def test_the_course_files_are_data() -> None:
    """No day is built by code that could hide one: the modules hold constants only."""
    folder = REPOSITORY / "pruning_bootcamp" / "curriculum"
    code = {"__init__.py", "claims.py", "dataset.py", "day.py", "marks.py", "pages.py", "view.py"}
    data = [path for path in folder.glob("*.py") if path.name not in code]
    assert len(data) >= 9
    for path in data:
        kinds = {type(node) for node in ast.parse(path.read_text()).body}
        assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, path
