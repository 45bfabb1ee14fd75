"""What a checkpoint file claims against what it is: sizes before memory is taken, content before it is used."""

import contextlib
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pruning_bootcamp.errors import BootcampError

_LARGEST_HEADER = 100_000_000  # bytes; the safetensors library's own limit
_MOST_VALUES = 2_000_000
_DEEPEST = 64
# What a file may have built: its own size so many times (pruning made it smaller), or a network of this many bytes.
_PRUNED_AT_MOST, _ALWAYS_ALLOWED = 200, 2**31
_MOST_TENSORS = 20_000


def check_header(path: Path) -> None:
    """What the file's first or last bytes announce is there. BootcampError before anything is unpacked or allocated."""
    with open(path, "rb") as stream:
        head = stream.read(8)
        size = path.stat().st_size
        if path.suffix == ".safetensors":
            announced = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if announced > min(size, _LARGEST_HEADER):
                raise BootcampError(
                    f"{path}: is damaged: it announces a header of {announced:,} bytes, and the file has {size:,}."
                )
        elif head.startswith(b"PK"):
            _check_archive(path, size)


def _check_archive(path: Path, size: int) -> None:
    """torch.save stores and never compresses: entries are together no larger than the file. Else it is a zip bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        raise BootcampError(f"{path}: is damaged ({error}). Fetch or make it again.") from error
    # an archive behind other bytes is read here and by torch at different places: they might see different entries
    if entries and min(entry.header_offset for entry in entries) != 0:
        raise BootcampError(f"{path}: is damaged (its archive does not begin where the file does). Make it again.")
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):  # its code is compressed
        raise BootcampError(f"{path}: is an exported TorchScript file, not a checkpoint.")
    announced = sum(entry.file_size for entry in entries)
    if announced > size:
        raise BootcampError(
            f"{path}: refused: it has {size:,} bytes and would unpack to {announced:,}. A checkpoint is never "
            "compressed; was it made by torch.save?"
        )


def check_content(content: Any, most_bytes: int | None = None) -> None:
    """Few enough values, not too deep, dense tensors only; with `most_bytes`, they take no more memory than that.

    A pickle of a few hundred bytes can hold a list inside itself, or stand for 10^9 values; a tensor can repeat one
    number 10^12 times. BootcampError, without the file's name.
    """
    storages: dict[int, int] = {}
    count = 0

    def look(value: Any, depth: int) -> None:
        nonlocal count
        count += 1
        if depth > _DEEPEST:
            raise BootcampError(f"nests deeper than {_DEEPEST} levels, which no checkpoint does.")
        if count > _MOST_VALUES:
            raise BootcampError(f"stands for more than {_MOST_VALUES:,} values, which no checkpoint does.")
        if isinstance(value, Mapping):
            for key, entry in value.items():
                look(key, depth + 1)
                look(entry, depth + 1)
        elif isinstance(value, list | tuple | set):
            for entry in value:
                look(entry, depth + 1)
        elif isinstance(value, Tensor):
            _check_dense(value)
            storages[value.untyped_storage()._cdata] = value.untyped_storage().nbytes()
        elif isinstance(value, torch.UntypedStorage | torch.TypedStorage | bytes | bytearray):
            storages[id(value)] = len(value) if isinstance(value, bytes | bytearray) else value.nbytes()

    look(content, 0)
    if most_bytes is not None and sum(storages.values()) > most_bytes:
        raise BootcampError(
            f"is damaged: its tensors claim {sum(storages.values()):,} bytes, and the file has {most_bytes:,}."
        )


def _check_dense(tensor: Tensor) -> None:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_nested:
        raise BootcampError(f"holds a {type(tensor).__name__} of layout {tensor.layout}; plain tensors only, please.")
    if tensor.is_quantized or tensor.device.type != "cpu":
        raise BootcampError(f"holds a tensor of {tensor.dtype} on '{tensor.device}'; plain tensors only, please.")
    bytes_claimed = tensor.numel() * tensor.element_size()
    if bytes_claimed > max(tensor.untyped_storage().nbytes(), 2**24):
        raise BootcampError(
            f"is damaged: a tensor of shape {tuple(tensor.shape)} claims {bytes_claimed:,} bytes and has "
            f"{tensor.untyped_storage().nbytes():,}."
        )


@contextlib.contextmanager
def bounded_building(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, a network for these tensors is built; BootcampError once it outgrows what they can be a pruned part of.

    Who writes `classes: 10 ** 12` into a file must not have the reader fill its memory.
    """
    found = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with _Building(max(_ALWAYS_ALLOWED, _PRUNED_AT_MOST * found), found):
        yield


class _Building(TorchDispatchMode):
    """Adds up what torch is asked to create, and refuses before the first byte too many."""

    def __init__(self, most_bytes: int, found: int) -> None:
        super().__init__()
        self.most_bytes, self.found, self.bytes, self.tensors = most_bytes, found, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], list | tuple) and all(type(side) is int for side in args[0]):
            dtype = (kwargs or {}).get("dtype") or torch.get_default_dtype()
            self.bytes += math.prod(args[0]) * dtype.itemsize
            self.tensors += 1
        if self.bytes > self.most_bytes or self.tensors > _MOST_TENSORS:
            raise BootcampError(
                f"its recipe builds a network of {self.bytes:,} bytes or more in {self.tensors:,} tensors, and the "
                f"file holds {self.found:,} bytes of weights: they can't belong together. Make the file again."
            )
        return func(*args, **(kwargs or {}))
