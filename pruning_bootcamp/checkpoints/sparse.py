"""Sparse files: named tensors in one small safetensors file, each in the smallest of several exact encodings.

The file holds two byte tensors. `index` is deflated JSON: a row a tensor (name, dtype, shape, form), the metadata, and
the sizes of the pieces that `data` is cut into. Tensors that share a piece are a group: a large one is alone, all small
ones are together. Pieces are, per group: positions of bitmasks, positions of N:M, then the values' bytes, first all
lowest bytes, last all highest (a float's exponents deflate well, the rest hardly). A piece that is shorter in the file
than it must be is deflated.
"""

import dataclasses
import hashlib
import json
import math
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning_bootcamp.checkpoints.encodings import (
    LARGEST_M,
    DamagedError,
    Form,
    decode,
    encode,
    forms,
    from_int8,
    to_int8,
)
from pruning_bootcamp.errors import BootcampError, unknown

MARK, VERSION = "pruning_bootcamp.sparse", "1"
_CHECK = "<II"  # before the deflated JSON: its length, and the CRC-32 of it and the data

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.bool, torch.complex64, torch.complex128),
    )
}
_SMALL_BYTES = 1024  # a tensor whose stored form is smaller shares its pieces with others
_NM_SLACK = 1.01  # N:M may be so much larger than the smallest: hardware takes it as it is
_LARGEST_INDEX = 2**26
_LARGEST_RANK = 64
# Decoded, a file is at most this large or so many times its own size: more is no network, but a trap.
_ALWAYS_ALLOWED, _LARGEST_RATIO = 2**28, 1000


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
    rows: list[dict[str, Any]] = []
    small: list[_Coded] = []
    stored: list[list[bytes]] = [[]]  # the pieces of each group; of the first, the small ones, when all are known
    seen: dict[tuple[Any, ...], int] = {}
    for name, tensor in tensors.items():
        _check_can_be_kept(name, tensor)
        plain = tensor.detach().cpu().contiguous()
        row: dict[str, Any] = {"name": name, "dtype": str(plain.dtype).removeprefix("torch."), "shape": [*plain.shape]}
        row |= {"int8": True} if name in int8 else {}
        key = (row["dtype"], *row["shape"], "int8" in row, hashlib.blake2b(_bytes_of(plain).tobytes()).digest())
        if key in seen:
            rows.append(row | {"kind": "same", "of": seen[key]})
            continue
        seen[key] = len(rows)
        coded, pieces = _coded(plain, name in int8)
        if coded.length < _SMALL_BYTES:
            small.append(coded)
        else:
            stored.append(pieces)
        rows.append(row | _form_row(coded.form) | {"group": 0 if coded.length < _SMALL_BYTES else len(stored) - 1})
    stored[0] = _stored(small)
    content = {"rows": rows, "sizes": [[len(piece) for piece in group] for group in stored]}
    data = b"".join(piece for group in stored for piece in group)
    dense = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if dense > _allowed(len(data)):
        raise BootcampError(
            f"{dense:,} bytes of tensors shrink to {len(data):,}: more than {_LARGEST_RATIO} times smaller, which "
            "reading refuses as a trap. Is there a trained weight in them?"
        )
    _write(path, content | {"metadata": dict(metadata or {})}, data)


def read_sparse(path: Path) -> SparseFile:
    """The tensors in a file of `write_sparse`, on the CPU, none sharing memory with another. BootcampError if damaged.

    Nothing in the file is believed: each size is checked against the bytes that are there before memory is taken.
    """
    try:
        content, data = _read(path)
        metadata = _metadata(content)
        rows = _rows(content, _allowed(path.stat().st_size))
        tensors, encodings = _decoded(rows, _sizes(content), data)
    except DamagedError as damage:
        raise BootcampError(f"{path}: is a damaged sparse file ({damage}). Fetch or make it again.") from damage
    except MemoryError:
        raise BootcampError(f"{path}: its tensors do not fit in this machine's memory.") from None
    return SparseFile(tensors, metadata, encodings)


def is_sparse(path: Path) -> bool:
    """Whether the file says that `write_sparse` made it. False for anything else, readable or not."""
    import safetensors

    try:
        with safetensors.safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("format", "").startswith(f"{MARK}/")
    except (OSError, safetensors.SafetensorError):
        return False


def rounded(weight: Tensor) -> Tensor:
    """The float32 weight as it comes back after `write_sparse(..., int8=...)`."""
    return torch.from_numpy(from_int8(*to_int8(weight.detach().cpu().contiguous().numpy())))


# ---- one tensor ----


@dataclass(frozen=True)
class _Coded:
    """A tensor in its form, before its pieces are joined with others'."""

    form: Form
    positions: np.ndarray
    values: np.ndarray
    """uint8 [count, width]"""
    scales: np.ndarray
    """uint8 [channels, 4], empty where the values are the tensor's own"""

    @property
    def length(self) -> int:
        return self.positions.size + self.values.size + self.scales.size


def _coded(tensor: Tensor, int8: bool) -> tuple[_Coded, list[bytes]]:
    """The tensor in the form that takes the fewest bytes, and its pieces where it shares them with no other."""
    scales = np.empty((0, 4), np.uint8)
    if int8:
        integers, factors = to_int8(tensor.numpy())
        tensor, scales = torch.from_numpy(integers), factors.view(np.uint8).reshape(-1, 4)
    items = _bytes_of(_inputs_last(tensor))
    nonzero = np.asarray(items.any(axis=1))
    inputs = tensor.shape[1] if tensor.dim() > 1 else max(tensor.numel(), 1)
    found = []
    for form in forms(nonzero, inputs):
        coded = _Coded(form, *encode(items, nonzero, form), scales)
        found.append((coded, _stored([coded])))
    sizes = [sum(map(len, pieces)) for _, pieces in found]
    for size, (coded, pieces) in zip(sizes, found, strict=True):
        if coded.form.kind == "nm" and size <= _NM_SLACK * min(sizes):
            return coded, pieces
    return found[sizes.index(min(sizes))]


def _inputs_last(tensor: Tensor) -> Tensor:
    """A weight [out, in, *kernel] with its inputs innermost, where N:M groups and blocks lie."""
    return tensor.movedim(1, -1).contiguous() if tensor.dim() > 2 else tensor


def _inputs_second(items: Tensor, shape: Sequence[int]) -> Tensor:
    """`_inputs_last` undone, from flat items."""
    if len(shape) <= 2:
        return items.reshape(shape)
    return items.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def _bytes_of(tensor: Tensor) -> np.ndarray:
    """uint8 [items, width]"""
    return tensor.reshape(-1).view(torch.uint8).numpy().reshape(tensor.numel(), tensor.element_size())


def _form_row(form: Form) -> dict[str, Any]:
    if form.kind == "nm":
        return {"kind": "nm", "n": form.n, "m": form.m}
    return {"kind": form.kind} | ({"count": form.count} if form.kind == "bitmask" else {})


def _check_can_be_kept(name: str, tensor: Tensor) -> None:
    if str(tensor.dtype).removeprefix("torch.") not in _DTYPES or tensor.layout != torch.strided:
        raise BootcampError(f"{name}: a tensor of {tensor.dtype}, {tensor.layout} can't be kept in a sparse file.")
    if tensor.dim() > _LARGEST_RANK or math.prod(max(side, 1) for side in tensor.shape) >= 2**60:
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


# ---- groups and pieces ----


def _pieces(group: Sequence[_Coded]) -> Iterator[bytes]:
    """What the tensors of a group consist of, in the order of `_piece_lengths`."""
    yield b"".join(one.positions.tobytes() for one in group if one.form.kind == "bitmask")
    yield b"".join(one.positions.tobytes() for one in group if one.form.kind == "nm")
    parts = [part for one in group for part in (one.scales, one.values) if len(part) > 0]
    for width in sorted({part.shape[1] for part in parts}):
        joined = np.concatenate([part for part in parts if part.shape[1] == width])
        for plane in joined.T:
            yield plane.tobytes()


def _stored(group: Sequence[_Coded]) -> list[bytes]:
    return [_deflated(piece) for piece in _pieces(group)]


def _deflated(piece: bytes) -> bytes:
    """The piece, deflated when that is shorter."""
    shortest = piece
    # on runs of zeros level 9 takes 15 times as long as 6 for hardly fewer bytes; exponents want no search at all
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
        shortest = min(shortest, deflate.compress(piece) + deflate.flush(), key=len)
    return shortest


def _inflated(stored: bytes, length: int) -> bytes:
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


# ---- reading ----


@dataclass(frozen=True)
class _Row:
    """What the index says of one tensor, checked on its own and against the limit."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    int8: bool
    group: int
    form: Form | None
    """None: it is the same as tensor `of`"""
    of: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        return 1 if self.int8 else self.dtype.itemsize

    @property
    def parts(self) -> list[tuple[int, int]]:
        """(count, width) of its scales and of its values."""
        assert self.form is not None
        return [(self.shape[0] if self.int8 else 0, 4), (self.form.count, self.width)]

    @property
    def length(self) -> int:
        assert self.form is not None
        return self.form.position_bytes(self.size) + sum(count * width for count, width in self.parts)


def _piece_lengths(group: Sequence[_Row]) -> list[int]:
    """Bytes of each piece of a group before deflation."""
    lengths = [
        sum(row.form.position_bytes(row.size) for row in group if row.form is not None and row.form.kind == kind)
        for kind in ("bitmask", "nm")
    ]
    for width, count in _counts(group).items():
        lengths += [count] * width
    return lengths


def _counts(group: Sequence[_Row]) -> dict[int, int]:
    """Width in bytes -> how many values of it the group has, by width; none that it has none of."""
    parts = [part for row in group for part in row.parts]
    widths = sorted({width for count, width in parts if count > 0})
    return {width: sum(count for count, other in parts if other == width) for width in widths}


def _decoded(rows: list[_Row], sizes: list[list[int]], data: bytes) -> tuple[dict[str, Tensor], dict[str, Encoding]]:
    if sum(sum(group) for group in sizes) != len(data):
        raise DamagedError("its pieces are not as long as its data")
    groups: list[list[_Row]] = [[] for _ in sizes]
    for row in rows:
        if row.form is not None:
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
            pieces.append(_inflated(data[start : start + size], length))
            start += size
        for row, share, positions, scales, values in _shared_out(group, pieces, sum(stored)):
            tensors[row.name], encodings[row.name] = _tensor(row, share, positions, scales, values)
    for row in rows:
        if row.form is None:
            original = rows[row.of].name
            tensors[row.name] = tensors[original].clone()
            encodings[row.name] = dataclasses.replace(encodings[original], kind="same", stored_bytes=0)
    order = [row.name for row in rows]
    return {name: tensors[name] for name in order}, {name: encodings[name] for name in order}


def _shared_out(
    group: Sequence[_Row], pieces: Sequence[bytes], stored: int
) -> Iterator[tuple[_Row, int, np.ndarray, np.ndarray, np.ndarray]]:
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
        assert row.form is not None
        kind, at = row.form.kind, places[row.form.kind]
        places[kind] += row.form.position_bytes(row.size)
        parts = []
        for count, width in row.parts:
            parts.append(joined[width][taken[width] : taken[width] + count])
            taken[width] += count
        before, passed = passed, passed + row.length
        share = stored * passed // total - stored * before // total if total else 0
        yield row, share, np.frombuffer(positions[kind][at : places[kind]], np.uint8), parts[0], parts[1]


def _tensor(
    row: _Row, share: int, positions: np.ndarray, scales: np.ndarray, values: np.ndarray
) -> tuple[Tensor, Encoding]:
    assert row.form is not None
    try:
        items = np.ascontiguousarray(decode(positions, values, row.form, row.size))
    except DamagedError as damage:
        raise DamagedError(f"{row.name}: {damage}") from damage
    encoding = Encoding(row.form.kind, share, row.size * row.dtype.itemsize, None, n=row.form.n, m=row.form.m)
    if row.dtype == torch.bool and (items > 1).any():
        raise DamagedError(f"{row.name}: holds a truth value other than 0 and 1")
    flat = torch.from_numpy(items.reshape(-1))
    if not row.int8:
        return _fresh(_inputs_second(flat.view(row.dtype), row.shape)), encoding
    integers = _inputs_second(flat.view(torch.int8), row.shape)
    factors = torch.from_numpy(np.ascontiguousarray(scales).reshape(-1)).view(torch.float32).clone()
    if (integers == -128).any() or not bool((torch.isfinite(factors) & (factors > 0)).all()):
        raise DamagedError(f"{row.name}: holds an integer or a scale that is out of range")
    weight = _fresh(torch.from_numpy(from_int8(integers.numpy(), factors.numpy())))
    return weight, dataclasses.replace(encoding, scales=factors)


def _fresh(tensor: Tensor) -> Tensor:
    """A copy as torch makes a new tensor: where its memory starts, and the strides of sides of 1, choose kernels."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def _rows(content: Mapping[str, Any], allowed: int) -> list[_Row]:
    """The index's rows, none claiming what the file's size does not warrant."""
    found = content.get("rows")
    if not isinstance(found, list):
        raise DamagedError("its index has no rows")
    rows: list[_Row] = []
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


def _row(entry: Any, earlier: Sequence[_Row]) -> _Row:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise DamagedError("a row of its index has no name")
    name, shape, int8 = entry["name"], entry.get("shape"), entry.get("int8", False)
    known = entry.get("dtype")
    if not isinstance(known, str) or known not in _DTYPES or not isinstance(int8, bool):
        raise DamagedError(f"{name}: unknown type {known!r:.40}")
    dtype = _DTYPES[known]
    if not isinstance(shape, list) or len(shape) > _LARGEST_RANK:
        raise DamagedError(f"{name}: has no shape")
    sides = tuple(_number(side, f"{name}: a side") for side in shape)
    if math.prod(max(side, 1) for side in sides) >= 2**60:
        raise DamagedError(f"{name}: its shape is out of range")
    if int8 and (dtype != torch.float32 or not sides):
        raise DamagedError(f"{name}: int8 values of a {dtype}")
    if entry.get("kind") == "same":
        of = _number(entry.get("of"), f"{name}: the tensor that it equals", len(earlier) - 1)
        original = earlier[of]
        if original.form is None or (original.dtype, original.shape, original.int8) != (dtype, sides, int8):
            raise DamagedError(f"{name}: can't equal {original.name}")
        return _Row(name, dtype, sides, int8, 0, None, of)
    group = _number(entry.get("group"), f"{name}: the group")
    return _Row(name, dtype, sides, int8, group, _form(entry, name, sides))


def _form(entry: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Form:
    size, kind = math.prod(shape), entry.get("kind")
    if kind == "dense":
        return Form("dense", size)
    if kind == "bitmask":
        return Form("bitmask", _number(entry.get("count"), f"{name}: the count", size))
    if kind == "nm":
        m = _number(entry.get("m"), f"{name}: M", LARGEST_M)
        n = _number(entry.get("n"), f"{name}: N", m)
        if m >= 2 and n >= 1 and size % m == 0:
            return Form("nm", size // m * n, n, m)
    raise DamagedError(f"{name}: has no encoding known here")


def _sizes(content: Mapping[str, Any]) -> list[list[int]]:
    sizes = content.get("sizes")
    if not isinstance(sizes, list) or not all(isinstance(group, list) for group in sizes):
        raise DamagedError("its index has no sizes")
    return [[_number(size, "a piece's size") for size in group] for group in sizes]


def _metadata(content: Mapping[str, Any]) -> dict[str, str]:
    metadata = content.get("metadata")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DamagedError("its metadata are no table of texts")
    return metadata


def _number(value: Any, what: str, largest: int = 2**60) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise DamagedError(f"{what} is {value!r:.40}, not a number from 0 to {largest}")
    return value


# ---- the file itself ----


def _allowed(file_bytes: int) -> int:
    return max(_ALWAYS_ALLOWED, _LARGEST_RATIO * file_bytes)


def _write(path: Path, content: Mapping[str, Any], data: bytes) -> None:
    from safetensors.numpy import save

    index = json.dumps(content, separators=(",", ":")).encode()
    stored = _deflated(index)
    check = struct.pack(_CHECK, len(index), _crc(stored, data))
    parts = {"data": np.frombuffer(data, np.uint8), "index": np.frombuffer(check + stored, np.uint8)}
    path.write_bytes(save(parts, {"format": f"{MARK}/{VERSION}"}))  # one entry: of several, the order would be random


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
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
        content = json.loads(_inflated(index[head:], length))
    except (ValueError, RecursionError) as error:  # a DamagedError too
        raise DamagedError(f"its index: {error}") from error
    if not isinstance(content, dict):
        raise DamagedError("its index is no table")
    return content, data


def _crc(*parts: bytes) -> int:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc
