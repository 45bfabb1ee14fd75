"""A checkpoint opened in a new Python, under other seeds and another order of sets: it must give the same network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from pruning_bootcamp.checkpoints import load_checkpoint, save_checkpoint
from pruning_bootcamp.checkpoints.recipe import Recipe
from pruning_bootcamp.checkpoints.reload import check_builder
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import factory_file, is_factory
from pruning_bootcamp.plugins import is_offered
from pruning_bootcamp.runs import content_hash, scratch_folder
from pruning_bootcamp.runtime import seed_everything

_SECONDS, _SEED = 600, 31
_MARK = "pruning_bootcamp: "
# Modules are looked for where this process finds them, the user's own among them.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from pruning_bootcamp.checkpoints.new_process import _main; _main(sys.argv[1])"
)
_proved: set[tuple[str, str, str]] = set()


def check_rebuilds(model: torch.nn.Module, recipe: Recipe) -> None:
    """BootcampError when a reload of this network would give another one, before any work is done with it.

    It is rebuilt here under other seeds; one of the user's own (`module:factory`) in a new process too, once for each
    factory and its arguments: what a file draws when it is imported differs only there.
    """
    network = check_builder(model, recipe)
    if not is_factory(recipe.model) or is_offered(recipe.model):
        return
    key = (
        recipe.model,
        repr((recipe.args, recipe.classes, recipe.input_shape)),
        content_hash(factory_file(recipe.model)),
    )
    if key in _proved:
        return
    with scratch_folder() as folder:
        path = folder / "network.pth"
        save_checkpoint(path, network, recipe)
        check_file(path)
    _proved.add(key)


def check_saved(path: Path, recipe: Recipe) -> None:
    """BootcampError, and no file, when a new process opens another network of a `module:factory` than was saved."""
    if not is_factory(recipe.model) or is_offered(recipe.model):
        return  # save_checkpoint has opened it again, and our builders draw nothing at import
    try:
        check_file(path)
    except BootcampError:
        path.unlink(missing_ok=True)
        raise


def check_file(path: Path) -> None:
    """Open the file in a new process; its own proof is checked there."""
    places = json.dumps([os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONHASHSEED": "101" if os.environ.get("PYTHONHASHSEED") != "101" else "102",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-c", _PROGRAM, str(path.resolve()), places]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise BootcampError(f"{path}: a new process did not open it within {_SECONDS} s.") from None
    if done.returncode == 0:
        return
    lines = (done.stdout + done.stderr).strip().splitlines()
    told = next((line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)), None)
    if told is not None:
        raise BootcampError(*(f"opened in a new process: {problem}" for problem in json.loads(told)))
    last = lines[-1] if lines else f"exit code {done.returncode}"
    raise BootcampError(f"{path}: a new process can't open it ({last}).")


def _main(path: str) -> None:
    """The new process: says what is wrong on its standard output."""
    seed_everything(_SEED)
    try:
        load_checkpoint(path, trust_code=True)
    except BootcampError as error:
        print(_MARK + json.dumps([str(problem).removeprefix(f"{path}: ") for problem in error.problems]))
        sys.exit(error.exit_code)
