"""The tensors of a sparse file, from its checked index and its pieces."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruning_bootcamp.checkpoints.sparse.coding import inflated, inputs_second
from pruning_bootcamp.checkpoints.sparse.encodings import DamagedError, decode, from_int8
from pruning_bootcamp.checkpoints.sparse.index import TensorRow


@dataclass(frozen=True)
class Encoding:
    """How one tensor lies in a file."""

    kind: str
    """dense, bitmask, nm, or same (as an earlier tensor, which is stored)"""
    stored_bytes: int
    """its part of the file without the index; of small tensors, which are deflated together, a share by length"""
    dense_bytes: int
    """what it takes in memory"""
    scales: Tensor | None = None
    """float32, one an output channel, where its values are int8"""
    n: int = 0
    """nm: kept of every m"""
    m: int = 0


def _piece_lengths(group: Sequence[TensorRow]) -> list[int]:
    """Bytes of each piece of a group before deflation."""
    lengths = [
        sum(row.layout.position_bytes(row.size) for row in group if row.layout is not None and row.layout.kind == kind)
        for kind in ("bitmask", "nm")
    ]
    for width, count in _counts(group).items():
        lengths += [count] * width
    return lengths


def _counts(group: Sequence[TensorRow]) -> dict[int, int]:
    """Width in bytes -> how many values of it the group has, by width; none that it has none of."""
    parts = [part for row in group for part in row.parts]
    widths = sorted({width for count, width in parts if count > 0})
    return {width: sum(count for count, other in parts if other == width) for width in widths}


def decoded(
    rows: list[TensorRow], sizes: list[list[int]], data: bytes
) -> tuple[dict[str, Tensor], dict[str, Encoding]]:
    """Name -> tensor, and name -> how it was stored, of rows and their groups' pieces (`sizes` in bytes, in order).

    Raises DamagedError where index and data contradict each other; nothing is inflated beyond what the rows state.
    """
    if sum(sum(group) for group in sizes) != len(data):
        raise DamagedError("its pieces are not as long as its data")
    groups: list[list[TensorRow]] = [[] for _ in sizes]
    for row in rows:
        if row.layout is not None:
            if row.group >= len(groups):
                raise DamagedError(f"{row.name} is in group {row.group} of {len(groups)}")
            groups[row.group].append(row)
    tensors: dict[str, Tensor] = {}
    encodings: dict[str, Encoding] = {}
    start = 0
    for group, stored in zip(groups, sizes, strict=True):
        lengths = _piece_lengths(group)
        if len(stored) != len(lengths):
            raise DamagedError(f"a group has {len(stored)} pieces, not {len(lengths)}")
        pieces = []
        for size, length in zip(stored, lengths, strict=True):
            pieces.append(inflated(data[start : start + size], length))
            start += size
        for row, share, positions, scales, values in _shared_out(group, pieces, sum(stored)):
            tensors[row.name], encodings[row.name] = _tensor(row, share, positions, scales, values)
    for row in rows:
        if row.layout is None:
            original = rows[row.of].name
            tensors[row.name] = tensors[original].clone()
            encodings[row.name] = dataclasses.replace(encodings[original], kind="same", stored_bytes=0)
    order = [row.name for row in rows]
    return {name: tensors[name] for name in order}, {name: encodings[name] for name in order}


def _shared_out(
    group: Sequence[TensorRow], pieces: Sequence[bytes], stored: int
) -> Iterator[tuple[TensorRow, int, np.ndarray, np.ndarray, np.ndarray]]:
    """(row, bytes in the file, positions, scales, values) of each tensor of a group."""
    positions = {"bitmask": pieces[0], "nm": pieces[1], "dense": b""}
    places = dict.fromkeys(positions, 0)
    joined = {width: np.empty((0, width), np.uint8) for row in group for _, width in row.parts}
    rest = list(pieces[2:])
    for width in _counts(group):
        planes = [np.frombuffer(piece, np.uint8) for piece in rest[:width]]
        joined[width], rest = np.stack(planes, axis=1), rest[width:]
    taken = dict.fromkeys(joined, 0)
    total, passed = sum(row.length for row in group), 0
    for row in group:
        assert row.layout is not None
        kind, at = row.layout.kind, places[row.layout.kind]
        places[kind] += row.layout.position_bytes(row.size)
        parts = []
        for count, width in row.parts:
            parts.append(joined[width][taken[width] : taken[width] + count])
            taken[width] += count
        before, passed = passed, passed + row.length
        share = stored * passed // total - stored * before // total if total else 0
        yield row, share, np.frombuffer(positions[kind][at : places[kind]], np.uint8), parts[0], parts[1]


def _tensor(
    row: TensorRow, share: int, positions: np.ndarray, scales: np.ndarray, values: np.ndarray
) -> tuple[Tensor, Encoding]:
    assert row.layout is not None
    try:
        items = np.ascontiguousarray(decode(positions, values, row.layout, row.size))
    except DamagedError as damage:
        raise DamagedError(f"{row.name}: {damage}") from damage
    encoding = Encoding(row.layout.kind, share, row.size * row.dtype.itemsize, None, n=row.layout.n, m=row.layout.m)
    if row.dtype == torch.bool and (items > 1).any():
        raise DamagedError(f"{row.name}: holds a truth value other than 0 and 1")
    flat = torch.from_numpy(items.reshape(-1))
    if not row.int8:
        return _fresh(inputs_second(flat.view(row.dtype), row.shape)), encoding
    integers = inputs_second(flat.view(torch.int8), row.shape)
    factors = torch.from_numpy(np.ascontiguousarray(scales).reshape(-1)).view(torch.float32).clone()
    if (integers == -128).any() or not bool((torch.isfinite(factors) & (factors > 0)).all()):
        raise DamagedError(f"{row.name}: holds an integer or a scale that is out of range")
    weight = _fresh(torch.from_numpy(from_int8(integers.numpy(), factors.numpy())))
    return weight, dataclasses.replace(encoding, scales=factors)


def _fresh(tensor: Tensor) -> Tensor:
    """A copy as torch makes a new tensor: where its memory starts, and the strides of sides of 1, choose kernels."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
