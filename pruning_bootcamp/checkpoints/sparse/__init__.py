"""Sparse files: named tensors in one small safetensors file, each in the smallest of several exact encodings.

The file holds two byte tensors. `index` is deflated JSON: a row a tensor (name, dtype, shape, layout), the metadata,
and the sizes of the pieces that `data` is cut into. Tensors that share a piece are a group: a large one is alone, all
small ones are together. Pieces are, per group: positions of bitmasks, positions of N:M, then the values' bytes, first
all lowest bytes, last all highest (a float's exponents deflate well, the rest hardly). A piece that is shorter in the
file than it must be is deflated.
"""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning_bootcamp.checkpoints.sparse.coding import Coded, bytes_of, coded_tensor, layout_row, stored_pieces
from pruning_bootcamp.checkpoints.sparse.container import is_sparse, read_container, write_container
from pruning_bootcamp.checkpoints.sparse.decoding import Encoding, decoded
from pruning_bootcamp.checkpoints.sparse.encodings import DamagedError, from_int8, to_int8
from pruning_bootcamp.checkpoints.sparse.index import (
    DTYPES,
    LARGEST_RANK,
    checked_metadata,
    checked_rows,
    checked_sizes,
)
from pruning_bootcamp.errors import BootcampError, unknown
from pruning_bootcamp.plain import Plain

__all__ = ["Encoding", "SparseFile", "is_sparse", "read_sparse", "rounded", "write_sparse"]

_SMALL_BYTES = 1024  # a tensor whose stored layout is smaller shares its pieces with others
# Decoded, a file is at most this large or so many times its own size: more is no network, but a trap.
_ALWAYS_ALLOWED, _LARGEST_RATIO = 2**28, 1000


@dataclass(frozen=True)
class SparseFile:
    """What a sparse file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    encodings: dict[str, Encoding]


def write_sparse(
    path: Path, tensors: Mapping[str, Tensor], *, int8: Collection[str] = (), metadata: Mapping[str, str] | None = None
) -> None:
    """Write the tensors to exactly `path`; each comes back bit for bit, but those named in `int8`, which are rounded.

    A rounded weight, float32, has 255 levels of its own in each entry of its first dimension (`to_int8`); its zeros
    stay zeros, and it comes back as `rounded` gives it. Equal tensors are stored once. Writing in one go, under the
    final name, is the caller's task. BootcampError for a tensor that can't be kept.
    """
    _check_int8(tensors, int8)
    rows: list[Plain] = []
    small: list[Coded] = []
    stored: list[list[bytes]] = [[]]  # the pieces of each group; of the first, the small ones, when all are known
    seen: dict[tuple[Any, ...], int] = {}
    for name, tensor in tensors.items():
        _check_can_be_kept(name, tensor)
        plain = tensor.detach().cpu().contiguous()
        row: dict[str, Any] = {"name": name, "dtype": str(plain.dtype).removeprefix("torch."), "shape": [*plain.shape]}
        row |= {"int8": True} if name in int8 else {}
        key = (row["dtype"], *row["shape"], "int8" in row, hashlib.blake2b(bytes_of(plain).tobytes()).digest())
        if key in seen:
            rows.append(row | {"kind": "same", "of": seen[key]})
            continue
        seen[key] = len(rows)
        coded, pieces = coded_tensor(plain, name in int8)
        if coded.length < _SMALL_BYTES:
            small.append(coded)
        else:
            stored.append(pieces)
        rows.append(row | layout_row(coded.layout) | {"group": 0 if coded.length < _SMALL_BYTES else len(stored) - 1})
    stored[0] = stored_pieces(small)
    content: dict[str, Plain] = {"rows": rows, "sizes": [[len(piece) for piece in group] for group in stored]}
    data = b"".join(piece for group in stored for piece in group)
    dense = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if dense > _allowed(len(data)):
        raise BootcampError(
            f"{dense:,} bytes of tensors shrink to {len(data):,}: more than {_LARGEST_RATIO} times smaller, which "
            "reading refuses as a trap. Is there a trained weight in them?"
        )
    write_container(path, content | {"metadata": dict(metadata or {})}, data)


def read_sparse(path: Path) -> SparseFile:
    """The tensors in a file of `write_sparse`, on the CPU, none sharing memory with another. BootcampError if damaged.

    Nothing in the file is believed: each size is checked against the bytes that are there before memory is taken.
    """
    try:
        content, data = read_container(path)
        metadata = checked_metadata(content)
        rows = checked_rows(content, _allowed(path.stat().st_size))
        tensors, encodings = decoded(rows, checked_sizes(content), data)
    except DamagedError as damage:
        raise BootcampError(f"{path}: is a damaged sparse file ({damage}). Fetch or make it again.") from damage
    except MemoryError:
        raise BootcampError(f"{path}: its tensors do not fit in this machine's memory.") from None
    return SparseFile(tensors, metadata, encodings)


def rounded(weight: Tensor) -> Tensor:
    """The float32 weight as it comes back after `write_sparse(..., int8=...)`."""
    return torch.from_numpy(from_int8(*to_int8(weight.detach().cpu().contiguous().numpy())))


def _check_can_be_kept(name: str, tensor: Tensor) -> None:
    if str(tensor.dtype).removeprefix("torch.") not in DTYPES or tensor.layout != torch.strided:
        raise BootcampError(f"{name}: a tensor of {tensor.dtype}, {tensor.layout} can't be kept in a sparse file.")
    if tensor.dim() > LARGEST_RANK or math.prod(max(side, 1) for side in tensor.shape) >= 2**60:
        raise BootcampError(f"{name}: the shape {tuple(tensor.shape)} can't be kept in a sparse file.")


def _check_int8(tensors: Mapping[str, Tensor], int8: Collection[str]) -> None:
    problems = []
    for name in int8:
        if name not in tensors:
            problems.append(f"int8: {unknown('tensor', name, tensors)}")
        elif tensors[name].dtype != torch.float32 or tensors[name].dim() == 0:
            problems.append(f"int8: {name} is {tensors[name].dtype}, {tensors[name].dim()}-d; only float32 is rounded.")
        elif not bool(torch.isfinite(tensors[name]).all()):
            problems.append(f"int8: {name} holds values that are not finite.")
    if problems:
        raise BootcampError(*problems)


def _allowed(file_bytes: int) -> int:
    return max(_ALWAYS_ALLOWED, _LARGEST_RATIO * file_bytes)
