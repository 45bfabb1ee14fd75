"""One tensor's items as positions and values, exactly: all of them, a bitmask, or N of every M; and rounding to int8.

Items come flat with a weight's inputs innermost, so that N:M groups and blocks are neighbours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["dense", "bitmask", "nm"]
LARGEST_M = 256
_TRIED_M = range(2, 33)
_LEVELS = 127
_SMALLEST_SCALE = np.finfo(np.float32).tiny


class DamagedError(ValueError):
    """What was read can't have been written by `encode`; the text says why."""


@dataclass(frozen=True)
class Layout:
    """How a tensor's items are laid down: `count` of them are stored, the others are zero bits."""

    kind: Kind
    count: int
    n: int = 0
    m: int = 0

    @property
    def index_bits(self) -> int:
        """Bits for a place within a group of `m`."""
        return (self.m - 1).bit_length()

    def position_bytes(self, size: int) -> int:
        """Bytes that say where the stored values of `size` items stand."""
        return {"dense": 0, "bitmask": -(-size // 8), "nm": -(-self.count * self.index_bits // 8)}[self.kind]


def layouts(nonzero: np.ndarray, inputs: int) -> Iterator[Layout]:
    """Every layout worth trying for items of which `nonzero` (flat) are not zero, in rows of `inputs`."""
    count = int(np.count_nonzero(nonzero))
    yield Layout("dense", nonzero.size)
    if count == nonzero.size:
        return
    yield Layout("bitmask", count)
    found = []
    for m in _TRIED_M:
        if count == 0 or inputs % m != 0:
            continue
        n = int(np.count_nonzero(nonzero.reshape(-1, m), axis=1).max())
        layout = Layout("nm", nonzero.size // m * n, n, m)
        if n < m and layout.count <= 1.05 * count:  # else it only happens to fit
            found.append(layout)
    if found:
        yield min(found, key=lambda layout: (layout.position_bytes(nonzero.size) + layout.count, layout.m))


def encode(items: np.ndarray, nonzero: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """(positions as bytes, values [count, width]) of items [size, width]."""
    if layout.kind == "dense":
        return np.empty(0, np.uint8), items
    if layout.kind == "bitmask":
        return np.packbits(nonzero), items[nonzero]
    groups = nonzero.reshape(-1, layout.m)
    # a group with fewer than n is filled up by its first zeros
    places = np.sort(np.argsort(~groups, axis=1, kind="stable")[:, : layout.n], axis=1)
    chosen = (places + np.arange(len(groups))[:, None] * layout.m).reshape(-1)
    shifts = np.arange(layout.index_bits)[::-1]
    bits = (places.reshape(-1, 1) >> shifts) & 1
    return np.packbits(bits.astype(np.uint8)), items[chosen]


def decode(positions: np.ndarray, values: np.ndarray, layout: Layout, size: int) -> np.ndarray:
    """The items that `encode` was given. DamagedError when it can't have been given any."""
    if layout.kind == "dense":
        return values
    items = np.zeros((size, values.shape[1]), np.uint8)
    if layout.kind == "bitmask":
        bits = np.unpackbits(positions)
        if bits[size:].any() or int(np.count_nonzero(bits)) != layout.count:
            raise DamagedError(f"its mask does not mark {layout.count} of {size} items")
        items[bits[:size].astype(bool)] = values
        return items
    bits = np.unpackbits(positions)
    used = layout.count * layout.index_bits
    shifts = np.arange(layout.index_bits)[::-1]
    places = (bits[:used].reshape(-1, layout.n, layout.index_bits).astype(np.int64) << shifts).sum(axis=2)
    if bits[used:].any() or (places >= layout.m).any() or (np.diff(places, axis=1) <= 0).any():
        raise DamagedError(f"its places are not {layout.n} of every {layout.m} in rising order")
    items[(places + np.arange(len(places))[:, None] * layout.m).reshape(-1)] = values
    return items


def to_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(integers from -127 to 127, a float32 scale for each entry of the first dimension) of a finite float32 weight.

    The scale is the row's largest magnitude / 127, moved by a last digit where needed so that the rounded weight has
    the same integers and scales again. Zero stays zero; a row of zeros has scale 1.
    """
    rows = weight.reshape(weight.shape[0], -1) if weight.size else np.zeros((weight.shape[0], 1), np.float32)
    scales = _stable(np.abs(rows).max(axis=1, initial=0) / np.float32(_LEVELS))
    integers = np.rint(rows.astype(np.float64) / scales[:, None].astype(np.float64))
    integers = integers.clip(-_LEVELS, _LEVELS).astype(np.int8)
    scales[~integers.any(axis=1)] = 1
    return (integers if weight.size else np.empty(0, np.int8)).reshape(weight.shape), scales


def from_int8(integers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """scale * integer, in float32."""
    broadcast = scales.reshape(-1, *[1] * (integers.ndim - 1))
    return integers.astype(np.float32) * broadcast


def _stable(scales: np.ndarray) -> np.ndarray:
    """Each scale, or its nearest neighbour, such that float32(float32(127 * scale) / 127) is that scale again."""
    levels = np.float32(_LEVELS)
    scales = np.maximum(scales.astype(np.float32), _SMALLEST_SCALE)  # below it, float32 has fewer digits
    with np.errstate(over="ignore"):
        scales = np.where(np.isfinite(scales * levels), scales, np.nextafter(scales, np.float32(0)))
    while not np.array_equal(again := (scales * levels) / levels, scales):
        scales = again
    return scales
