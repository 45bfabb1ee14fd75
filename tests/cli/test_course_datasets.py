"""DATASET=digits and cifar10: every day's page, and every command of its script, as far as before the work."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image
from typer.main import get_command

from pruning_bootcamp.checkpoints import Recipe, save_checkpoint
from pruning_bootcamp.cli import app, pruning, scanning, searching, shipping, training
from pruning_bootcamp.config import load
from pruning_bootcamp.course.dataset import DATASETS, FOLDERS, command_for, path_for
from pruning_bootcamp.course.day import CourseStep, Day
from pruning_bootcamp.course.reading import days
from pruning_bootcamp.models import build_model
from pruning_bootcamp.tools.datasets.cifar import CIFAR10_CLASSES

SCAN = {
    "dense": {"loss": 0.1, "accuracy": 99.0},
    "rows": [
        {
            "name": "conv1",
            "weights": ["conv1.weight"],
            "size": 144,
            "points": [{"sparsity": 0.5, "loss": 0.2, "accuracy": 95.0}],
        }
    ],
}
REPOSITORY = Path(__file__).resolve().parents[2]
Run = Callable[[tuple[str, ...]], tuple[int, str]]
by_number = pytest.mark.parametrize("day", days(), ids=lambda day: f"day{day.number:02}")
by_dataset = pytest.mark.parametrize("dataset", DATASETS)


@by_dataset
@by_number
def test_every_days_page_and_figures_are_shown(
    day: Day, dataset: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATASET", dataset)
    monkeypatch.chdir(tmp_path)
    code, text = run(("curriculum", "day", str(day.number)))
    assert code == 0, text
    shown = "".join(text.split())
    for step in day.steps:
        assert "".join(command_for(step, dataset).split()) in shown.replace("\\", ""), step.command
    assert f"{FOLDERS[dataset]}/" in shown
    code, text = run(("curriculum", "day", str(day.number), "--figures"))
    assert code == 0, text
    assert text.count("not there") == len(day.claims)
    assert ("nothing is claimed of cifar10" in text) is (dataset == "cifar10")
    assert "✓" not in text


def test_with_cifar10_the_course_and_its_checks_look_where_its_results_are(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATASET", "cifar10")
    monkeypatch.chdir(tmp_path)
    for path in days()[0].makes:  # the digits', which don't count
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    code, text = run(("curriculum",))
    assert code == 0
    assert "0 of 21 days done (their files are in results-cifar10)" in text
    assert "then DATASET=cifar10 ./scripts/day01_baseline.sh" in " ".join(text.split())
    code, text = run(("validate", "week1"))
    assert code == 3
    assert "there is no results-cifar10/baseline/best_model.pth" in text


def test_a_dataset_that_the_course_does_not_run_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASET", "cifar11")
    for words in (("curriculum",), ("curriculum", "day", "14"), ("curriculum", "compare"), ("validate", "week1")):
        code, text = run(words)
        assert code == 2, text
        assert "Did you mean 'cifar10'?" in text


def tiny_cifar10(root: Path, train: int, test: int) -> None:
    """Class folders of noise, as data/cifar10 has them."""
    for split, count in (("train", train), ("test", test)):
        for label in CIFAR10_CLASSES:
            folder = root / "data" / "cifar10" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                noise = os.urandom(32 * 32 * 3)
                Image.frombytes("RGB", (32, 32), noise).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where every file that a day makes is there (networks untrained), and a CIFAR-10 of noise."""
    root = tmp_path_factory.mktemp("course")
    (root / "cfgs").symlink_to(REPOSITORY / "cfgs")
    tiny_cifar10(root, train=2, test=1)
    for dataset, model, shape in (
        ("digits", "cifar_resnet20", (1, 8, 8)),
        ("cifar10", "cifar_resnet18", (3, 32, 32)),
    ):
        dense = root / f"{dataset}.pth"
        recipe = Recipe(model, {}, 10, shape[0], shape, (0.5,) * shape[0], (0.5,) * shape[0], CIFAR10_CLASSES)
        save_checkpoint(dense, build_model(model, classes=10, in_channels=shape[0]), recipe)
        for path in (path for day in days() for path in day.makes):
            made = root / path_for(path, dataset)
            made.parent.mkdir(parents=True, exist_ok=True)
            if made.suffix == ".pth":
                made.symlink_to(dense)
            elif made.name == "sensitivity.yaml":
                made.write_text(yaml.safe_dump(SCAN))
            elif made.name != "sweep.yaml":  # there, the sweep would be one that is done
                made.touch()
    return root


@by_dataset
@by_number
def test_every_command_of_a_day_is_valid_before_any_work(
    day: Day, dataset: str, course: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command line itself: options, settings, and the checks before the work, which is then left out."""
    monkeypatch.chdir(course)
    checked: list[Any] = []
    for module in (pruning, scanning, searching, shipping, training):
        real = module.load_checked

        def check_only(*given: Any, real: Any = real, **more: Any) -> None:
            checked.append(real(*given, **more))
            raise typer.Exit(0)

        monkeypatch.setattr(module, "load_checked", check_only)
    for step in day.steps:
        words = shlex.split(command_for(step, dataset))
        if words[0] == "python":
            assert (REPOSITORY / words[1]).exists()
            config = words[words.index("-c") + 1]
            checked.append(load(config, [word for word in words[4:] if word.startswith("data.")], {}))
            continue
        assert words[0] == "pruning-bootcamp"
        if "-c" not in words:  # shows, compares, validates: no settings
            command = get_command(app).get_command(None, words[1])  # type: ignore[attr-defined]
            with contextlib.suppress(typer.Exit):
                command.make_context(words[1], words[2:])
            continue
        before = len(checked)
        code, text = run(tuple(words[1:]))
        assert code == 0, f"{words}: {text}"
        assert len(checked) == before + 1, words
    for cfg in checked:
        assert cfg.data.name == dataset
        places = [cfg.save_dir, cfg.checkpoint]
        assert all(place is None or place.startswith(f"{FOLDERS[dataset]}/") for place in places), places


@by_number
def test_no_command_of_cifar10_reads_or_writes_the_digits_results(day: Day) -> None:
    for step in day.steps:
        words = command_for(step, "cifar10").split()
        assert not any(word.rpartition("=")[2].split("/")[0] == "results" for word in words), words
        assert not any(word == "cfgs/digits.yaml" for word in words), words
        if words[1] in ("train", "prune-unstructured", "prune-structured", "sensitivity") and "--dry-run" not in words:
            assert "--save-dir" in words, f"{words}: would save in results/"


@by_number
def test_what_a_step_says_it_saves_is_where_its_command_saves(
    day: Day, course: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that the stage itself opens, up to which all of it is run."""
    from pruning_bootcamp.flow.commands import default_folder

    monkeypatch.chdir(course)
    for step in (step for step in day.steps if step.saves is not None and "prune-" in step.command):
        found: list[Any] = []
        real = pruning.load_checked

        def keep(*given: Any, real: Any = real, found: list[Any] = found, **more: Any) -> None:
            found.append(real(*given, **more))
            raise typer.Exit(0)

        words = shlex.split(step.command)
        monkeypatch.setattr(pruning, "load_checked", keep)
        code, text = run(tuple(words[1:]))
        monkeypatch.setattr(pruning, "load_checked", real)
        assert code == 0, text
        method = None if words[1] == "prune-structured" else words[words.index("--method") + 1]
        assert str(default_folder(found[0], words[1], method)) == step.saves


def in_bash(program: str, root: Path, dataset: str) -> subprocess.CompletedProcess[str]:
    """The functions of scripts/lib.sh, with the set-up left out and a python that only says what it is told to run."""
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(
        f'#!/bin/sh\ncase "$2" in pruning_bootcamp.course.dataset) exec "{sys.executable}" "$@";; esac\n'
        'echo "RUN $*"\ncase "$*" in *curriculum*) exit 0;; *crash*) exit 1;; *) exit 3;; esac\n'
    )
    python.chmod(0o755)
    start = f'set -euo pipefail; . "{REPOSITORY}/scripts/lib.sh"; set_up() {{ cd "{root}"; }}; '
    environment = {**os.environ, "DATASET": dataset, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(["bash", "-c", start + program], capture_output=True, text=True, env=environment, check=False)


def test_with_cifar10_the_same_commands_take_its_config(tmp_path: Path) -> None:
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    step = "step why pruning-bootcamp train -c cfgs/digits.yaml"
    done = in_bash(f"begin_day 1 title; {step}; end_day 1", tmp_path, "cifar10")
    assert done.returncode == 0, "the course's goals are the digits'"
    words = "train -c cfgs/cifar10_resnet18.yaml data.root=data/cifar10 --save-dir results-cifar10/baseline"
    assert f"RUN -m pruning_bootcamp {words}" in done.stdout
    assert "RUN -m pruning_bootcamp curriculum day 1 --figures --dataset cifar10" in done.stdout


def test_a_missed_goal_ends_no_day_before_its_time(tmp_path: Path) -> None:
    for step, code in (("step", 3), ("step_that_may_miss", 0)):
        done = in_bash(f"begin_day 1 title; {step} why pruning-bootcamp train; end_day 1", tmp_path, "digits")
        assert done.returncode == code
        assert "curriculum day 1 --figures" in done.stdout
        assert "the day goes on" in done.stdout
        done = in_bash(f"begin_day 1 title; {step} why pruning-bootcamp crash; end_day 1", tmp_path, "digits")
        assert done.returncode == 1, "what is no missed goal ends the day"
        assert "figures" not in done.stdout


def test_the_digits_networks_are_not_taken_for_those_of_cifar10(tmp_path: Path) -> None:
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "day01_baseline.sh").touch()
    made = tmp_path / "results" / "baseline" / "best_model.pth"
    made.parent.mkdir(parents=True)
    made.touch()
    needs = "needs_file results/baseline/best_model.pth 1"
    assert in_bash(f"begin_day 3 title; {needs}", tmp_path, "digits").returncode == 0
    done = in_bash(f"begin_day 3 title; {needs}", tmp_path, "cifar10")
    assert done.returncode == 2
    assert "results-cifar10/baseline/best_model.pth is not there: day 1 makes it" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all_scripts_run_with_cifar10(tmp_path: Path) -> None:
    """The scripts themselves on a CIFAR-10 of noise with a small network: nothing breaks, whatever goal is missed."""
    for name in ("pruning_bootcamp", "cfgs", "scripts", "benchmarks"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy2(REPOSITORY / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(REPOSITORY / ".venv")
    tiny_cifar10(tmp_path, train=12, test=3)
    config = tmp_path / "cfgs" / "cifar10_resnet18.yaml"
    short = (
        config.read_text().replace("100ep", "1ep").replace("30ep", "1ep").replace("cifar_resnet18", "cifar_resnet20")
    )
    config.write_text(short + "threads: 1\n")
    module = tmp_path / "pruning_bootcamp" / "course" / "dataset.py"
    module.write_text(module.read_text().replace("model.name=cifar_resnet18", "model.name=cifar_resnet20"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DATASET": "cifar10"}
    for day in days():
        done = subprocess.run([tmp_path / day.script], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{day.script}: exit {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
        assert [path for path in day.makes if not (tmp_path / path_for(path, "cifar10")).exists()] == []
    assert not (tmp_path / "results").exists()


def test_a_command_that_is_no_days_own_is_taken_too() -> None:
    step = CourseStep(
        why="why",
        command="pruning-bootcamp prune-structured -c cfgs/digits.yaml prune.allocation.args.file=results/a.yaml",
    )
    assert command_for(step, "digits") == step.command
    assert command_for(step, "cifar10").split()[2:] == [
        "-c",
        "cfgs/cifar10_resnet18.yaml",
        "data.root=data/cifar10",
        "prune.allocation.args.file=results-cifar10/a.yaml",
        "--checkpoint",
        "results-cifar10/baseline/best_model.pth",
    ]
