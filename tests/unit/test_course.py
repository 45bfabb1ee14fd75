"""The course as data: 21 distinct days, their pages and scripts made from their files, and what a damaged file says."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from pruning_bootcamp.course.day import WEEKS, Day
from pruning_bootcamp.course.pages import files, page_of
from pruning_bootcamp.course.reading import days, read_day
from pruning_bootcamp.course.view import compare, comparison_rows, missing_of, show_course
from pruning_bootcamp.errors import BootcampError

REPOSITORY = Path(__file__).resolve().parents[2]
by_number = pytest.mark.parametrize("day", days(), ids=lambda day: f"day{day.number:02}")


def test_there_are_21_distinct_days_in_three_weeks() -> None:
    assert [day.number for day in days()] == list(range(1, 22))
    assert [day.week for day in days()] == [1] * 7 + [2] * 7 + [3] * 7
    assert len(WEEKS) == 3
    for distinct in ("topic", "title", "why", "idea", "see", "steps", "makes"):
        assert len({getattr(day, distinct) for day in days()}) == 21, distinct
    asked = [question.ask for day in days() for question in day.questions]
    assert len(asked) == len(set(asked)) == 63


@pytest.mark.parametrize("name", files())
def test_scripts_are_as_the_days_say(name: str) -> None:
    path = REPOSITORY / name
    assert path.read_text() == files()[name], "run: python -m pruning_bootcamp.course.pages"
    assert os.access(path, os.X_OK)


def test_there_is_no_other_day() -> None:
    written = {f"scripts/{path.name}" for path in (REPOSITORY / "scripts").glob("day*.sh")}
    assert written == {day.script for day in days()}
    for day in days():
        assert (REPOSITORY / day.file).exists()


@by_number
def test_a_page_has_every_section_and_the_scripts_commands(day: Day) -> None:
    page = page_of(day)
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
        maker = days()[number - 1]
        folder = path.rpartition("/")[0]
        assert any(made.rpartition("/")[0] == folder for made in maker.makes), (path, number)


def test_a_day_is_done_when_its_files_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day = days()[0]
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
    assert days()[1].script in shown


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


DAY3 = (REPOSITORY / "pruning_bootcamp" / "course" / "days" / "day03.md").read_text()
DAMAGED = {
    "no front matter": ("---\nnumber: 3", "number: 3", "there is no front matter"),
    "no YAML": ("needs:", "needs: {", "the front matter is not YAML"),
    "a wrong key": (
        "  may_miss: true",
        "  may_mis: true",
        "steps[1].may_mis: unknown setting 'may_mis'. Did you mean 'may_miss'?",
    ),
    "a wrong type": ("seconds: 60", "seconds: a minute", "seconds: 'a minute' is not a whole number"),
    "a key too few": ("topic: layerwise\n", "", "topic: needed and not given"),
    "no steps": ("steps:", "stepps:", "steps: a list of one or more is needed"),
    "a claim with no limit": ("  at_most: 2\n", "", "claims[0]: one of about, at_least and at_most is needed"),
    "a claim of nothing": ("metrics.yaml sparsity", "metrics.yaml", "is no FILE KEY"),
    "an order without its margin": ("  margin: 3\n", "", "claims[3].margin: needed and not given"),
    "a section too few": ("## Why\n", "", "its sections are What you learn, The idea"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_day_is_an_error_that_names_file_and_key(damage: str) -> None:
    there, instead, said = DAMAGED[damage]
    assert there in DAY3
    with pytest.raises(BootcampError) as error:
        read_day(DAY3.replace(there, instead, 1), "day03.md")
    assert "day03.md" in str(error.value)
    assert said in str(error.value)


def test_all_problems_of_a_day_are_said_at_once() -> None:
    text = DAY3.replace("seconds: 60", "seconds: x").replace("## Why\n", "").replace("  at_most: 2\n", "")
    with pytest.raises(BootcampError) as error:
        read_day(text, "day03.md")
    assert len(error.value.problems) == 3
