"""Every figure that the course speaks of is written, under that key, by a command of that day or an earlier one."""

import itertools
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pruning_bootcamp.course.claims import MetricPath
from pruning_bootcamp.course.day import Day
from pruning_bootcamp.course.reading import days

REPOSITORY = Path(__file__).resolve().parents[2]
SMOKE = ("-c", str(REPOSITORY / "cfgs" / "smoke" / "digits.yaml"))
DENSE = ("--checkpoint", "results/train/best_model.pth")
pytestmark = pytest.mark.slow  # a command of each kind: a minute of work
by_number = pytest.mark.parametrize("day", days(), ids=lambda day: f"day{day.number:02}")


def writers_of(file: str, until: int) -> list[list[str]]:
    """The commands of the days until then that write the file, as words."""
    folder, _, name = file.rpartition("/")
    steps = [step for day in days()[:until] for step in day.steps]
    found = []
    for step in steps:
        words = shlex.split(step.command)
        given = dict(itertools.pairwise(words))
        saves = step.saves or given.get("--save-dir")
        if words[1] in ("eval", "export") and saves is None:
            saves = given["--checkpoint"].rpartition("/")[0]
        names = {"eval": "eval_metrics.yaml", "export": "export_metrics.yaml", "sensitivity": "sensitivity.yaml"}
        names["sweep"] = "sweep.yaml"
        if words[1] == "profile":
            if given["--save-results"] == file:
                found.append(words)
        elif saves == folder and names.get(words[1], "metrics.yaml") == name:
            found.append(words)
    return found


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., str]) -> Path:
    """results/KIND: what a command of each kind writes, from a network of one epoch."""
    root = tmp_path_factory.mktemp("kinds")

    def run(*words: str, expect: int = 0) -> None:
        command(root, *words, expect=expect)

    run("train", *SMOKE, "--save-dir", "results/train")
    options = (*SMOKE, *DENSE)
    goal = "goal.accuracy_drop=100"
    run("prune-unstructured", *options, "--sparsity", "0.9", "--save-dir", "results/prune-unstructured", goal)
    structured = ("--method", "l1", "--sparsity", "0.4", "--save-dir", "results/prune-structured")
    run("prune-structured", *options, *structured, "goal.flops_reduction_pct=0", goal)
    baseline = ("--baseline-metrics", "results/train/metrics.yaml")
    run("eval", *options, *baseline, "--save-dir", "results/eval")
    pruned = "results/prune-structured/pruned_model.pth"
    run("profile", *SMOKE, "--baseline", DENSE[1], "--pruned", pruned, "--save-results", "results/profile/p.yaml")
    run("sensitivity", *options, "--sparsities", "0.9", "--by", "layer", "--save-dir", "results/sensitivity")
    for form in ("sparse", "int8"):
        run("export", *options, "--format", form, "--no-verify", "--save-dir", f"results/export-{form}")
    sweep = str(REPOSITORY / "cfgs" / "smoke" / "sweep.yaml")
    run("sweep", "-c", sweep, "--sampler", "random", "--trials", "2", "--save-dir", "results/sweep")
    impact = [str(REPOSITORY / "benchmarks" / "importance_impact.py"), *options, "prune.calibration_images=32"]
    words = [sys.executable, *impact, "--filters", "4", "--out", "results/importance"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root / "results"


def file_of(words: list[str]) -> str:
    """Where the fixture has what a command of this kind writes."""
    kind = words[1]
    if kind == "export":
        kind += f"-{words[words.index('--format') + 1]}"
    names = {"eval": "eval_metrics.yaml", "profile": "p.yaml", "sensitivity": "sensitivity.yaml", "sweep": "sweep.yaml"}
    if words[0] == "python":
        return "results/importance/metrics.yaml"
    return f"results/{kind}/{'export_metrics.yaml' if words[1] == 'export' else names.get(kind, 'metrics.yaml')}"


@by_number
def test_every_figure_is_written_by_a_command_of_a_day_until_then(day: Day, kinds: Path) -> None:
    for claim in day.claims:
        for path in claim.test.paths:
            writers = writers_of(path.file, day.number)
            assert writers, f"day {day.number}, {claim.name}: no command writes {path.file}"
            found = MetricPath(f"{file_of(writers[-1])} {path.key}").read(kinds)
            assert found is not None, f"day {day.number}, {claim.name}: {writers[-1][1]} writes no {path.key}"
