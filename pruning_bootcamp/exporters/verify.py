"""An exported file against its network: fresh inputs or real images, several batch sizes, here and in a new process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.runs import scratch_folder
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.tools.inputs import inputs_like, plain_inputs
from pruning_bootcamp.tools.latency.runner import Runner

_SECONDS = 600  # for the new process: importing torch on a busy machine takes a while

_CHUNK = 64  # real images at a time

_HEAD = "import json, os, sys\nimport numpy\npath, given, written, place = sys.argv[1:]\n"
_AS_HERE = "sys.path, folder = json.loads(place)\nos.chdir(folder)\n"
_RUN = """
inputs = numpy.load(given)
numpy.savez(written, **{name: run(inputs[name]) for name in inputs.files})
"""
_ALONE = 'assert "pruning_bootcamp" not in sys.modules, "the project was imported"\n'


@dataclass(frozen=True)
class Difference:
    """The largest difference over all outputs, and the same divided by max(1, largest |output| of the network).

    `largest_output` is the network's: where it is tiny (an untrained network), this proves little. `agreement` is the
    share of `images` real inputs that both decide alike, where that was asked; the network decides in `classes`
    different ways, and `outputs` are the file's for all of them.
    """

    absolute: float
    relative: float
    largest_output: float
    agreement: float | None = None
    images: int | None = None
    classes: int | None = None
    outputs: Tensor | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def largest(differences: Iterable["Difference"]) -> "Difference":
        """The worst of several comparisons, each number on its own: largest differences, least agreement."""
        found = list(differences)
        return Difference(
            max(one.absolute for one in found),
            max(one.relative for one in found),
            max(one.largest_output for one in found),
            min((one.agreement for one in found if one.agreement is not None), default=None),
            found[0].images,
            found[0].classes,
            found[0].outputs,
        )


def fresh_inputs(example: Tensor, batch_sizes: Iterable[int], seed: int = 0) -> dict[str, Tensor]:
    """`batch of n` -> fresh inputs of the example's kind; torch's global generator is left alone."""
    generator = torch.Generator().manual_seed(seed)
    return {f"batch of {size}": inputs_like(example, size, generator) for size in batch_sizes}


def real_inputs(images: Tensor, batch_sizes: Iterable[int]) -> dict[str, Tensor]:
    """The first images in each batch size (from the start again where there are too few), then all, in chunks."""
    images = plain_inputs(images)
    batches = {f"batch of {size}": images[torch.arange(size) % len(images)] for size in batch_sizes}
    return batches | {f"chunk {number}": chunk for number, chunk in enumerate(images.split(_CHUNK))}


def verify_here(
    model: nn.Module,
    runner: Runner,
    inputs: Mapping[str, Tensor],
    tolerance: float,
    agreement: float | None = None,
    task: Task = IMAGE_CLASSIFICATION,
) -> Difference:
    """Run the file in this process. GoalNotMet when it fails on an input or is not the network.

    It is the network when each output differs by less than `tolerance`, relative to the largest (0: by nothing at all).
    With `agreement`, the inputs are real_inputs, and that share of their images must have the same largest output.
    """
    outputs = {}
    for name, images in inputs.items():
        try:
            with torch.inference_mode():
                outputs[name] = runner(images).numpy()
        except Exception as error:  # whatever the engine raises: the file does not do what it must
            raise GoalNotMet(f"the file fails on a {name}: {str(error).strip().splitlines()[-1]}") from error
    return _compare(model, inputs, outputs, tolerance, agreement, task, "")


def verify_in_new_process(
    model: nn.Module,
    path: Path,
    program: str,
    inputs: Mapping[str, Tensor],
    tolerance: float,
    agreement: float | None = None,
    project: bool = False,
    task: Task = IMAGE_CLASSIFICATION,
) -> Difference:
    """Run the file in a new Python that never imports the project, or may; the comparison is as in verify_here."""
    with scratch_folder() as folder:
        given, written = folder / "inputs.npz", folder / "outputs.npz"
        np.savez(given, **{name: images.numpy() for name, images in inputs.items()})  # type: ignore[arg-type]
        source = _HEAD + (_AS_HERE if project else "") + program + _RUN + ("" if project else _ALONE)
        # where this process finds modules, the user's own among them
        place = json.dumps([[entry for entry in sys.path if isinstance(entry, str)], os.getcwd()] if project else None)
        # -I: no PYTHONPATH, no current directory, so only what is installed beside Python is found
        command = [sys.executable, "-I", "-c", source, str(path.resolve()), str(given), str(written), place]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise GoalNotMet(f"the file did not finish within {_SECONDS} s in a new process") from None
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise GoalNotMet(f"the file fails in a new process{'' if project else ' without the project'}: {last}")
        with np.load(written) as file:
            outputs = {name: file[name] for name in inputs}
    return _compare(model, inputs, outputs, tolerance, agreement, task, " in a new process")


def _compare(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, np.ndarray],
    tolerance: float,
    agreement: float | None,
    task: Task,
    where: str,
) -> Difference:
    expected = {}
    for name, images in inputs.items():
        with torch.inference_mode():
            expected[name] = model(images).numpy()
        if outputs[name].shape != expected[name].shape:
            raise GoalNotMet(
                f"the file gives shape {outputs[name].shape} for a {name}{where}, the network {expected[name].shape}"
            )
    if agreement is not None:
        return _agreeing(expected, outputs, agreement, task, where)
    return Difference.largest(_close(name, expected[name], outputs[name], tolerance, where) for name in inputs)


def _difference(expected: np.ndarray, given: np.ndarray) -> Difference:
    absolute = float(np.abs(given.astype(np.float64) - expected).max())
    largest_output = float(np.abs(expected).max())
    return Difference(absolute, absolute / max(1.0, largest_output), largest_output)


def _close(name: str, expected: np.ndarray, given: np.ndarray, tolerance: float, where: str) -> Difference:
    found = _difference(expected, given)
    if not (found.relative < tolerance or found.absolute == 0):  # NaN is not below anything
        allowed = f"allowed is less than {tolerance:.1e}" if tolerance > 0 else "nothing is allowed"
        raise GoalNotMet(
            f"the file and the network differ by {found.absolute:.1e} for a {name}{where} ({found.relative:.1e} "
            f"relative to the largest output, at least 1); {allowed}"
        )
    return found


def _agreeing(
    expected: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], limit: float, task: Task, where: str
) -> Difference:
    """Whether both decide alike. The inputs are real_inputs: small batches, then all of them in chunks."""
    chunks = [name for name in expected if name.startswith("chunk")]
    network, file = (np.concatenate([every[name] for name in chunks]) for every in (expected, outputs))
    if network.ndim < 2:
        raise BootcampError(f"export: the network gives shape {network.shape}, and one score a class is needed.")
    found = _difference(network, file)
    if not np.isfinite(found.absolute):
        raise GoalNotMet(f"the file gives values that are not finite{where}")
    chosen, right = (task.decisions(torch.from_numpy(given)) for given in (file, network))
    share = float((chosen == right).double().mean())
    if share < limit:
        raise GoalNotMet(
            f"the file and the network decide alike in {share:.2%} of {len(network)} real inputs{where}; "
            f"they must in at least {limit:.2%} (export.agreement; a network that is hardly trained falls short first)"
        )
    for name in expected.keys() - set(chunks):
        size = len(outputs[name])
        if not torch.equal(task.decisions(torch.from_numpy(outputs[name])), chosen[torch.arange(size) % len(chosen)]):
            raise GoalNotMet(f"the file decides otherwise for a {name}{where} than for the same inputs in others")
    classes = len(right.unique(dim=0))
    return replace(found, agreement=share, images=len(network), classes=classes, outputs=torch.from_numpy(file))
