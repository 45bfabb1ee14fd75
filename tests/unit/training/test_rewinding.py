"""Lottery tickets: networks saved at steps of a training, and the surviving weights put back to one of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pruning_bootcamp.checkpoints import Recipe, load_checkpoint, save_checkpoint
from pruning_bootcamp.duration import parse_duration
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model
from pruning_bootcamp.pruning.weights.unstructured import prune_unstructured
from pruning_bootcamp.training.hooks import Hook, StepState
from pruning_bootcamp.training.loop import fit
from pruning_bootcamp.training.rewinding import StepCheckpoints, load_values, rewind, rewind_file

CPU = torch.device("cpu")
RECIPE = Recipe("cifar_resnet20", {}, 10, 1, (1, 8, 8), (0.3,), (0.4,), tuple("0123456789"))
STEPS = [parse_duration(text) for text in ("0it", "2it", "1ep")]


class Copies(Hook):
    """The weights after each step, and a kill after one of them."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.seen: dict[int, dict[str, torch.Tensor]] = {}

    def on_start(self, state: StepState) -> None:
        self.on_step_end(state)

    def on_step_end(self, state: StepState) -> None:
        self.seen[state.step] = {name: value.clone() for name, value in state.model.state_dict().items()}
        if state.step == self.stop:
            raise KeyboardInterrupt


def net() -> torch.nn.Module:
    torch.manual_seed(1)
    return build_model(RECIPE.model, classes=10, in_channels=1, args={})


def train(small: Any, folder: Path, copies: Copies, epochs: str = "7it") -> None:
    hooks = [StepCheckpoints(folder, RECIPE, STEPS), copies]
    settings = small.settings(epochs=epochs, checkpoint_seconds=0)
    fit(net(), small.small_splits(), settings, device=CPU, seed=3, folder=folder, hooks=hooks)


def test_the_named_steps_are_saved_also_by_a_training_that_was_killed(small: Any, tmp_path: Path) -> None:
    copies = Copies()
    train(small, tmp_path / "whole", copies)
    with pytest.raises(KeyboardInterrupt):
        train(small, tmp_path / "killed", Copies(stop=3))
    assert not (tmp_path / "killed" / "step_1ep.pth").exists()
    train(small, tmp_path / "killed", Copies())
    for folder in ("whole", "killed"):
        for step, name in ((0, "step_0it.pth"), (2, "step_2it.pth"), (5, "step_1ep.pth")):
            checkpoint = load_checkpoint(tmp_path / folder / name)
            assert checkpoint.extra == {"step": step}
            for key, value in checkpoint.model.state_dict().items():
                assert torch.equal(value, copies.seen[step][key]), (name, key)


def test_a_saved_step_that_got_lost_is_said(small: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(small, tmp_path, Copies(stop=4))
    (tmp_path / "step_2it.pth").unlink()
    with pytest.raises(BootcampError, match=r"step_2it\.pth: is gone, and the training goes on from step 3"):
        train(small, tmp_path, Copies())


def test_a_step_after_the_end_is_refused(small: Any, tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match="1ep is after the training's 4 steps"):
        train(small, tmp_path, Copies(), epochs="4it")


def test_rewinding_puts_back_everything_but_what_is_pruned(tmp_path: Path) -> None:
    early, late = net(), net()
    with torch.no_grad():
        for tensor in late.state_dict().values():
            tensor.add_(1)
    save_checkpoint(tmp_path / "step_5it.pth", early, RECIPE)
    result = prune_unstructured(late, sparsity=0.6, allocation="global")
    values = load_values(rewind_file("5it", tmp_path / "best_model.pth"), RECIPE, late)
    rewind(late, values, result.masks)
    pruned = 0
    for name, value in late.state_dict().items():
        keep = result.masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value[keep], early.state_dict()[name][keep]), name
        assert value[~keep].count_nonzero() == 0
        pruned += int((~keep).sum())
    assert pruned > 100_000


def test_a_missing_step_names_what_is_there(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step_5it.pth", net(), RECIPE)
    with pytest.raises(BootcampError) as caught:
        rewind_file("500it", tmp_path / "best_model.pth")
    assert "holds step_5it.pth" in str(caught.value)
    assert "train.save_steps=[500it]" in str(caught.value)
    with pytest.raises(BootcampError, match=r"holds no step_\*\.pth"):
        rewind_file(str(tmp_path / "elsewhere" / "x.pth"), tmp_path / "best_model.pth")


def test_another_network_is_refused(tmp_path: Path) -> None:
    other = build_model("cifar_resnet20", classes=10, in_channels=1, args={})
    other.conv1 = torch.nn.Conv2d(1, 16, 5, padding=2, bias=False)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    with pytest.raises(BootcampError, match=r"other\.pth"):
        load_values(tmp_path / "other.pth", RECIPE, net())
