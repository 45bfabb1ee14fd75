"""Readers of CIFAR batches and idx files: exact on good files, and never more than a reader on bad ones."""

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.datasets.formats import read_batch, read_cifar, read_idx


class Hostile:
    """Would make a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def python2_batch(data: np.ndarray, labels: list[int]) -> bytes:
    """The bytes that Python 2's cPickle wrote, opcode by opcode: text and arrays as byte strings (U and T)."""

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    raw = data.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + short(b"b") + b"tR"
    shape = b"(M" + struct.pack("<H", data.shape[0]) + b"M" + struct.pack("<H", data.shape[1]) + b"t"
    dtype = b"cnumpy\ndtype\n(" + short(b"u1") + b"K\x00K\x01tR(K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ"
    dtype += b"\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<I", len(raw)) + raw + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + short(b"data") + array + state + short(b"labels") + numbers + b"u."


def test_the_python_2_form_of_the_published_files_is_read(disk: ModuleType, tmp_path: Path) -> None:
    data = disk.pixels(4, 3072)
    content = python2_batch(data, [3, 0, 9, 9])
    theirs = pickle.loads(content, encoding="latin1")
    assert np.array_equal(theirs["data"], data)  # the bytes made here are what numpy reads
    (tmp_path / "data_batch_1").write_bytes(content)
    images, labels = read_cifar(tmp_path / "data_batch_1", "labels", 10)
    assert np.array_equal(images.numpy().reshape(4, 3072), data)
    assert labels.tolist() == [3, 0, 9, 9]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_protocol_and_layout_gives_the_same_pixels(
    disk: ModuleType, tmp_path: Path, protocol: int, order: Any
) -> None:
    data = np.asarray(disk.pixels(3, 3072), order=order)
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({b"data": data, b"labels": [1, 2, 3]}, protocol=protocol))
    images, labels = read_cifar(path, "labels", 10)
    assert images[1, 2, 5, 7] == data[1, 2 * 1024 + 5 * 32 + 7]  # channel, row, column
    assert np.array_equal(images.numpy().reshape(3, 3072), data)
    assert labels.tolist() == [1, 2, 3]


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_hostile_batch_is_refused_and_does_nothing(tmp_path: Path, protocol: int) -> None:
    path, made = tmp_path / "data_batch_1", tmp_path / "made"
    path.write_bytes(pickle.dumps({"data": Hostile(made), "labels": []}, protocol=protocol))
    with pytest.raises(BootcampError, match=r"data_batch_1: refused: it would run (posix|nt)\.mkdir"):
        read_batch(path)
    assert not made.exists()
    pickle.loads(path.read_bytes())
    assert made.exists()  # the file was dangerous


@pytest.mark.parametrize(
    "value", [np.zeros(3), np.array(["a"]), np.array([{}], dtype=object), np.zeros(2, dtype="u1,i4"), np.float64(1)]
)
def test_arrays_other_than_bytes_are_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": value}))
    with pytest.raises(BootcampError, match="refused"):
        read_batch(path)


def test_damaged_batches_are_named(disk: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "batch"
    disk.write_batch(path, disk.pixels(2, 3072), [0, 1], "labels")
    good = path.read_bytes()
    for length in (0, 1, 20, 100, 3000, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(BootcampError, match="batch: is damaged"):
            read_batch(path)
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(300):  # whatever the damage, a message or an image, never another exception
        damaged = bytearray(good[:150] + good[-150:])
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            read_cifar(path, "labels", 10)
        except BootcampError:
            read += 1
    assert read > 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "not a CIFAR batch"),
        ({"labels": [1]}, "lacks 'data' or 'labels'; it holds labels"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "1 labels"),
        ({"data": np.zeros((2, 1024), np.uint8), "labels": [1, 2]}, r"shape \(2, 1024\)"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "from 0 to 9"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["cat"]}, "from 0 to 9"),
    ],
)
def test_a_batch_that_is_none_says_why(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(BootcampError, match=message):
        read_cifar(path, "labels", 10)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_come_back_exactly(disk: ModuleType, tmp_path: Path, suffix: str) -> None:
    for values in (disk.pixels(5, 28, 28), np.arange(7, dtype=np.uint8)):
        disk.write_idx(tmp_path / f"values{suffix}", values)
        assert np.array_equal(read_idx(tmp_path / f"values{suffix}").numpy(), values)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_idx_files_are_named(disk: ModuleType, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"values{suffix}"
    disk.write_idx(path, disk.pixels(5, 28, 28))
    good = path.read_bytes()
    for content in (b"", good[:3], good[: len(good) // 2], good[:-1], b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(BootcampError, match="values"):
            read_idx(path)
