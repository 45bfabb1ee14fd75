"""prune-structured --method dead as a user types it: after zeros, in a pipeline, and where nothing is dead."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from pruning_bootcamp import load_model
from pruning_bootcamp.checkpoints import load_checkpoint

Command = Callable[..., str]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
ZEROS = ("--method", "global", "--sparsity", "0.99", "--no-fine-tune", "goal.accuracy_drop=100")
REMOVE = ("prune-structured", "-c", SMOKE, "--method", "dead")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("pruned")
    command(folder, "train", "-c", SMOKE)
    command(folder, "prune-unstructured", "-c", SMOKE, *ZEROS, "--save-dir", "zeros")
    return folder


def metrics(folder: Path) -> dict:
    return yaml.safe_load((folder / "metrics.yaml").read_text())


def test_the_network_is_smaller_and_computes_the_same(pruned: Path, command: Command) -> None:
    said = command(pruned, *REMOVE, "--checkpoint", "zeros/pruned_model.pth")
    folder = pruned / "results" / "structured" / "dead"
    before, after = metrics(pruned / "zeros"), metrics(folder)
    assert "Slice proof: passed" in said
    assert "dead channels removed" in said
    assert "Fine-tuning" not in said
    assert after["params_reduction_pct"] > 20
    assert after["accuracy"] == before["accuracy"]
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-5)
    assert after["goal"] == "<= 1.5 points of accuracy lost"
    assert after["goal_met"]
    found = after["dead_channels"]
    assert found["removed"] == sum(wide - kept for wide, kept in after["widths"].values()) > 0
    assert all(line.split(" ", 1)[0].isdecimal() for line in found["stays"])
    assert "dead channels removed" in (folder / "report.md").read_text()
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        wanted = load_model(pruned / "zeros" / "pruned_model.pth")(images)
        assert torch.allclose(load_model(folder / "pruned_model.pth")(images), wanted, atol=1e-5)
    masks = load_checkpoint(folder / "pruned_model.pth").masks
    assert len(masks) == len(load_checkpoint(pruned / "zeros" / "pruned_model.pth").masks) > 0
    assert "already finished" in command(pruned, *REMOVE, "--checkpoint", "zeros/pruned_model.pth")


def test_a_dry_run_shows_the_same_and_writes_nothing(pruned: Path, command: Command) -> None:
    said = command(pruned, *REMOVE, "--checkpoint", "zeros/pruned_model.pth", "--dry-run", "--save-dir", "dry")
    assert "dead channels removed" in said
    assert "multiply-accumulates" in said
    assert not (pruned / "dry").exists()


def test_where_nothing_is_dead_the_network_stays_as_it_is(pruned: Path, command: Command) -> None:
    said = command(pruned, *REMOVE, "--save-dir", "alive", "goal.accuracy_drop=100")
    assert "No channel can go: the network stays as it is." in said
    found = metrics(pruned / "alive")
    assert found["dead_channels"]["removed"] == 0
    assert "slice_proof" not in found
    before, after = (
        load_checkpoint(pruned / name) for name in ("results/baseline/best_model.pth", "alive/pruned_model.pth")
    )
    assert {name: value.tolist() for name, value in before.model.state_dict().items()} == {
        name: value.tolist() for name, value in after.model.state_dict().items()
    }


@pytest.mark.slow
def test_after_the_zeros_in_a_pipeline(pruned: Path, command: Command) -> None:
    steps = (
        "pipeline",
        "run",
        "-c",
        SMOKE,
        "--checkpoint",
        "results/baseline/best_model.pth",
        "--save-dir",
        "pipeline",
    )
    given = (
        *("pipeline.steps=[prune-unstructured,prune-structured]", "prune.score=l1", "prune.allocation=global"),
        *("prune.sparsity=0.99", "fine_tune.enabled=false", "goal.accuracy_drop=100", "export.format=pt2"),
    )
    refused = command(pruned, *steps, *given, expect=2)
    assert "structured.only_dead=true" in refused
    command(pruned, *steps, *given, "structured.only_dead=true")
    found = metrics(pruned / "pipeline")
    assert found["dead_channels"]["removed"] > 0
    assert found["accuracy"] == metrics(pruned / "zeros")["accuracy"]
    assert found["params_reduction_pct"] > 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--method", "dead", "--fine-tune"), "nothing is lost with dead channels"),
        (("structured.only_dead=true", "structured.sparsity=0.5"), "structured.sparsity: says what to cut"),
        (("structured.only_dead=true", "--method", "l1"), "structured.score: says what to cut"),
        (("--method", "dead", "--sparsity", "0.5"), "structured.sparsity: says what to cut"),
        (("--method", "dead", "--round-to", "8"), "structured.round_to: says what to cut"),
    ],
)
def test_what_is_asked_for_besides_is_refused(
    pruned: Path, command: Command, arguments: tuple[str, ...], said: str
) -> None:
    assert said in command(pruned, "prune-structured", "-c", SMOKE, *arguments, expect=2)
