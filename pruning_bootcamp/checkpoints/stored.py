"""What a checkpoint file may hold, as a type; whoever reads one says what it expects in each place."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pruning_bootcamp.errors import BootcampError

Stored = None | bool | int | float | str | Tensor | Sequence["Stored"] | Mapping[Any, "Stored"]
"""plain values and tensors: what opens with weights_only=True; keys are texts or numbers"""


def table(value: Stored, name: str) -> Mapping[Any, Stored]:
    """The value, which is a table; a BootcampError names it when it is none."""
    if not isinstance(value, Mapping):
        raise BootcampError(f"{name} is {type(value).__name__}, not a table of names and values. Make the file again.")
    return value


def tensor(value: Stored, name: str) -> Tensor:
    """The value, which is a tensor; a BootcampError names it when it is none."""
    if not isinstance(value, Tensor):
        raise BootcampError(f"{name} is {type(value).__name__}, not a tensor. Make the file again.")
    return value


def tensors_in(stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    """The table, which holds tensors alone; a BootcampError names the first value that is none."""
    return {name: tensor(value, name) for name, value in stored.items()}
