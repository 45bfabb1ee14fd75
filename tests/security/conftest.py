"""For the attacks: the command line in this process, a pickle that shows when it is run, the fuzzer's targets."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]


def _module(path: Path) -> ModuleType:
    name = f"for_security_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def fuzzing() -> ModuleType:
    return _module(TESTS / "security" / "fuzzing.py")


@pytest.fixture(scope="session")
def disk() -> ModuleType:
    return _module(TESTS / "dataset_files.py")


@pytest.fixture
def run() -> Callable[[tuple[str, ...]], tuple[int, str]]:
    """(exit code, everything printed) of a command line."""
    return _module(TESTS / "cli" / "conftest.py").run_command


class Hostile:
    """Unpickled, it makes the folder named here."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Where a folder appears when code out of a file was run."""
    return tmp_path / "owned"


@pytest.fixture
def hostile(marker: Path) -> Hostile:
    return Hostile(marker)
