"""Widths in multiples of what the hardware likes: `round_to`, and what `auto` comes to."""

from dataclasses import dataclass
from typing import Literal

import torch

from pruning_bootcamp.errors import Problem, unknown

RoundTo = int | Literal["auto", "none"] | None
# ResNet-18 at half the multiply-accumulates on an H200: 0.62x with widths as they fall, 1.53x in multiples of 8
ON_CUDA = (8, 4, 2, 1)


@dataclass(frozen=True)
class Multiples:
    """`choices`: from the one that is wanted to the last resort; None: widths as they fall. `why`: auto's reason."""

    choices: tuple[int | None, ...]
    why: str | None = None


def resolve_round_to(round_to: RoundTo, device: torch.device) -> Multiples:
    """What `round_to` means on a device; only `auto` has more than one choice."""
    if round_to == "auto":
        if device.type == "cuda":
            return Multiples(ON_CUDA, "cuda: a width that is no multiple of 8 makes a layer slower there")
        return Multiples((None,), f"{device.type}: widths as they fall")
    return Multiples((None if round_to == "none" else round_to,))


def check_round_to(round_to: RoundTo, where: str) -> list[Problem]:
    """What is wrong with the kind of the value; its range is the field's."""
    if round_to is None or round_to in ("auto", "none"):
        return []
    if isinstance(round_to, str):
        said = unknown("value", round_to, ["auto", "none"])
        return [Problem(where, f"{said.rstrip('.')}, or a whole number from 1 up.")]
    whole = isinstance(round_to, int) and not isinstance(round_to, bool)
    return [] if whole else [Problem(where, f"{round_to} is not a whole number from 1 up.")]


def narrower(multiple: int | None) -> tuple[int | None, ...]:
    """The multiple, and what a layer too narrow for it may fall back to under `auto`."""
    return (multiple, *(choice for choice in ON_CUDA if multiple is not None and choice < multiple))
