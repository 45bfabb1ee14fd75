"""prune-unstructured without training: solvers, and recovery from images without labels, on digits."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

Command = Callable[..., str]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
PRUNE = ("prune-unstructured", "-c", SMOKE, "goal.accuracy_drop=100", "--no-fine-tune")
FEW = "prune.exclude=[layer3]"  # its layers take most of the time, and show nothing that the others do not
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
        (("--method", "obs", "--mode", "global", "--solver", "reconstruct", "--sparsity", "0.8"), 0.8),
        (("--method", "sparsegpt", "--sparsity", "0.6"), 0.6),
        (("--method", "wanda", "--mode", "second_order", "--sparsity", "0.7"), 0.7),
        (("--method", "obs", "--pattern", "2:4", "--solver", "reconstruct", "prune.allocation=uniform"), 0.5),
    ],
)
def test_every_way_reaches_the_sparsity(
    trained: Path, command: Command, arguments: tuple[str, ...], sparsity: float
) -> None:
    text = command(trained, *PRUNE, *arguments, "--save-dir", "results/one")
    assert "Batch-norm statistics" in text
    assert figures(trained, "one")["sparsity"] == pytest.approx(sparsity, abs=2e-3)  # 2:4 skips the first layer


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
    ],
)
def test_what_makes_no_sense_is_refused_before_it_runs(
    trained: Path, command: Command, arguments: tuple[str, ...], said: str
) -> None:
    text = command(trained, *PRUNE, *arguments, "--save-dir", "results/refused", expect=2)
    assert said in text
    assert not (trained / "results" / "refused").exists()
