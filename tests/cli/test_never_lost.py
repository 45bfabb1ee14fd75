"""What a mistake, a change of mind or a second pruning must not cost: finished runs, zeros, honest resumes."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

Command = Callable[..., str]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
ANY = "goal.accuracy_drop=100"  # a smoke run says nothing about accuracy
FACTORY = """
from torch import nn
def build(classes, in_channels, width=WIDTH):
    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command(folder, "train", "-c", SMOKE)
    return folder


def metrics(path: Path) -> dict:
    return yaml.safe_load((path / "metrics.yaml").read_text())


@pytest.mark.parametrize(
    "mistake",
    [("--device", "junk"), ("model.name=alexnet",), ("train.optimizer.args.momentum=fast",), ("data.args.size=3",)],
)
def test_a_mistake_does_not_move_a_finished_run(trained: Path, command: Command, mistake: tuple[str, ...]) -> None:
    text = command(trained, "train", "-c", SMOKE, "train.lr=0.02", *mistake, expect=2)
    assert "error:" in text
    assert (trained / "results" / "baseline" / "best_model.pth").exists()
    assert not (trained / "results" / "baseline" / "previous-1").exists()


def test_resume_with_another_config_is_refused_and_moves_nothing(trained: Path, command: Command) -> None:
    text = command(trained, "train", "-c", SMOKE, "train.lr=0.02", "--resume", expect=2)
    assert "no unfinished run of this config" in text
    assert (trained / "results" / "baseline" / "metrics.yaml").exists()


def test_numbers_that_yaml_reads_as_text_are_numbers(trained: Path, command: Command) -> None:
    arguments = ("train.optimizer.name=adamw", "train.optimizer.args.eps=1e-9", "train.schedule=cosine")
    command(trained, "train", "-c", SMOKE, *arguments, "train.schedule.args.final=1e-2", "--save-dir", "results/text")
    assert metrics(trained / "results" / "text")["status"] == "complete"


def test_a_run_without_its_checkpoint_is_not_finished(trained: Path, command: Command) -> None:
    command(trained, "train", "-c", SMOKE, "--save-dir", "results/lost")
    (trained / "results" / "lost" / "best_model.pth").unlink()
    command(trained, "train", "-c", SMOKE, "--save-dir", "results/lost")
    assert (trained / "results" / "lost" / "best_model.pth").exists()


def test_an_edited_factory_is_another_run_and_its_old_checkpoint_is_refused(tmp_path: Path, command: Command) -> None:
    def run(*arguments: str, expect: int = 0) -> str:
        return command(tmp_path, *arguments, "-c", SMOKE, "model.name=net.py:build", expect=expect)

    (tmp_path / "net.py").write_text(FACTORY.replace("WIDTH", "8"))
    run("train", "--save-dir", "run")
    (tmp_path / "net.py").write_text(FACTORY.replace("WIDTH", "12"))
    for name in [name for name in sys.modules if name.startswith("net_")]:
        del sys.modules[name]  # as in a new process
    text = run("eval", "--checkpoint", "run/best_model.pth", expect=2)
    assert "Was the code that builds it changed since?" in text
    assert "previous-1" in run("train", "--save-dir", "run")


def test_cycles_of_another_run_are_not_taken_for_ones_own(trained: Path, command: Command) -> None:
    arguments = ("prune-unstructured", "-c", SMOKE, "--iterative", "--num-iterations", "2", "--no-fine-tune", ANY)
    command(trained, *arguments, "--sparsity", "0.5", "--save-dir", "results/cycles")
    for name in ("config.yaml", "metrics.yaml"):  # as a kill while they were moved aside would leave it
        (trained / "results" / "cycles" / name).unlink()
    text = command(trained, *arguments, "--sparsity", "0.9", "--save-dir", "results/cycles")
    assert "already finished" not in text
    assert metrics(trained / "results" / "cycles")["sparsity"] == pytest.approx(0.9, abs=1e-3)


def test_a_changed_goal_judges_again_without_pruning_again(trained: Path, command: Command) -> None:
    arguments = ("prune-structured", "-c", SMOKE, "--no-fine-tune", "--save-dir", "results/goal")
    command(trained, *arguments, ANY)
    text = command(trained, *arguments, "goal.accuracy_drop=-100", expect=3)
    assert "already finished" in text
    assert metrics(trained / "results" / "goal")["goal_met"] is False


def test_the_folder_of_the_checkpoint_is_not_taken(trained: Path, command: Command) -> None:
    checkpoint = "results/baseline/best_model.pth"
    text = command(trained, "prune-structured", "-c", SMOKE, "--save-dir", "results/baseline", expect=2)
    assert "holds the checkpoint" in text
    assert (trained / checkpoint).exists()


def test_zeros_of_an_earlier_pruning_stay(trained: Path, command: Command) -> None:
    first = ("--sparsity", "0.8", "--no-fine-tune", ANY, "--save-dir", "results/first")
    command(trained, "prune-unstructured", "-c", SMOKE, "--method", "global", *first)
    start = ("-c", SMOKE, "--checkpoint", "results/first/pruned_model.pth", ANY, "--save-dir")
    command(trained, "prune-unstructured", *start, "results/second", "--method", "global", "--sparsity", "0.9")
    earlier = torch.load(trained / "results/first/pruned_model.pth", weights_only=True)["state_dict"]
    later = torch.load(trained / "results/second/pruned_model.pth", weights_only=True)["state_dict"]
    for name, weight in earlier.items():
        if weight.dim() > 1:
            assert not later[name][weight == 0].any(), name
    assert "0.5" in command(
        trained, "prune-unstructured", *start, "results/third", "--sparsity", "0.5", expect=2
    ), "less than there is can't be reached"  # fmt: skip
    text = command(trained, "prune-structured", *start, "results/cut", "--target-flops-reduction", "0.5")
    assert "own zeros stay" in text
    assert metrics(trained / "results" / "cut")["sparsity"] > 0.6
