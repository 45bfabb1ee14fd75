"""Shared by every test: the machine's threads kept low, and where real data may be."""

import functools
import importlib
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

if "PYTEST_XDIST_WORKER" in os.environ:
    # several share the machine, and threads of more than there are cores wait for each other; the one that starts the
    # workers has set 2 in their environment
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")


import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what goes to the background so
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(autouse=True)
def _same_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test starts from the same random state, and writes its decoded images to a folder of its own."""
    torch.manual_seed(0)
    monkeypatch.setenv("PRUNING_BOOTCAMP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _exporters_are_listed_once() -> Iterator[None]:
    """torch makes its list of ONNX functions anew at each export, for longer than a test's small network takes.

    The list is private to torch: where a newer one has it elsewhere, tests take longer, and that is all.
    """
    try:
        registry = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        made = functools.cache(registry.from_torchlib)
    except (ImportError, AttributeError):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "from_torchlib", staticmethod(made))
        yield


@pytest.fixture(scope="session")
def pretending() -> ModuleType:
    """The module tests/pretended_cuda.py."""
    spec = importlib.util.spec_from_file_location("pretended_cuda", REPOSITORY / "tests" / "pretended_cuda.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cuda(pretending: ModuleType) -> Iterator[torch.device]:
    """A CUDA device that isn't there: the test sees what mixing devices does, on the CPU."""
    with pretending.pretended_cuda() as device:
        yield device


@pytest.fixture
def published_resnet20() -> Path:
    path = SHARED / "models" / "resnet20-12fca82f.th"
    if not path.exists():
        pytest.skip(f"the published ResNet-20 checkpoint is not at {path}")
    return path


@pytest.fixture
def cifar10_folder() -> Path:
    path = REPOSITORY / "data" / "cifar10"
    if not path.exists():
        pytest.skip(f"CIFAR-10 is not at {path} (unpack it there to run this test)")
    return path
