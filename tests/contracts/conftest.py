"""Data set files made on disk, for every test that wants them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

HELPER = Path(__file__).resolve().parents[1] / "dataset_files.py"


@pytest.fixture(scope="session")
def disk() -> ModuleType:
    """The functions of tests/dataset_files.py."""
    spec = importlib.util.spec_from_file_location("dataset_files", HELPER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
