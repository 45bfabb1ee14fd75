"""Shared by every test: the machine's threads kept low, and where real data may be."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # several share the machine, and threads of more than there are cores wait for each other; the one that starts the
    # workers has set 2 in their environment
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")


import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(autouse=True)
def _same_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test starts from the same random state, and writes its decoded images to a folder of its own."""
    torch.manual_seed(0)
    monkeypatch.setenv("PRUNING_BOOTCAMP_CACHE", str(tmp_path / "cache"))


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
