"""What the formats share: their registry, and how a file is proven."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pruning_bootcamp.plain import Plain
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.tools.latency.runner import Runner


@dataclass(frozen=True)
class Written(Runner):
    """What runs a file, and what stands in the file otherwise than in the network."""

    zeroed: Mapping[str, int] = field(default_factory=dict)
    """tensor -> how many of its weights were too small, and are zero (tools/tiny.py)"""
    emptied: Mapping[str, int] = field(default_factory=dict)
    """layer -> how many of its filters were not zero, and are all zeros once rounded"""
    notes: tuple[str, ...] = ()
    """what else was done otherwise than asked, in words"""


def _not_a_runner(runner: Any, model: nn.Module, example: Tensor, path: Path) -> str | None:
    if not path.is_file():
        return f"no file, and a format writes {path.name}"
    return None if callable(runner) else f"{type(runner).__name__}, and a format gives what runs the file"


EXPORTERS: Registry = Registry(
    "format",
    given=("calibration", "recipe", "masks"),
    plural="formats",
    takes=("model", "example", "path"),
    tell=("suffix", "title", "program"),
    contract=_not_a_runner,
)
"""f(model, example, path, *, ...) -> Runner, or Written, which says what is otherwise in the file than in the network.
The model is a deployable_copy, the example a batch of at least two.

Facts: `suffix` of the file, `title` for people, and `program`: Python source which, in a process without this project,
defines `run(array) -> array` from the file named `path`. Where it applies also
    needs      which of `calibration` (images), `recipe` and `masks` the engine hands over; they are no user's settings
    proof      f(**settings) -> "equal" or "agreement", how the file's outputs relate to the network's; else they are
               close (see verify.py)
    project    True: the program may import this project
    compact    True: the file is there for its size, which the report compares with the plain weights'
    folds      True: it folds batch norm into weights, and then sets those that are too small to zero by itself; every
               other format is given a network without them
"""


def proof_of(format: str, args: Mapping[str, Plain]) -> str:  # noqa: A002  # the word users know, from --format
    """close, equal or agreement: how outputs of the format's files, with these settings, relate to the network's."""
    proof = EXPORTERS[format].facts.get("proof")
    return proof(**args) if proof else "close"
