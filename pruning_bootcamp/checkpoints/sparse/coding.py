"""One tensor as bytes: the layout that takes the fewest, and the deflated pieces that a group of tensors becomes."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruning_bootcamp.checkpoints.sparse.encodings import DamagedError, Layout, encode, layouts, to_int8
from pruning_bootcamp.plain import Plain

_NM_SLACK = 1.01  # N:M may be so much larger than the smallest: hardware takes it as it is


@dataclass(frozen=True)
class Coded:
    """A tensor in its layout, before its pieces are joined with others'."""

    layout: Layout
    positions: np.ndarray
    values: np.ndarray
    """uint8 [count, width]"""
    scales: np.ndarray
    """uint8 [channels, 4], empty where the values are the tensor's own"""

    @property
    def length(self) -> int:
        """Bytes of positions, values and scales, before deflating."""
        return self.positions.size + self.values.size + self.scales.size


def coded_tensor(tensor: Tensor, int8: bool) -> tuple[Coded, list[bytes]]:
    """The tensor in the layout that takes the fewest bytes, and its pieces where it shares them with no other."""
    scales = np.empty((0, 4), np.uint8)
    if int8:
        integers, factors = to_int8(tensor.numpy())
        tensor, scales = torch.from_numpy(integers), factors.view(np.uint8).reshape(-1, 4)
    items = bytes_of(_inputs_last(tensor))
    nonzero = np.asarray(items.any(axis=1))
    inputs = tensor.shape[1] if tensor.dim() > 1 else max(tensor.numel(), 1)
    found = []
    for layout in layouts(nonzero, inputs):
        coded = Coded(layout, *encode(items, nonzero, layout), scales)
        found.append((coded, stored_pieces([coded])))
    sizes = [sum(map(len, pieces)) for _, pieces in found]
    for size, (coded, pieces) in zip(sizes, found, strict=True):
        if coded.layout.kind == "nm" and size <= _NM_SLACK * min(sizes):
            return coded, pieces
    return found[sizes.index(min(sizes))]


def _inputs_last(tensor: Tensor) -> Tensor:
    """A weight [out, in, *kernel] with its inputs innermost, where N:M groups and blocks lie."""
    return tensor.movedim(1, -1).contiguous() if tensor.dim() > 2 else tensor


def inputs_second(items: Tensor, shape: Sequence[int]) -> Tensor:
    """`_inputs_last` undone, from flat items."""
    if len(shape) <= 2:
        return items.reshape(shape)
    return items.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def bytes_of(tensor: Tensor) -> np.ndarray:
    """uint8 [items, width]"""
    return tensor.reshape(-1).view(torch.uint8).numpy().reshape(tensor.numel(), tensor.element_size())


def layout_row(layout: Layout) -> dict[str, Plain]:
    """The layout as the index keeps it: without the settings that its kind has not."""
    if layout.kind == "nm":
        return {"kind": "nm", "n": layout.n, "m": layout.m}
    return {"kind": layout.kind} | ({"count": layout.count} if layout.kind == "bitmask" else {})


def _pieces(group: Sequence[Coded]) -> Iterator[bytes]:
    """What the tensors of a group consist of, in the order of `_piece_lengths`."""
    yield b"".join(one.positions.tobytes() for one in group if one.layout.kind == "bitmask")
    yield b"".join(one.positions.tobytes() for one in group if one.layout.kind == "nm")
    parts = [part for one in group for part in (one.scales, one.values) if len(part) > 0]
    for width in sorted({part.shape[1] for part in parts}):
        joined = np.concatenate([part for part in parts if part.shape[1] == width])
        for plane in joined.T:
            yield plane.tobytes()


def stored_pieces(group: Sequence[Coded]) -> list[bytes]:
    """The pieces of tensors that share a group, each deflated, in the order in which `decoded` expects them."""
    return [deflated(piece) for piece in _pieces(group)]


def deflated(piece: bytes) -> bytes:
    """The piece, deflated when that is shorter."""
    shortest = piece
    # on runs of zeros level 9 takes 15 times as long as 6 for hardly fewer bytes; exponents want no search at all
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
        shortest = min(shortest, deflate.compress(piece) + deflate.flush(), key=len)
    return shortest


def inflated(stored: bytes, length: int) -> bytes:
    """The piece of `length` bytes; never more memory than that."""
    if len(stored) == length:
        return stored
    if len(stored) > length:
        raise DamagedError(f"a piece of {len(stored)} bytes should hold {length}")
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        piece = inflate.decompress(stored, length + 1)
    except zlib.error as error:
        raise DamagedError(str(error)) from error
    if len(piece) != length or not inflate.eof or inflate.unused_data:
        raise DamagedError(f"a piece does not inflate to its {length} bytes")
    return piece
