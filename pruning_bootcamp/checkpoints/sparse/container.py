"""The file around index and data: safetensors with a mark, a version and a checksum."""

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pruning_bootcamp.checkpoints.sparse.coding import deflated, inflated
from pruning_bootcamp.checkpoints.sparse.encodings import DamagedError
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain

MARK, VERSION = "pruning_bootcamp.sparse", "1"
_CHECK = "<II"  # before the deflated JSON: its length, and the CRC-32 of it and the data
_LARGEST_INDEX = 2**26


def write_container(path: Path, content: Mapping[str, Plain], data: bytes) -> None:
    """Write index and data to `path` as safetensors, with a CRC-32 of both; the same content is the same bytes."""
    from safetensors.numpy import save

    index = json.dumps(content, separators=(",", ":")).encode()
    stored = deflated(index)
    check = struct.pack(_CHECK, len(index), _crc(stored, data))
    parts = {"data": np.frombuffer(data, np.uint8), "index": np.frombuffer(check + stored, np.uint8)}
    path.write_bytes(save(parts, {"format": f"{MARK}/{VERSION}"}))  # one entry: of several, the order would be random


def read_container(path: Path) -> tuple[dict[str, Plain], bytes]:
    """(index, data) of the file, whole and unchanged since it was written."""
    import safetensors

    try:
        with safetensors.safe_open(path, "numpy") as file:
            mark, _, version = (file.metadata() or {}).get("format", "").partition("/")
            names = set(file.keys()) & {"index", "data"}
            # NumPy has no type for some that a header can name (F8_E4M3), and get_tensor then fails in its own way
            parts = {name: file.get_tensor(name) for name in names if file.get_slice(name).get_dtype() == "U8"}
    except FileNotFoundError:
        raise BootcampError(f"{path}: there is no such file.") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise BootcampError(f"{path}: can't be read as safetensors ({error}).") from error
    if mark != MARK:
        raise BootcampError(f"{path}: is no sparse file (its metadata do not say format={MARK}).")
    if version != VERSION:
        raise BootcampError(f"{path}: has version {version:.20}; this release reads {VERSION}. Update it.")
    if len(parts) != 2 or any(part.dtype != np.uint8 or part.ndim != 1 for part in parts.values()):
        raise DamagedError("its parts are not 'index' and 'data'")
    if not _padded_with_spaces(path):
        raise DamagedError("behind its header is something other than spaces")
    index, data = parts["index"].tobytes(), parts["data"].tobytes()
    head = struct.calcsize(_CHECK)
    if len(index) < head:
        raise DamagedError("its index is cut off")
    length, crc = struct.unpack(_CHECK, index[:head])
    if crc != _crc(index[head:], data):
        raise DamagedError("its checksum is wrong")
    if length > _LARGEST_INDEX:
        raise DamagedError(f"its index claims {length:,} bytes")
    try:
        content = json.loads(inflated(index[head:], length))
    except (ValueError, RecursionError) as error:  # a DamagedError too
        raise DamagedError(f"its index: {error}") from error
    if not isinstance(content, dict):
        raise DamagedError("its index is no table")
    return content, data


def is_sparse(path: Path) -> bool:
    """Whether the file says that `write_sparse` made it. False for anything else, readable or not."""
    import safetensors

    try:
        with safetensors.safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("format", "").startswith(f"{MARK}/")
    except (OSError, safetensors.SafetensorError):
        return False


def _padded_with_spaces(path: Path) -> bool:
    """Whether nothing but spaces fills the header up, as the format asks; any blank of JSON's is read, unnoticed."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return file.read(length).rstrip(b" ").endswith(b"}")


def _crc(*parts: bytes) -> int:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc
