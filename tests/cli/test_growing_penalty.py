"""A penalty that grows on what will be cut (GReg-1), and Network Slimming, from the config alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from pruning_bootcamp.checkpoints import load_model
from pruning_bootcamp.flow.steps.cut import KEPT
from pruning_bootcamp.training.hooks import GrowingPenalty, StepState

Command = Callable[..., str]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "pipeline.yaml")
DENSE = ("--checkpoint", "results/baseline/best_model.pth")
GROWN = ("structured.grow_penalty=4ep", "structured.grow_every=2", "structured.score=l1")
# 16 steps in which a penalty of 1 is felt
FAST = ("fine_tune.lr=0.05", "fine_tune.schedule=constant", "structured.grow_ceiling=4")
RUN = ("pipeline", "run", "-c", SMOKE, *DENSE, "pipeline.steps=[prune-structured]", *GROWN, *FAST)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command(folder, "train", "-c", SMOKE)
    (folder / "said.txt").write_text(command(folder, *RUN, "--save-dir", "whole"))
    return folder


def metrics(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "metrics.yaml").read_text())


def test_what_goes_shrinks_before_the_cut_and_what_stays_does_not(trained: Path) -> None:
    said = (trained / "said.txt").read_text()
    order = ("Computing importance: l1", "a penalty grows on what will go", "cutting channels out", "Fine-tuning")
    assert list(map(said.index, order)) == sorted(map(said.index, order))
    stages = trained / "whole" / "stages"
    [grown] = stages.glob("1-prune-structured-regularise-*/network.pth")
    [cut] = stages.glob("1-prune-structured-prune-*")
    kept = torch.load(cut / KEPT, weights_only=True)["channels"]
    before, after = load_model(trained / "results" / "baseline" / "best_model.pth"), load_model(grown)
    compared = 0
    for path, stays in kept.items():
        if not isinstance(after.get_submodule(path), nn.BatchNorm2d):
            continue
        new, old = after.get_submodule(path).weight.detach(), before.get_submodule(path).weight.detach()
        goes = torch.ones(len(new), dtype=torch.bool)
        goes[stays] = False
        if goes.any():
            assert new[goes].norm() / old[goes].norm() < 0.3, path
            assert new[~goes].norm() / old[~goes].norm() > 0.8, path
            compared += 1
    assert compared > 5
    found = metrics(trained / "whole")
    assert found["grown_penalty"]["steps"] == 16
    assert found["grown_penalty"]["penalty"] == 4.0
    assert found["grown_penalty"]["norm_left"] < 0.3
    assert "Before the cut 16 training steps under a penalty that grew to 4" in said
    assert found["flops_reduction_pct"] == pytest.approx(50, abs=1)


@pytest.mark.slow
def test_stopped_while_it_grows_it_goes_on_to_the_same_network(
    trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    penalise = GrowingPenalty.on_gradients

    def stopped(self: GrowingPenalty, state: StepState) -> None:
        if state.step == 9:
            raise KeyboardInterrupt
        penalise(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(GrowingPenalty, "on_gradients", stopped)
        command(trained, *RUN, "--save-dir", "stopped", expect=130)
    assert "resumed at step" in command(trained, *RUN, "--save-dir", "stopped")
    one, two = (load_model(trained / name / "pruned_model.pth").state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_look_ahead_shows_what_goes_and_wrong_settings_are_refused(trained: Path, command: Command) -> None:
    text = command(trained, "prune-structured", "-c", SMOKE, *DENSE, *GROWN, "--dry-run", "--save-dir", "dry")
    assert "Pruning: a penalty grows on what will go: to do" in text
    assert "| layer3.0.conv1 | 64" in text
    wrong = ("structured.grow_penalty=soon", "structured.grow_step=2")
    text = command(trained, "prune-structured", "-c", SMOKE, *DENSE, *wrong, expect=2)
    assert "structured.grow_penalty: 'soon' is not a duration. Write 3ep (epochs) or 500it (steps)." in text
    assert "structured.grow_step: 2 is above grow_ceiling, 1." in text


def test_network_slimming_from_the_config(trained: Path, command: Command) -> None:
    """train.bn_l1 makes batch-norm scales small, and bn_scale cuts those: the least scales of the whole network."""
    slim = ("-c", SMOKE, "train.epochs=4", "train.bn_l1=0.1")
    command(trained, "train", *slim, "--save-dir", "slim")
    text = command(
        *(trained, "prune-structured", *slim, "--checkpoint", "slim/best_model.pth"),
        *("--method", "bn_scale", "--sparsity", "0.3", "--no-fine-tune", "--save-dir", "slimmer"),
    )
    assert "Computing importance: bn_scale" in text
    plain, network = (
        load_model(trained / "results" / "baseline" / "best_model.pth"),
        load_model(trained / "slim" / "best_model.pth"),
    )

    def scales(model: nn.Module) -> torch.Tensor:
        found = [m.weight.detach().abs() for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        return torch.cat(found)

    assert scales(network).mean() < 0.95 * scales(plain).mean()
    cut = load_model(trained / "slimmer" / "pruned_model.pth")
    before, after = network.layer3[0].bn1.weight.abs(), cut.layer3[0].bn1.weight.abs()
    assert torch.equal(after, before[before >= after.min()])
    assert metrics(trained / "slimmer")["slice_proof"]["passed"]
