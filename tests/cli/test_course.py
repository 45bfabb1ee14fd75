"""The course typed: curriculum, validate; and (slow) all 21 days, with every claim that their pages make."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pruning_bootcamp.course.claims import judge
from pruning_bootcamp.course.reading import days
from pruning_bootcamp.course.view import missing_of

REPOSITORY = Path(__file__).resolve().parents[2]
Run = Callable[[tuple[str, ...]], tuple[int, str]]


def test_the_course_is_listed_and_a_day_shown(run: Run, tmp_path: Path) -> None:
    code, text = run(("curriculum", "--results", str(tmp_path)))
    assert code == 0
    assert "0 of 21 days done" in text
    assert all(day.title in text for day in days())
    code, text = run(("curriculum", "day", "5", "--results", str(tmp_path)))
    assert code == 0
    assert "--sparsities 0.5,0.7,0.9" in text
    assert "Done: no" in text
    code, text = run(("curriculum", "day", "5", "--figures", "--results", str(tmp_path)))
    assert code == 0
    assert "not there" in text


def test_a_day_that_is_not_one(run: Run) -> None:
    code, text = run(("curriculum", "day", "22"))
    assert code == 2
    assert "Give 1 to 21" in text


def test_validate_takes_a_week_or_a_config(run: Run, tmp_path: Path) -> None:
    code, text = run(("validate", "week1", "--results", str(tmp_path)))
    assert code == 3
    assert text.count("✗") == 5
    assert "mend it: pruning-bootcamp train -c cfgs/digits.yaml" in text
    code, text = run(("validate", "wek1"))
    assert code == 2
    assert "Did you mean 'week1'?" in text
    code, text = run(("validate", "week1", "--results", str(tmp_path / "nowhere")))
    assert code == 2
    assert "there is no folder" in text
    code, text = run(("validate", str(REPOSITORY / "cfgs" / "digits.yaml")))
    assert code == 0
    assert "valid" in text


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all_days_run_and_print_what_their_pages_state(tmp_path: Path) -> None:
    """The scripts themselves, in a copy of the checkout without results; then each claim against the files."""
    copy = tmp_path / "checkout"
    for name in ("pruning_bootcamp", "cfgs", "scripts", "benchmarks", "docs", "pyproject.toml", "requirements.lock"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy2(source, copy / name)
    (copy / ".venv").symlink_to(REPOSITORY / ".venv")
    environment = {**os.environ, "PYTHONPATH": str(copy), "DATASET": "digits"}
    too_far: list[str] = []
    for day in days():
        done = subprocess.run([copy / day.script], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{day.script}: exit {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
        assert missing_of(day, copy / "results") == []
        for claim in day.claims:
            verdict = judge(claim, copy / "results")
            if not verdict.holds:
                too_far.append(f"day {day.number}, {claim.name}: {claim.test}, here {verdict.measured}")
    assert too_far == []
