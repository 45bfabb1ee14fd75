"""prune-unstructured without training: solvers, and recovery from images without labels, on digits."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from pruning_bootcamp.checkpoints import load_model

Command = Callable[..., str]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
PRUNE = ("prune-unstructured", "-c", SMOKE, "goal.accuracy_drop=100", "--no-fine-tune")
FEW = "prune.exclude=[layer3]"  # its layers take most of the time, and show nothing that the others do not
REFIT = ("prune.refit=closed_form", "prune.refit_rounds=1", "prune.calibration_images=64", FEW)
DISTILL = ("recover.method=distill", "recover.steps=12", "recover.images=128", "recover.batch_size=32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command(folder, "train", "-c", SMOKE, "train.epochs=2")
    return folder


def figures(trained: Path, folder: str) -> dict:
    return yaml.safe_load((trained / "results" / folder / "metrics.yaml").read_text())


@pytest.mark.parametrize(
    ("arguments", "sparsity"),
    [
        (("--method", "sparsegpt", "--sparsity", "0.6"), 0.6),
        pytest.param(
            ("--method", "obs", "--mode", "global", "--solver", "reconstruct", "--sparsity", "0.8"),
            0.8,
            marks=pytest.mark.slow,
        ),
        pytest.param(("--method", "wanda", "--mode", "second_order", "--sparsity", "0.7"), 0.7, marks=pytest.mark.slow),
        pytest.param(
            ("--method", "obs", "--pattern", "2:4", "--solver", "reconstruct", "prune.allocation=uniform"),
            0.5,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_way_reaches_the_sparsity(
    trained: Path, command: Command, arguments: tuple[str, ...], sparsity: float
) -> None:
    text = command(trained, *PRUNE, *arguments, "--save-dir", "results/one")
    assert "Batch-norm statistics" in text
    assert figures(trained, "one")["sparsity"] == pytest.approx(sparsity, abs=2e-3)  # 2:4 skips the first layer


@pytest.mark.slow
def test_distillation_grows_to_the_target_and_is_recorded(trained: Path, command: Command) -> None:
    arguments = ("--method", "obs", "--mode", "global", "--solver", "reconstruct", "--sparsity", "0.9")
    text = command(trained, *PRUNE, *arguments, *DISTILL, "recover.grow=0.3", "--save-dir", "results/grown")
    metrics = figures(trained, "grown")
    assert metrics["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert metrics["cycles"][0]["distillation"]["steps"] == 12
    assert "pruned to 80.0" in text  # 0.1 ** 0.7 of the weights are there before the growth
    assert "already finished" in command(
        trained, *PRUNE, *arguments, *DISTILL, "recover.grow=0.3", "--save-dir", "results/grown"
    )


@pytest.mark.slow
def test_the_same_command_gives_the_same_network(trained: Path, command: Command) -> None:
    arguments = ("--method", "obs", "--solver", "reconstruct", "--sparsity", "0.5", FEW, *DISTILL)
    both = []
    for folder in ("results/first", "results/second"):
        command(trained, *PRUNE, *arguments, "--save-dir", folder)
        both.append((trained / folder / "pruned_model.pth").read_bytes())
    first, second = (figures(trained, name) for name in ("first", "second"))
    assert first["loss"] == second["loss"]
    assert len(both[0]) == len(both[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--solver", "sparsgpt", "--sparsity", "0.5"), "Did you mean 'sparsegpt'?"),
        (("--method", "obs", "prune.pattern=2:4", "prune.allocation=global"), "has nothing to decide"),
        (("--solver", "sparsegpt", "prune.pattern=threshold"), "they can't both"),
        (("--sparsity", "0.5", "recover.minutes=0"), "recover.minutes"),
        (("--sparsity", "0.5", "prune.solver={name: reconstruct, args: {damping: -1}}"), "damping"),
        (("--sparsity", "0.5", "prune.rewind=0it", "recover.method=distill"), "would undo"),
        (("--sparsity", "0.5", "prune.rewind=0it", "prune.refit=closed_form"), "would undo what prune.refit"),
        (("--sparsity", "0.5", "prune.gradual=true", "fine_tune.enabled=true", *REFIT), "prune.refit=closed_form"),
        (("--sparsity", "0.5", "prune.gradual=true", "fine_tune.enabled=true", "prune.stages=2"), "prune.stages=2"),
        (("--sparsity", "0.5", "prune.stages=0"), "prune.stages"),
    ],
)
def test_what_makes_no_sense_is_refused_before_it_runs(
    trained: Path, command: Command, arguments: tuple[str, ...], said: str
) -> None:
    text = command(trained, *PRUNE, *arguments, "--save-dir", "results/refused", expect=2)
    assert said in text
    assert not (trained / "results" / "refused").exists()


@pytest.mark.slow
def test_in_stages_each_is_refitted_and_the_last_is_the_result(trained: Path, command: Command) -> None:
    arguments = ("--method", "obs", "--mode", "global", "--sparsity", "0.8", *REFIT)
    text = command(trained, *PRUNE, *arguments, "prune.stages=3", "--save-dir", "results/stages")
    for line in ("pruned to 65.8", "pruned to 73.8", "pruned to 80.0"):  # 0.2 ** (2/3), 0.2 ** (5/6), 0.2 stay
        assert line in text
    assert text.count("Refitting 20 of 20 layers") == 3
    assert text.count("Target sparsity") == 1
    assert "The checkpoint's own zeros" not in text
    metrics = figures(trained, "stages")
    assert metrics["refit"] == metrics["refit"] | {"layers": 20, "images": 64}
    assert len(metrics["cycles"]) == 1
    assert "batch_norm" not in metrics["cycles"][0]
    assert "Refitted 20 layers in closed form" in (trained / "results" / "stages" / "report.md").read_text()


def test_a_pattern_that_says_the_sparsity_has_one_stage(trained: Path, command: Command) -> None:
    arguments = ("--pattern", "2:4", *REFIT, "prune.stages=3", "--save-dir", "results/one_stage")
    text = command(trained, *PRUNE, *arguments)
    assert text.count("Refitting 1 of ") == 1
    assert "pruned to 49." in text  # the first layer's one input makes no four


@pytest.mark.slow
def test_a_killed_refit_goes_on_to_the_same_network(trained: Path, command: Command) -> None:
    """Killed between two layers of the second stage, by a process of its own."""
    asked = ("--method", "magnitude", "--sparsity", "0.8", *REFIT, "prune.stages=2", "train.checkpoint_seconds=0")
    command(trained, *PRUNE, *asked, "--save-dir", "results/whole")
    code = f"""
import os, signal, sys
from pruning_bootcamp.flow.steps import refit
keep = refit._keep
def kept(context, model, fitted):
    keep(context, model, fitted)
    if len(fitted) == 5 and "stage1" not in str(context.folder):
        os.kill(os.getpid(), signal.SIGKILL)
refit._keep = kept
sys.argv = ["pruning-bootcamp", *{(*PRUNE, *asked)!r}, "--save-dir", "results/killed"]
from pruning_bootcamp.__main__ import main
main()
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=trained, env=os.environ, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    text = command(trained, *PRUNE, *asked, "--save-dir", "results/killed")
    assert "Going on after 5 layers" in text
    assert "Refitting 6 of 20 layers" in text
    assert "Refitting 5 of 20 layers" not in text
    whole, again = (
        load_model(trained / "results" / name / "pruned_model.pth").state_dict() for name in ("whole", "killed")
    )
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
