"""What the formats share: their registry, a runner of a file, the traced program, errors in our words."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.tools.quiet import quiet


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
"""f(model, example, path, *, ...) -> Runner. The model is a deployable_copy, the example a batch of at least two.

Facts: `suffix` of the file, `title` for people, and `program`: Python source which, in a process without this project,
defines `run(array) -> array` from the file named `path`. Where it applies also
    needs      which of `calibration` (images), `recipe` and `masks` the engine hands over; they are no user's settings
    proof      f(**settings) -> "equal" or "agreement", how the file's outputs relate to the network's; else they are
               close (see verify.py)
    project    True: the program may import this project
    compact    True: the file is there for its size, which the report compares with the plain weights'
"""


def proof_of(format: str, args: Mapping[str, Plain]) -> str:  # noqa: A002  # the word users know, from --format
    """close, equal or agreement: how outputs of the format's files, with these settings, relate to the network's."""
    proof = EXPORTERS[format].facts.get("proof")
    return proof(**args) if proof else "close"


@dataclass(frozen=True)
class Runner:
    """Runs an exported file: float32 [n, ...] on the CPU in, the outputs out. `backend` names what runs it."""

    backend: str
    run: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        return self.run(images)


def deployable_copy(model: nn.Module) -> nn.Module:
    """An independent copy as it is shipped: on the CPU, eval mode, float32, plain weights, contiguous in memory."""
    original = getattr(model, "_orig_mod", model)  # torch.compile wraps it
    assert isinstance(original, nn.Module)
    copied = detached_copy(original).to(device="cpu", dtype=torch.float32).to(memory_format=torch.contiguous_format)
    return copied.eval().requires_grad_(False)


def trace_program(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """torch.export's program of the network, for any batch size; a network that fixes it is a BootcampError."""
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (example,), dynamic_shapes=({0: batch},))


@contextlib.contextmanager
def exporting(title: str) -> Iterator[None]:
    """Quiet inside; whatever the library raises about the network is a BootcampError with the library's reason."""
    with quiet(title):
        try:
            yield
        except (BootcampError, OSError):
            raise
        except Exception as error:  # each exporter has its own zoo of exceptions
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise BootcampError(
                f"export: this network can't be written as {title}: {reason} ({type(error).__name__}). "
                "Try another --format; --debug shows the whole story."
            ) from error
