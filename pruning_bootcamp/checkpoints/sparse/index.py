"""The index of a sparse file: what it says of each tensor, none of it believed before it is checked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pruning_bootcamp.checkpoints.sparse.encodings import LARGEST_M, DamagedError, Layout
from pruning_bootcamp.plain import Plain

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.bool, torch.complex64, torch.complex128),
    )
}
LARGEST_RANK = 64


@dataclass(frozen=True)
class TensorRow:
    """What the index says of one tensor, checked on its own and against the limit."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    int8: bool
    group: int
    layout: Layout | None
    """None: it is the same as tensor `of`"""
    of: int = 0

    @property
    def size(self) -> int:
        """Items of the tensor, stored or not."""
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Bytes of a stored item."""
        return 1 if self.int8 else self.dtype.itemsize

    @property
    def parts(self) -> list[tuple[int, int]]:
        """(count, width) of its scales and of its values."""
        assert self.layout is not None
        return [(self.shape[0] if self.int8 else 0, 4), (self.layout.count, self.width)]

    @property
    def length(self) -> int:
        """Bytes of its positions and values, inflated."""
        assert self.layout is not None
        return self.layout.position_bytes(self.size) + sum(count * width for count, width in self.parts)


def checked_rows(content: Mapping[str, Plain], allowed: int) -> list[TensorRow]:
    """The index's rows, none claiming what the file's size does not warrant."""
    found = content.get("rows")
    if not isinstance(found, list):
        raise DamagedError("its index has no rows")
    rows: list[TensorRow] = []
    names: set[str] = set()
    total = 0
    for entry in found:
        row = _row(entry, rows)
        if row.name in names:
            raise DamagedError(f"{row.name} is there twice")
        names.add(row.name)
        rows.append(row)
        total += row.size * row.dtype.itemsize
        if total > allowed:
            raise DamagedError(f"it claims to hold more than {allowed:,} bytes, out of proportion to its size")
    return rows


def _row(entry: Any, earlier: Sequence[TensorRow]) -> TensorRow:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise DamagedError("a row of its index has no name")
    name, shape, int8 = entry["name"], entry.get("shape"), entry.get("int8", False)
    known = entry.get("dtype")
    if not isinstance(known, str) or known not in DTYPES or not isinstance(int8, bool):
        raise DamagedError(f"{name}: unknown type {known!r:.40}")
    dtype = DTYPES[known]
    if not isinstance(shape, list) or len(shape) > LARGEST_RANK:
        raise DamagedError(f"{name}: has no shape")
    sides = tuple(_number(side, f"{name}: a side") for side in shape)
    if math.prod(max(side, 1) for side in sides) >= 2**60:
        raise DamagedError(f"{name}: its shape is out of range")
    if int8 and (dtype != torch.float32 or not sides):
        raise DamagedError(f"{name}: int8 values of a {dtype}")
    if entry.get("kind") == "same":
        of = _number(entry.get("of"), f"{name}: the tensor that it equals", len(earlier) - 1)
        original = earlier[of]
        if original.layout is None or (original.dtype, original.shape, original.int8) != (dtype, sides, int8):
            raise DamagedError(f"{name}: can't equal {original.name}")
        return TensorRow(name, dtype, sides, int8, 0, None, of)
    group = _number(entry.get("group"), f"{name}: the group")
    return TensorRow(name, dtype, sides, int8, group, _layout(entry, name, sides))


def _layout(entry: Mapping[str, Plain], name: str, shape: tuple[int, ...]) -> Layout:
    size, kind = math.prod(shape), entry.get("kind")
    if kind == "dense":
        return Layout("dense", size)
    if kind == "bitmask":
        return Layout("bitmask", _number(entry.get("count"), f"{name}: the count", size))
    if kind == "nm":
        m = _number(entry.get("m"), f"{name}: M", LARGEST_M)
        n = _number(entry.get("n"), f"{name}: N", m)
        if m >= 2 and n >= 1 and size % m == 0:
            return Layout("nm", size // m * n, n, m)
    raise DamagedError(f"{name}: has no encoding known here")


def checked_sizes(content: Mapping[str, Plain]) -> list[list[int]]:
    """Bytes of each deflated piece, a list a group. Raises DamagedError where the index does not say so."""
    sizes = content.get("sizes")
    groups = [group for group in sizes if isinstance(group, list)] if isinstance(sizes, list) else []
    if not isinstance(sizes, list) or len(groups) != len(sizes):
        raise DamagedError("its index has no sizes")
    return [[_number(size, "a piece's size") for size in group] for group in groups]


def checked_metadata(content: Mapping[str, Plain]) -> dict[str, str]:
    """The file's metadata, texts by name. Raises DamagedError where they are anything else."""
    metadata = content.get("metadata")
    if not isinstance(metadata, dict):
        raise DamagedError("its metadata are no table of texts")
    texts = {name: value for name, value in metadata.items() if isinstance(value, str)}
    if len(texts) != len(metadata):
        raise DamagedError("its metadata are no table of texts")
    return texts


def _number(value: Any, what: str, largest: int = 2**60) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise DamagedError(f"{what} is {value!r:.40}, not a number from 0 to {largest}")
    return value
