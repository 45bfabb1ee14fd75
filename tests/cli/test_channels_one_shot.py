"""prune-structured without labels: channels measured, layers refitted in closed form, on digits."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pruning_bootcamp.checkpoints import load_model
from pruning_bootcamp.flow.steps import cut

Command = Callable[..., str]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
CUT = ("prune-structured", "-c", SMOKE, "goal.accuracy_drop=100", "--no-fine-tune", "structured.refit=closed_form")
FEW = "structured.calibration_images=128"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command(folder, "train", "-c", SMOKE, "train.epochs=6")
    return folder


def figures(trained: Path, folder: str) -> dict[str, Any]:
    return yaml.safe_load((trained / "results" / folder / "metrics.yaml").read_text())


def test_the_closed_form_beats_batch_norm_re_estimated(trained: Path, command: Command) -> None:
    text = command(trained, *CUT, "--save-dir", "results/fitted")
    assert "Computing importance: obs, widths measured" in text
    assert "Measuring 1 of 12 groups of channels" in text
    assert "Refitting 18 of 18 layers: linear" in text
    command(trained, *CUT, "structured.refit=batch_norm", "--save-dir", "results/re_estimated")
    fitted, re_estimated = figures(trained, "fitted"), figures(trained, "re_estimated")
    assert fitted["val_accuracy_pruned"] > re_estimated["val_accuracy_pruned"]
    assert fitted["refit"]["layers"] == 18
    said = f"Refitted 18 layers in closed form on {fitted['refit']['images']} training images, without their labels"
    assert said in text
    assert fitted["fall_backs"] == []
    assert fitted["slice_proof"]["passed"]
    assert abs(fitted["flops_reduction_pct"] - 50) < 1
    report = (trained / "results" / "fitted" / "report.md").read_text()
    assert said in report
    assert "refit" not in re_estimated


def test_none_leaves_the_network_as_it_was_cut(trained: Path, command: Command) -> None:
    text = command(trained, *CUT, "structured.refit=none", "--save-dir", "results/as_cut")
    assert "Batch-norm statistics" not in text
    found = figures(trained, "as_cut")
    assert "refit" not in found
    assert "batch_norm" not in found


def test_a_look_ahead_says_what_can_be_said_without_measuring(trained: Path, command: Command) -> None:
    text = command(trained, *CUT, "--dry-run", "--save-dir", "results/dry")
    assert "Channels are chosen once they are measured on training images." in text
    assert "Pruning: refitting layer by layer: to do" in text
    impossible = (*CUT, "--target-flops-reduction", "0.999", "--save-dir", "results/dry")
    assert "can't be reached" in command(trained, *impossible, expect=3)
    assert not (trained / "results" / "dry").exists()


@pytest.mark.parametrize("name", ["l1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("taylor", "thinet"))])
def test_every_score_can_be_refitted(trained: Path, command: Command, name: str) -> None:
    """One of weights, one of labelled images, one of what readers are shown: tests/contracts go through all."""
    text = command(trained, *CUT, FEW, "structured.refit_rounds=0", "--method", name, "--save-dir", f"results/{name}")
    assert f"Computing importance: {name}, widths measured" in text
    assert figures(trained, name)["refit"]["images"] == 128
    assert figures(trained, name)["fall_backs"] == []


@pytest.mark.parametrize("name", ["fisher", pytest.param("lindeps", marks=pytest.mark.slow)])
def test_a_score_is_measured_before_the_plain_cut_too(
    trained: Path, command: Command, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = (*CUT, FEW, "structured.refit=batch_norm", "--method", name, "--sparsity", "0.5")
    with monkeypatch.context() as context:
        context.setattr(cut, "score_channels", None)  # nothing is measured to look ahead
        looked = command(trained, *plain, "--dry-run", "--save-dir", f"results/{name}")
    assert "Channels are chosen once they are measured on training images." in looked
    assert not (trained / "results" / name).exists()
    text = command(trained, *plain, "--save-dir", f"results/{name}")
    assert f"Computing importance: {name}" in text
    assert "widths measured" not in text
    assert figures(trained, name)["slice_proof"]["passed"]
    again = command(trained, *plain, "structured.calibration_images=64", "--save-dir", f"results/{name}")
    assert "already finished" not in again


@pytest.mark.slow
def test_a_killed_refit_goes_on_to_the_same_network(trained: Path, command: Command) -> None:
    """Killed between two layers, by a process of its own."""
    arguments = (*CUT, FEW, "train.checkpoint_seconds=0")
    command(trained, *arguments, "--save-dir", "results/whole")
    code = f"""
import os, signal
from pruning_bootcamp.flow.steps import refit
keep = refit._keep
def kept(context, model, fitted):
    keep(context, model, fitted)
    if len(fitted) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
refit._keep = kept
import sys
sys.argv = ["pruning-bootcamp", *{arguments!r}, "--save-dir", "results/killed"]
from pruning_bootcamp.__main__ import main
main()
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=trained, env=os.environ, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    text = command(trained, *arguments, "--save-dir", "results/killed")
    assert "Going on after 7 layers" in text
    assert "Refitting 8 of 18 layers" in text
    assert "Refitting 7 of 18 layers" not in text
    whole, again = (
        load_model(trained / "results" / name / "pruned_model.pth").state_dict() for name in ("whole", "killed")
    )
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.slow
def test_a_distillation_that_makes_it_worse_is_undone(trained: Path, command: Command) -> None:
    distil = ("recover.method=distill", "recover.steps=4", "recover.images=64", "recover.batch_size=32")
    wild = ("recover.never_worse=true", "recover.lr=2", "recover.features=0")
    text = command(trained, *CUT, FEW, *distil, *wild, "--save-dir", "results/d")
    assert "it is undone" in text
    assert figures(trained, "d")["val_accuracy_pruned"] > 30
