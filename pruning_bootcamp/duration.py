"""How long: "3ep" (epochs) or "500it" (optimiser steps). A bare number is epochs."""

import re
from dataclasses import dataclass
from typing import Literal

from pruning_bootcamp.errors import BootcampError


@dataclass(frozen=True)
class Duration:
    value: int
    unit: Literal["ep", "it"]

    def steps(self, steps_per_epoch: int) -> int:
        """Optimiser steps, given how many make an epoch."""
        return self.value * steps_per_epoch if self.unit == "ep" else self.value

    def __str__(self) -> str:
        return f"{self.value}{self.unit}"


def parse_duration(text: int | str, where: str = "duration") -> Duration:
    """Duration from 3, "3", "3ep" or "500it"."""
    found = re.fullmatch(r"\s*(\d+)\s*(ep|it)?\s*", str(text))
    if isinstance(text, bool) or not found:
        raise BootcampError(f"{text!r} is not a duration. Write 3ep (epochs) or 500it (steps).", where=where)
    return Duration(int(found[1]), "it" if found[2] == "it" else "ep")
