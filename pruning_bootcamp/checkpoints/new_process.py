"""A checkpoint opened in a new Python, under other seeds and another order of sets: it must give the same network."""

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NoReturn

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
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from pruning_bootcamp.checkpoints.new_process import serve; serve()"
)
_servers: dict[int, subprocess.Popen[str]] = {}
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
    code, lines = _opened(path)
    if code == 0:
        return
    told = next((line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)), None)
    if told is not None:
        raise BootcampError(*(f"opened in a new process: {problem}" for problem in json.loads(told)))
    last = lines[-1] if lines else f"exit code {code}"
    raise BootcampError(f"{path}: a new process can't open it ({last}).")


def _opened(path: Path) -> tuple[int, list[str]]:
    """The exit code of the process that opened the file, and what it printed."""
    request = {
        "path": str(path.resolve()),
        "places": [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)],
        "folder": os.getcwd(),
        "environment": {**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        "threads": torch.get_num_threads(),
    }
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        ready, _, _ = select.select([server.stdout], [], [], _SECONDS)
        answer = server.stdout.readline() if ready else None
    except (BrokenPipeError, KeyboardInterrupt):
        _stop(server)
        raise
    if answer is None:
        _stop(server)
        raise BootcampError(f"{path}: a new process did not open it within {_SECONDS} s.")
    if not answer:
        _stop(server)
        raise BootcampError(f"{path}: the process that should open it ended. Is there enough memory?")
    code, text = json.loads(answer)
    return code, text.strip().splitlines()


def _server() -> subprocess.Popen[str]:
    """A Python that has imported what opens a checkpoint, and nothing of the user's; it forks for each file.

    It ends when this process does. Importing torch takes longer than opening most files.
    """
    known = _servers.get(os.getpid())  # a fork of ours must not write to ours
    if known is not None and known.poll() is None:
        return known
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "101" if os.environ.get("PYTHONHASHSEED") != "101" else "102",
        "CUDA_VISIBLE_DEVICES": "",
    }
    places = json.dumps([os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)])
    _servers[os.getpid()] = started = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, places],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # an interrupt at the keyboard is for us
    )
    atexit.register(_stop, started)
    return started


def _stop(server: subprocess.Popen[str]) -> None:
    if _servers.get(os.getpid()) is not server:
        return  # a fork of ours ends, and the server is not its own
    del _servers[os.getpid()]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.communicate()


def serve() -> None:
    """In the server: one line of JSON in, a fork that opens the file, one line with its exit code and text out."""
    importlib.import_module("torch._dynamo")  # torch does so when a network is first watched: once is enough
    for line in sys.stdin:
        with tempfile.TemporaryFile() as printed:
            child = os.fork()
            if child == 0:
                _in_child(json.loads(line), printed.fileno())
            _, status = os.waitpid(child, 0)
            printed.seek(0)
            text = printed.read().decode(errors="replace")
        print(json.dumps([os.waitstatus_to_exitcode(status), text]), flush=True)


def _in_child(request: dict[str, Any], printed: int) -> NoReturn:
    code = 1
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, source in ((0, nothing), (1, printed), (2, printed)):
            os.dup2(source, descriptor)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        sys.path[:] = request["places"]
        importlib.invalidate_caches()
        torch.set_num_threads(request["threads"])
        _main(request["path"])
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        if code == 1 and sys.exc_info()[1] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _main(path: str) -> None:
    """The new process: says what is wrong on its standard output."""
    seed_everything(_SEED)
    try:
        load_checkpoint(path, trust_code=True)
    except BootcampError as error:
        print(_MARK + json.dumps([str(problem).removeprefix(f"{path}: ") for problem in error.problems]))
        sys.exit(error.exit_code)
