"""prune-structured in cycles of cut and training, as a user types it: shares, names, kills, what is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pruning_bootcamp.checkpoints import load_model
from pruning_bootcamp.flow.steps import cut
from pruning_bootcamp.flow.steps.cut import KEPT

Command = Callable[..., str]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "pipeline.yaml")
DENSE = ("--checkpoint", "results/baseline/best_model.pth")
CYCLES = ("structured.iterations=2", "structured.schedule=linear", "structured.score=l1")
FITTED = ("structured.refit=closed_form", "structured.refit_rounds=0", "structured.calibration_images=64")
FEW = (
    "structured.target_flops_reduction=0.2",
    "structured.exclude=[conv1*,layer1*,layer2*]",
    "goal.flops_reduction_pct=10",
)
CUT = ("prune-structured", "-c", SMOKE, *DENSE, *CYCLES, *FITTED, *FEW, "structured.allocation=global")
UNTRAINED = ("fine_tune.enabled=false", "recover.method=none", "structured.refit=none")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command(folder, "train", "-c", SMOKE)
    return folder


def metrics(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "metrics.yaml").read_text())


def test_each_cycle_cuts_its_share_and_trains(trained: Path, command: Command) -> None:
    text = command(trained, *CUT, "--save-dir", "whole")
    said = [text.index(part) for number in (1, 2) for part in (
        f"Computing importance (cycle {number} of 2): l1",
        f"Pruning (cycle {number} of 2): cutting channels out",
        f"Pruning (cycle {number} of 2): refitting layer by layer",
        f"Fine-tuning (cycle {number} of 2)",
    )]  # fmt: skip
    assert said == sorted(said)
    found = metrics(trained / "whole")
    assert [cycle["flops_reduction_pct"] for cycle in found["cycles"]] == [
        pytest.approx(10, abs=1),
        pytest.approx(20, abs=1),
    ]
    assert [cycle["best_epoch"] for cycle in found["cycles"]] == [1, 1]
    assert found["fall_backs"] == []  # every layer was fitted, in the second cycle too
    assert found["refit"]["layers"] > 2
    assert found["flops_reduction_pct"] == pytest.approx(20, abs=1)
    network = load_model(trained / "whole" / "pruned_model.pth")
    assert found["widths"]["layer3.0.conv1"] == [64, network.layer3[0].conv1.out_channels]
    assert load_model(trained / "whole" / "cycle_1" / "pruned_model.pth").layer3[0].conv1.out_channels < 64
    assert "| cycle | fewer FLOPs (%) |" in (trained / "whole" / "report.md").read_text()
    assert "no training between" not in text


@pytest.mark.slow
def test_stopped_in_the_second_cycle_it_goes_on_to_the_same_network(
    trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After test_each_cycle_cuts_its_share_and_trains, which leaves the unbroken run."""
    command(trained, *CUT, "--save-dir", "whole")
    work = cut.cut

    def stopped(context: Any, **given: Any) -> Any:
        if "cut" in context.inputs:
            raise KeyboardInterrupt
        return work(context, **given)

    with monkeypatch.context() as patch:
        patch.setattr(cut, "cut", stopped)
        command(trained, *CUT, "--save-dir", "stopped", expect=130)
    text = command(trained, *CUT, "--save-dir", "stopped")
    assert "Fine-tuning (cycle 1 of 2): already done" in text
    one, two = (load_model(trained / name / "pruned_model.pth").state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_without_training_it_warns_and_keeps_what_comparing_weights_finds(trained: Path, command: Command) -> None:
    """In a pipeline, whose stages stay; the cycles of weights after it have numbers of their own."""
    steps = "pipeline.steps=[prune-structured,prune-unstructured]"
    options = (*CYCLES, *UNTRAINED, steps, "prune.score=magnitude", "prune.iterations=2", "--save-dir", "untrained")
    text = command(trained, "pipeline", "run", "-c", SMOKE, *DENSE, *options)
    assert "2 cycles with no training between them" in text
    dense = load_model(trained / "results" / "baseline" / "best_model.pth")
    stages = trained / "untrained" / "stages"
    [folder] = stages.glob("1-prune-structured-2.prune-*")
    kept = torch.load(folder / KEPT, weights_only=True)["channels"]
    cut_once = load_model(trained / "untrained" / "cycle_2" / "pruned_model.pth")
    for path in ("bn1", "layer1.0.bn1", "layer2.1.bn1", "layer3.0.bn2", "layer3.2.bn1"):
        scale = dense.get_submodule(path).weight
        assert torch.equal(cut_once.get_submodule(path).weight, scale[kept[path]]), path
    reads, makes = kept["layer3.2.conv1"], kept["layer3.2.conv2"]
    whole = dense.layer3[2].conv2.weight
    assert torch.equal(cut_once.layer3[2].conv2.weight, whole[makes][:, reads])
    found = metrics(trained / "untrained")
    assert [cycle["cycle"] for cycle in found["cycles"]] == [1, 2, 3, 4]
    assert [cycle.get("sparsity", 0) > 0 for cycle in found["cycles"]] == [False, False, True, True]


def test_a_look_ahead_shows_the_first_cycle_and_refuses_what_no_cycle_reaches(trained: Path, command: Command) -> None:
    text = command(trained, *CUT, "--dry-run", "--save-dir", "dry")
    assert "Cycle 1 of 2, a share of 0.500 of the budget:" in text
    assert "(10." in text
    impossible = (*CUT, "structured.target_flops_reduction=0.999", "--save-dir", "dry")
    assert "can't be reached" in command(trained, *impossible, expect=3)
    assert not (trained / "dry").exists()
