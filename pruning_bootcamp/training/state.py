"""The resume point: everything a training needs to go on as if it had never stopped, in one atomic file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning_bootcamp.checkpoints.stored import Stored
from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.runs import atomic_path
from pruning_bootcamp.training.records import Best, Epoch, Sums

NAME = "training_state.pth"


@dataclass
class TrainingState:
    """What changes while a network trains; the file holds it by these names, as tensors and plain values."""

    step: int
    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    """as torch's optimisers give and take it"""
    scaler: dict[str, Any]
    """likewise, of the gradient scaler"""
    average: dict[str, Tensor]
    """the moving average of the weights; empty where there is none"""
    hooks: list[dict[str, Stored]]
    history: list[Epoch]
    best: Best
    sums: Sums


def write_state(folder: Path, about: Mapping[str, str], state: TrainingState) -> None:
    """Atomic: a kill leaves the state before or this one."""
    records = {"history": [vars(entry) for entry in state.history], "best": vars(state.best)}
    content = {"about": dict(about), **vars(state), **records, "sums": asdict(state.sums)}
    # through Python's own file: a full disk is then an OSError, not an internal failure of torch's writer
    with atomic_path(folder / NAME) as temporary, open(temporary, "wb") as stream:
        torch.save(content, stream)


def read_state(folder: Path | None, about: Mapping[str, str]) -> TrainingState | None:
    """The state in the folder, on the CPU; None when there is none.

    Raises BootcampError when it can't be read, or when it belongs to a training that `about` does not describe.
    """
    if folder is None or not (folder / NAME).exists():
        return None
    path = folder / NAME
    begin = f"Delete {path} to begin anew, or choose another folder with --save-dir DIR."
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        theirs = dict(state["about"])
    except Exception as error:  # torch.load fails in many ways on a damaged file
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise BootcampError(f"{path}: can't be read ({reason}). {begin}") from error
    differences = [
        f"{name} was {theirs.get(name, 'not there')} and is now {about.get(name, 'not there')}."
        for name in {**theirs, **about}
        if theirs.get(name) != about.get(name)
    ]
    if differences:
        heading = f"{path} is the state of another training. {begin}"
        raise BootcampError(heading, *differences)
    names = [one.name for one in fields(TrainingState)]
    if missing := set(names) - state.keys():
        raise BootcampError(f"{path}: lacks {listed(missing)}. {begin}")
    kept = {name: state[name] for name in names}
    kept["history"] = [Epoch(**entry) for entry in kept["history"]]
    kept["best"], kept["sums"] = Best(**kept["best"]), Sums(**kept["sums"])
    return TrainingState(**kept)


def remove_state(folder: Path | None) -> None:
    """The training is over and its result is safe."""
    if folder is not None:
        (folder / NAME).unlink(missing_ok=True)
