"""Lottery-ticket rewinding: weights saved at named steps of a training, and put back under the masks found later."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Recipe, load_checkpoint, save_checkpoint
from pruning_bootcamp.duration import Duration, parse_duration
from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.pruning.masks import Masks, apply_masks
from pruning_bootcamp.training.hooks import Hook, StepState


def step_file(step: Duration) -> str:
    """The name of the checkpoint of a step: step_500it.pth."""
    return f"step_{step}.pth"


class StepCheckpoints(Hook):
    """Writes the network as it is after each of `steps` ("0it": before the first) as a checkpoint in `folder`.

    A training that goes on after a kill writes what it had not written yet. With `write` False (a process that does not
    lead) it only checks.
    """

    def __init__(self, folder: Path, recipe: Recipe, steps: Sequence[Duration], write: bool = True) -> None:
        self.folder, self.recipe, self.steps, self.write = folder, recipe, tuple(steps), write

    def on_start(self, state: StepState) -> None:
        """Writes what is due before the first step.

        Raises BootcampError for a step after the training's end, and for one already passed whose file is gone.
        """
        problems = []
        for duration in self.steps:
            step = duration.steps(state.steps_per_epoch)
            if step > state.total_steps:
                problems.append(f"train.save_steps: {duration} is after the training's {state.total_steps} steps.")
            elif step < state.step and self.write and not (self.folder / step_file(duration)).exists():
                problems.append(
                    f"{self.folder / step_file(duration)}: is gone, and the training goes on from step {state.step}, "
                    "behind it. Begin again with --no-resume."
                )
        if problems:
            raise BootcampError(*problems)
        self._save(state)

    def on_step_end(self, state: StepState) -> None:
        """Writes the network where this step is one of those asked for."""
        self._save(state)

    def _save(self, state: StepState) -> None:
        for duration in self.steps:
            if self.write and duration.steps(state.steps_per_epoch) == state.step:
                path = self.folder / step_file(duration)
                save_checkpoint(path, state.model, self.recipe, masks=state.masks or None, extra={"step": state.step})


def rewind_file(rewind: str, checkpoint: Path) -> Path:
    """The checkpoint that "500it" (saved beside `checkpoint`) or a path means; BootcampError when there is none."""
    named = re.fullmatch(r"\s*\d+\s*(ep|it)?\s*", rewind)
    path = checkpoint.parent / step_file(parse_duration(rewind)) if named else Path(rewind)
    if path.is_file():
        return path
    there = sorted(file.name for file in path.parent.glob("step_*.pth")) if path.parent.is_dir() else []
    name = str(parse_duration(rewind)) if named else "500it"
    raise BootcampError(
        f"there is no file {path}. {path.parent} holds {listed(there, 8) if there else 'no step_*.pth'}. Train with "
        f"train.save_steps=[{name}] to have it written, or give the path of a checkpoint."
    )


def load_values(path: Path, recipe: Recipe, like: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the network in the file, which must be the same network as `like`."""
    values = load_checkpoint(path, recipe=recipe).model.state_dict()
    wanted = like.state_dict()
    different = [name for name in wanted if name not in values or values[name].shape != wanted[name].shape]
    if different or values.keys() != wanted.keys():
        name = different[0] if different else next(iter(values.keys() - wanted.keys()))
        theirs, ours = (tuple(tensors[name].shape) if name in tensors else "not there" for tensors in (values, wanted))
        raise BootcampError(
            f"is another network: its {name} is {theirs}, and in the network to prune {ours}. Rewind to a step of the "
            "same network's training.",
            where=str(path),
        )
    return values


def rewind(model: nn.Module, values: Mapping[str, Tensor], masks: Masks) -> None:
    """Put every tensor back to `values`, in place, and zero what `masks` prune (Frankle et al., 2020)."""
    with torch.no_grad():
        model.load_state_dict(dict(values))
    apply_masks(model, masks)
