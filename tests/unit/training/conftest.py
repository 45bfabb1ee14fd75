"""The small training of training_program.py, as a module and as a program to start."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).with_name("training_program.py")


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """small_net, small_splits, settings, Watch."""
    spec = importlib.util.spec_from_file_location("training_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start_training() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program in a process of its own (or under torchrun, `processes` of them) until it ends."""

    def start(*arguments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        root = PROGRAM.parents[3]
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.run(
            [*command, str(PROGRAM), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return start
