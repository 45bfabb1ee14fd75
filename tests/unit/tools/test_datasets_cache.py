"""Images are decoded once; a cache that is stale, damaged or can't be written costs time, never a result."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pruning_bootcamp.runs import cache_folder
from pruning_bootcamp.tools.datasets import ImageSplit, Splits, load_dataset


def opened(root: Path) -> Splits:
    return load_dataset("imagefolder", root=root, args={"size": 28, "resize": 32})


def pictures(splits: Splits) -> torch.Tensor:
    assert isinstance(splits.test, ImageSplit)
    return splits.test.images


def decoded(caplog: pytest.LogCaptureFixture) -> int:
    """How many folders were decoded since the last call."""
    count = sum("images decoded in" in record.getMessage() for record in caplog.records)
    caplog.clear()
    return count


@pytest.fixture
def root(disk: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    caplog.set_level(logging.INFO, logger="pruning_bootcamp")
    disk.write_tree(tmp_path / "pictures", {"train": 6, "test": 2}, sizes=((40, 32),))
    return tmp_path / "pictures"


def files() -> list[Path]:
    return sorted((cache_folder() / "images").iterdir())


def test_the_second_time_nothing_is_decoded(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = opened(root)
    assert decoded(caplog) == 2
    assert [path.name.rpartition("-")[0] for path in files()] == ["pictures-test", "pictures-train"]
    second = opened(root)
    assert decoded(caplog) == 0
    assert torch.equal(pictures(first), pictures(second))
    assert torch.equal(first.train.labels, second.train.labels)


def test_other_settings_have_a_file_of_their_own(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened(root)
    load_dataset("imagefolder", root=root, args={"size": 28, "resize": 30})
    assert decoded(caplog) == 4
    assert len(files()) == 4


@pytest.mark.parametrize("change", ["content", "new", "gone", "renamed"])
def test_a_changed_folder_is_decoded_again_and_replaces_its_file(
    root: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    before = pictures(opened(root))
    decoded(caplog)
    one, other = root / "test" / "apple" / "0.png", root / "test" / "banana" / "0.png"
    if change == "content":
        one.write_bytes(other.read_bytes())
    elif change == "new":
        (root / "test" / "apple" / "new.png").write_bytes(other.read_bytes())
    elif change == "gone":
        one.unlink()
    else:
        one.rename(one.with_name("9.png"))
    after = pictures(opened(root))
    assert decoded(caplog) == 1  # test, not train
    assert len(after) == len(before) + {"new": 1, "gone": -1}.get(change, 0)
    assert not torch.equal(after[:1], before[:1]) or change == "new"
    assert len(files()) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_rebuilt(root: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    before = pictures(opened(root))
    path = next(path for path in files() if "test" in path.name)
    good = path.read_bytes()
    middle = len(good) // 2
    path.write_bytes(
        {
            "cut": good[:middle],
            "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "empty": b"",
            "text": b"not a tensor",
        }[damage]
    )
    caplog.clear()
    assert torch.equal(pictures(opened(root)), before)
    assert "cache" in caplog.text
    assert decoded(caplog) == 1
    assert torch.equal(pictures(opened(root)), before)
    assert decoded(caplog) == 0  # mended


def test_a_folder_that_cannot_be_written_costs_a_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("a file, where a folder would be made")
    monkeypatch.setenv("PRUNING_BOOTCAMP_CACHE", str(tmp_path / "file" / "cache"))
    assert len(pictures(opened(root))) == 6
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "Set PRUNING_BOOTCAMP_CACHE to a folder that can be written" in warnings[0].getMessage()


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a Unix thing")
def test_a_full_disk_costs_a_line_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    program = f"""
import logging, resource
logging.basicConfig(level=logging.WARNING, format="%(message)s")
from pruning_bootcamp.tools.datasets import load_dataset
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
print(len(load_dataset("imagefolder", root={str(root)!r}, args={{"size": 28, "resize": 32}}).test))
"""
    environment = {**os.environ, "PRUNING_BOOTCAMP_CACHE": str(tmp_path / "full"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "6"
    assert "decoded images not kept" in done.stderr
    assert list((tmp_path / "full" / "images").iterdir()) == []


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNING_BOOTCAMP_CACHE", "/here")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/here")
    monkeypatch.delenv("PRUNING_BOOTCAMP_CACHE")
    assert cache_folder() == Path("/xdg/pruning_bootcamp")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "pruning_bootcamp"
