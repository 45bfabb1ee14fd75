"""A command that is killed and typed again ends with what an unbroken one gives; Ctrl-C says so and exits 130."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
TRAIN = ("train", "-c", SMOKE, "train.epochs=4", "train.checkpoint_seconds=0", "--save-dir")


def start_and_signal(
    folder: Path, number: signal.Signals, arguments: tuple[str, ...], wait_for: str
) -> tuple[int, str]:
    """Send the signal as soon as a file of that name stands below `folder`; (exit code, what was printed)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pruning_bootcamp", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores Ctrl-C
    )
    deadline = time.monotonic() + 120
    while not list(folder.rglob(wait_for)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    text, _ = process.communicate(timeout=120)
    return process.returncode, text


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def state_in(folder: Path) -> dict[str, Any]:
    """Where the one training that was stopped goes on."""
    [path] = folder.rglob("training_state.pth")
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., str]) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    command(folder, *TRAIN, "run")
    return folder / "run"


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGTERM))],
)
def test_a_training_that_was_stopped_goes_on_to_the_same_network(
    number: signal.Signals, unbroken: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    code, text = start_and_signal(tmp_path, number, (*TRAIN, "run"), "training_state.pth")
    assert code != 0, "it was over before it could be stopped"
    assert "Traceback" not in text
    if number == signal.SIGINT:
        assert code == 130
        assert "interrupted" in text
    assert not (tmp_path / "run" / "metrics.yaml").exists()
    text = command(tmp_path, *TRAIN, "run", "--resume")
    assert "resumed at step" in text
    one, two = weights(unbroken / "best_model.pth"), weights(tmp_path / "run" / "best_model.pth")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not list((tmp_path / "run").glob(".tmp-*"))


@pytest.mark.slow
def test_iterative_pruning_that_was_killed_goes_on_with_its_next_cycle(
    unbroken: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    arguments = (
        *("prune-unstructured", "-c", SMOKE, "--checkpoint", str(unbroken / "best_model.pth"), "--sparsity", "0.8"),
        *("--iterative", "--num-iterations", "3", "fine_tune.epochs=2", "train.checkpoint_seconds=0"),
        *("goal.accuracy_drop=100", "--save-dir"),
    )
    whole, killed = tmp_path / "a", tmp_path / "b"
    whole.mkdir()
    killed.mkdir()
    command(whole, *arguments, "run")
    code, _ = start_and_signal(killed, signal.SIGKILL, (*arguments, "run"), "cycle_2")
    assert code == -signal.SIGKILL
    text = command(killed, *arguments, "run")
    for cycle in (1, 2):
        assert re.search(rf"Pruning \(cycle {cycle} of 3\).*: already done, kept in \S*-{cycle}\.prune-", text), cycle
    one, two = weights(whole / "run" / "pruned_model.pth"), weights(killed / "run" / "pruned_model.pth")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_gradual_pruning_that_was_killed_prunes_on_from_there(
    unbroken: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    arguments = (
        *("prune-unstructured", "-c", SMOKE, "--checkpoint", str(unbroken / "best_model.pth"), "--sparsity", "0.8"),
        *("--gradual", "fine_tune.epochs=6", "prune.frequency=1it", "train.checkpoint_seconds=0"),
        *("goal.accuracy_drop=100", "--save-dir"),
    )
    whole, killed = tmp_path / "a", tmp_path / "b"
    whole.mkdir()
    killed.mkdir()
    command(whole, *arguments, "run")
    code, _ = start_and_signal(killed, signal.SIGKILL, (*arguments, "run"), "training_state.pth")
    assert code == -signal.SIGKILL
    state = state_in(killed)
    assert state["step"] < 18, "killed after the last update: nothing was left to prune"
    assert f"resumed at step {state['step']}" in command(killed, *arguments, "run")
    one, two = weights(whole / "run" / "pruned_model.pth"), weights(killed / "run" / "pruned_model.pth")
    assert all(torch.equal(one[name], two[name]) for name in one)
    points = [yaml.safe_load((path / "run" / "metrics.yaml").read_text())["updates"] for path in (whole, killed)]
    assert points[0] == points[1]
    assert len(points[0]) > 10


@pytest.mark.slow
def test_recovery_without_labels_that_was_killed_goes_on_from_there(
    unbroken: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    arguments = (
        *("prune-unstructured", "-c", SMOKE, "--checkpoint", str(unbroken / "best_model.pth"), "--sparsity", "0.8"),
        *("--method", "obs", "--solver", "reconstruct", "--no-fine-tune", "recover.method=distill", "recover.grow=0.3"),
        *("recover.steps=40", "recover.images=64", "recover.batch_size=16", "recover.minutes=5"),
        *("prune.calibration_images=64", "recover.bn_images=64", "prune.exclude=[layer3]"),  # solving for it is slow
        *("train.checkpoint_seconds=0", "goal.accuracy_drop=100", "--save-dir"),
    )
    whole, killed = tmp_path / "a", tmp_path / "b"
    whole.mkdir()
    killed.mkdir()
    command(whole, *arguments, "run")
    code, _ = start_and_signal(killed, signal.SIGKILL, (*arguments, "run"), "training_state.pth")
    assert code == -signal.SIGKILL
    state = state_in(killed)
    assert state["step"] < 40
    assert f"resumed at step {state['step']}" in command(killed, *arguments, "run")
    one, two = weights(whole / "run" / "pruned_model.pth"), weights(killed / "run" / "pruned_model.pth")
    assert all(torch.equal(one[name], two[name]) for name in one)
