"""The resume point: everything a training needs to go on as if it had never stopped, in one atomic file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.runs import atomic_path

NAME = "training_state.pth"


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Atomic: a kill leaves the state before or this one."""
    # through Python's own file: a full disk is then an OSError, not an internal failure of torch's writer
    with atomic_path(folder / NAME) as temporary, open(temporary, "wb") as stream:
        torch.save(dict(state), stream)


def read_state(folder: Path | None, about: Mapping[str, str]) -> dict[str, Any] | None:
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
    return state


def remove_state(folder: Path | None) -> None:
    """The training is over and its result is safe."""
    if folder is not None:
        (folder / NAME).unlink(missing_ok=True)
