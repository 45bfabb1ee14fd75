"""An exported file against its network: fresh inputs, several batch sizes, here and in a new process."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import GoalNotMet
from pruning_bootcamp.exporters.base import Runner

_SECONDS = 600  # for the new process: importing torch on a busy machine takes a while

_HEAD = "import sys\nimport numpy\npath, given, written = sys.argv[1:]\n"
_TAIL = """
inputs = numpy.load(given)
numpy.savez(written, **{name: run(inputs[name]) for name in inputs.files})
assert "pruning_bootcamp" not in sys.modules, "the project was imported"
"""


@dataclass(frozen=True)
class Difference:
    """The largest difference over all outputs, and the same divided by max(1, largest |output| of the network).

    `largest_output` is the network's: where it is tiny (an untrained network), agreement proves little.
    """

    absolute: float
    relative: float
    largest_output: float

    @staticmethod
    def largest(differences: Iterable["Difference"]) -> "Difference":
        found = list(differences)
        return Difference(
            max(one.absolute for one in found),
            max(one.relative for one in found),
            max(one.largest_output for one in found),
        )


def fresh_inputs(example: Tensor, batch_sizes: Iterable[int], seed: int = 0) -> dict[str, Tensor]:
    """`batch of n` -> normal noise of the example's image shape; torch's global generator is left alone."""
    generator = torch.Generator().manual_seed(seed)
    return {f"batch of {size}": torch.randn(size, *example.shape[1:], generator=generator) for size in batch_sizes}


def verify_here(model: nn.Module, runner: Runner, inputs: Mapping[str, Tensor], tolerance: float) -> Difference:
    """Run the file in this process. GoalNotMet when it fails on an input, or differs by `tolerance` or more."""
    outputs = {}
    for name, images in inputs.items():
        try:
            with torch.inference_mode():
                outputs[name] = runner(images).numpy()
        except Exception as error:  # whatever the engine raises: the file does not do what it must
            raise GoalNotMet(f"the file fails on a {name}: {str(error).strip().splitlines()[-1]}") from error
    return _compare(model, inputs, outputs, tolerance, "")


def verify_in_new_process(
    model: nn.Module, path: Path, program: str, inputs: Mapping[str, Tensor], tolerance: float
) -> Difference:
    """Run the file in a new Python that never imports the project; the comparison is as in verify_here."""
    with tempfile.TemporaryDirectory() as folder:
        given, written = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, **{name: images.numpy() for name, images in inputs.items()})  # type: ignore[arg-type]
        # -I: no PYTHONPATH, no current directory, so only what is installed beside Python is found
        command = [sys.executable, "-I", "-c", _HEAD + program + _TAIL, str(path.resolve()), str(given), str(written)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise GoalNotMet(f"the file did not finish within {_SECONDS} s in a new process") from None
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise GoalNotMet(f"the file fails in a new process without the project: {last}")
        with np.load(written) as outputs:
            return _compare(model, inputs, {name: outputs[name] for name in inputs}, tolerance, " in a new process")


def _compare(
    model: nn.Module, inputs: Mapping[str, Tensor], outputs: Mapping[str, np.ndarray], tolerance: float, where: str
) -> Difference:
    found = []
    for name, images in inputs.items():
        with torch.inference_mode():
            expected = model(images).numpy()
        given = outputs[name]
        if given.shape != expected.shape:
            raise GoalNotMet(f"the file gives shape {given.shape} for a {name}{where}, the network {expected.shape}")
        absolute = float(np.abs(given.astype(np.float64) - expected).max())
        largest_output = float(np.abs(expected).max())
        relative = absolute / max(1.0, largest_output)
        if not relative < tolerance:  # NaN is not below anything
            raise GoalNotMet(
                f"the file and the network differ by {absolute:.1e} for a {name}{where} ({relative:.1e} relative to "
                f"the largest output, at least 1); allowed is less than {tolerance:.1e}"
            )
        found.append(Difference(absolute, relative, largest_output))
    return Difference.largest(found)
