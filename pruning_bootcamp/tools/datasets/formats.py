"""Readers of the standard data files: CIFAR's Python batches and MNIST's idx files. Nothing arbitrary is unpickled."""

import gzip
import io
import math
import pickle
import pickletools
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning_bootcamp.errors import BootcampError

# The largest standard file has 0.16 GB. What is announced beyond that is refused before memory is taken.
MOST_BYTES = 2**30
_MOST_DIMENSIONS = 4

BROKEN_PICKLE = (
    *(pickle.UnpicklingError, AttributeError, EOFError, ImportError, LookupError, TypeError, ValueError),
    *(OverflowError, MemoryError, RecursionError),
)


class _Refused(pickle.UnpicklingError):
    """The file asks for something that a batch of images has no use for."""


class _DType:
    """Stands in for numpy.dtype in a pickle; CIFAR's arrays are uint8."""

    def __init__(self, code: str, *_flags: object) -> None:
        if code not in ("u1", "|u1", "uint8"):
            raise _Refused(f"an array of {code!r}, not of bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order and such: bytes have none."""


class _Array:
    """Stands in for numpy.ndarray: keeps the shape and the bytes, so that none of numpy's own unpickling runs."""

    def __init__(self, *_empty: object) -> None:
        self.values = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, _dtype, fortran, raw = state
        content = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)  # text: pickled by Python 2
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


def _from_buffer(raw: bytes, _dtype: _DType, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, _dtype, order == "F", raw))
    return array


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"text in {encoding!r}")
    return text.encode("latin1")


class _BatchUnpickler(pickle.Unpickler):
    """Gives numbers, text, lists, dictionaries and byte arrays; everything else is refused before it is imported."""

    ALLOWED = {  # noqa: RUF012  a constant
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
        ("_codecs", "encode"): _encode,
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"it would run {module}.{name}") from None


def read_batch(path: Path) -> dict[str, Any]:
    """The dictionary in a CIFAR batch file, arrays as uint8. BootcampError when it is damaged or not only data."""
    try:
        raw = _whole(path)
        _check_memo(raw)
        content = _BatchUnpickler(io.BytesIO(raw), encoding="latin1").load()
    except _Refused as refused:
        raise BootcampError(
            f"{path}: refused: {refused}. A CIFAR batch holds images and labels only; delete the file and get it again."
        ) from None
    except OSError as error:
        raise BootcampError(f"{path}: can't be read ({error.strerror or error}).") from None
    except BROKEN_PICKLE as error:
        raise BootcampError(f"{path}: is damaged ({error}). Delete it and get it again.") from None
    if not isinstance(content, dict):
        raise BootcampError(f"{path}: is not a CIFAR batch (it holds {type(content).__name__}, not a dictionary).")
    return {_text(key): value.values if isinstance(value, _Array) else value for key, value in content.items()}


def _whole(path: Path) -> bytes:
    with open(path, "rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(f"more than {MOST_BYTES:,} bytes")
    return content


def _check_memo(raw: bytes) -> None:
    """A pickle numbers what it comes back to, and Python takes memory up to the highest number: 5 bytes, 34 GB."""
    for opcode, number, _ in pickletools.genops(raw):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(number or 0) > len(raw):
            raise _Refused(f"it numbers a value {number}, and has {len(raw)} bytes")


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def read_cifar(path: Path, label_key: str, classes: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, 3, 32, 32] and labels [n] of one batch file."""
    content = read_batch(path)
    data, labels = content.get("data"), content.get(label_key)
    if not isinstance(data, np.ndarray) or not isinstance(labels, list):
        raise BootcampError(f"{path}: lacks 'data' or '{label_key}'; it holds {', '.join(content) or 'nothing'}.")
    if data.ndim != 2 or data.shape[1] != 3 * 32 * 32 or len(data) != len(labels):
        raise BootcampError(f"{path}: data of shape {data.shape} and {len(labels)} labels, not n x 3072 and n.")
    if not all(type(label) is int and 0 <= label < classes for label in labels):
        raise BootcampError(f"{path}: has labels that are not whole numbers from 0 to {classes - 1}.")
    images = torch.from_numpy(np.ascontiguousarray(data).reshape(-1, 3, 32, 32).copy())
    return images, torch.tensor(labels, dtype=torch.long)


def read_idx(path: Path) -> Tensor:
    """uint8 tensor from an idx file, plain or .gz (the format is described at yann.lecun.com/exdb/mnist)."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            head = stream.read(4)
            zeros, kind, dimensions = struct.unpack(">HBB", head)
            if zeros != 0 or kind != 8 or dimensions > _MOST_DIMENSIONS:
                raise BootcampError(f"{path}: is not an idx file of bytes (it starts with {head.hex(' ')}).")
            shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
            announced = math.prod(shape)
            if announced > MOST_BYTES:
                raise BootcampError(f"{path}: announces {announced:,} bytes, and {MOST_BYTES:,} are the most.")
            content = stream.read(announced + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise BootcampError(f"{path}: can't be read as an idx file ({error}). Delete it and get it again.") from None
    if len(content) != announced:
        there = f"only {len(content)}" if len(content) < announced else "more"
        raise BootcampError(
            f"{path}: {there} bytes, where {' x '.join(map(str, shape))} are announced. Delete it and get it again."
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape).copy())
