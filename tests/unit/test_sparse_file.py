"""Sparse files: every bit comes back, small where there are zeros, and no file can do harm."""

import gzip
import io
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors
from torch import Tensor

from pruning_bootcamp.checkpoints import sparse
from pruning_bootcamp.checkpoints.sparse import coding, container, read_sparse, rounded, write_sparse
from pruning_bootcamp.checkpoints.sparse.encodings import _stable, to_int8
from pruning_bootcamp.checkpoints.sparse.index import DTYPES as KNOWN
from pruning_bootcamp.errors import BootcampError

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def there_and_back(path: Path, tensors: dict[str, Tensor], **rest: Any) -> sparse.SparseFile:
    write_sparse(path, tensors, **rest)
    return read_sparse(path)


def assert_exact(path: Path, tensors: dict[str, Tensor]) -> sparse.SparseFile:
    found = there_and_back(path, tensors)
    assert list(found.tensors) == list(tensors) == list(found.encodings)
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].shape == tensor.shape
        assert found.tensors[name].is_contiguous()
        assert found.tensors[name].stride() == torch.empty(tensor.shape).stride()
        assert bits(found.tensors[name]) == bits(tensor), name
        assert found.encodings[name].dense_bytes == tensor.numel() * tensor.element_size()
    return found


def pruned(weight: Tensor, kind: str, sparsity: float) -> Tensor:
    """A copy with zeros: unstructured, n_of_m, block or channel."""
    weight = weight.clone()
    if kind == "unstructured":
        count = round(sparsity * weight.numel())
        weight.view(-1)[weight.abs().flatten().argsort()[:count]] = 0
    elif kind == "2:4":
        groups = weight.movedim(1, -1).contiguous()
        flat = groups.view(-1, 4)
        flat.scatter_(1, flat.abs().argsort(1)[:, :2], 0)
        weight = groups.movedim(-1, 1).contiguous()
    elif kind == "block":
        keep = torch.rand(weight.shape[0] // 4, weight.shape[1] // 4, *weight.shape[2:]) >= sparsity
        weight[~keep.repeat_interleave(4, 0).repeat_interleave(4, 1)] = 0
    else:
        weight[torch.rand(weight.shape[0]) < sparsity] = 0
    return weight


def network(kind: str = "unstructured", sparsity: float = 0.0) -> dict[str, Tensor]:
    """Tensors as in a small residual network, batch norm and its counters among them."""
    tensors: dict[str, Tensor] = {}
    widths = [(16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
    for number, (inputs, outputs) in enumerate(widths):
        tensors[f"layer{number}.conv.weight"] = pruned(torch.randn(outputs, inputs, 3, 3) / 10, kind, sparsity)
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"layer{number}.bn.{part}"] = torch.rand(outputs)
        tensors[f"layer{number}.bn.num_batches_tracked"] = torch.tensor(704)
    tensors["head.weight"] = pruned(torch.randn(12, 64) / 10, kind, sparsity)
    tensors["head.bias"] = torch.randn(12)
    return tensors


# ---- every bit comes back ----

DTYPES = [getattr(torch, name) for name in KNOWN]


@st.composite
def any_tensor(draw: st.DrawFn) -> Tensor:
    """Any type, any bits (NaNs of every kind, -0.0), any share of zeros, any shape, any strides."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 8, 16]), max_size=4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    items = generator.integers(0, 256, (math.prod(shape), dtype.itemsize), np.uint8)
    items[generator.random(len(items)) < draw(st.sampled_from([0.0, 0.4, 0.8, 0.95, 1.0]))] = 0
    if dtype == torch.bool:
        items &= 1
    tensor = torch.from_numpy(items.reshape(-1)).view(dtype).reshape(shape)
    return tensor.transpose(0, -1) if tensor.dim() > 1 and draw(st.booleans()) else tensor


@QUICK
@given(tensors=st.lists(any_tensor(), max_size=6), metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=9)))
def test_any_tensors_come_back_bit_for_bit(
    tensors: list[Tensor], metadata: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "f.safetensors"
    named = {f"t{number}": tensor for number, tensor in enumerate(tensors)}
    assert_exact(path, named)
    assert there_and_back(path, named, metadata=metadata).metadata == metadata


def test_minus_zero_and_nan_payloads_are_values(tmp_path: Path) -> None:
    odd = torch.zeros(4, 64)
    odd[0, 3] = -0.0
    odd.view(torch.int32)[1, 5] = 0x7FC12345
    odd[2, 7], odd[3, 9] = math.inf, 1e-45
    found = assert_exact(tmp_path / "f", {"odd": odd})
    assert found.encodings["odd"].kind == "bitmask"


def test_scalars_empty_and_no_tensors(tmp_path: Path) -> None:
    assert_exact(tmp_path / "f", {"number": torch.tensor(7), "none": torch.empty(0, 3), "zero": torch.tensor(0.0)})
    assert_exact(tmp_path / "f", {})


def test_what_comes_back_shares_memory_with_nothing(tmp_path: Path) -> None:
    weight = torch.randn(32, 32)
    found = assert_exact(tmp_path / "f", {"one": weight, "two": weight.clone(), "three": weight})
    assert [encoding.kind for encoding in found.encodings.values()] == ["dense", "same", "same"]
    assert len({tensor.data_ptr() for tensor in found.tensors.values()}) == 3


def test_a_parameter_with_history_can_be_written(tmp_path: Path) -> None:
    assert_exact(tmp_path / "f", {"p": torch.nn.Parameter(torch.randn(3)).detach()})
    found = there_and_back(tmp_path / "f", {"p": torch.nn.Parameter(torch.randn(3))})
    assert not found.tensors["p"].requires_grad


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.eye(3).to_sparse(), "can't be kept"),
        (torch.zeros(3).to(torch.float8_e4m3fnuz), "float8_e4m3fnuz"),
        (torch.empty(0, 2**40, 2**20), "the shape"),
    ],
)
def test_what_cannot_be_kept_is_said(tensor: Tensor, says: str, tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match=says):
        write_sparse(tmp_path / "f", {"odd": tensor})
    assert list(tmp_path.iterdir()) == []


# ---- each pattern finds its encoding, and is smaller than gzip ----


@pytest.mark.parametrize("shape", [(32, 64), (32, 64, 3, 3), (32, 64, 3)])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 8), (1, 3)])
def test_n_of_m_is_packed_as_such(n: int, m: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    shape = (shape[0], shape[1] // m * m, *shape[2:])
    weight = torch.randn(shape)
    groups = weight.movedim(1, -1).contiguous()
    flat = groups.view(-1, m)
    flat.scatter_(1, flat.abs().argsort(1)[:, : m - n], 0)
    weight = groups.movedim(-1, 1).contiguous()
    weight.view(-1)[weight.view(-1).nonzero()[0]] = 0  # a group with fewer
    found = assert_exact(tmp_path / "f", {"w": weight}).encodings["w"]
    assert (found.kind, found.n, found.m) == ("nm", n, m)
    places = weight.numel() // m * n * (m - 1).bit_length() / 8
    assert found.stored_bytes <= weight.numel() // m * n * 4 + places + 1


@pytest.mark.parametrize("kind", ["unstructured", "block", "channel", "2:4"])
@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_a_sparse_network_is_smaller_than_gzip_makes_it(kind: str, sparsity: float, tmp_path: Path) -> None:
    tensors = network(kind, sparsity)
    assert_exact(tmp_path / "f", tensors)
    by_torch = io.BytesIO()
    torch.save(tensors, by_torch)
    zipped = min(len(gzip.compress(content, 9)) for content in (save_tensors(tensors), by_torch.getvalue()))
    assert (tmp_path / "f").stat().st_size < zipped


def test_the_sizes_of_the_encodings_are_those_of_the_file(tmp_path: Path) -> None:
    found = assert_exact(tmp_path / "f", network("unstructured", 0.8))
    index = (tmp_path / "f").stat().st_size - sum(encoding.stored_bytes for encoding in found.encodings.values())
    assert 0 < index < 2000


# ---- int8 ----


def weights() -> st.SearchStrategy[Tensor]:
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    return st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5).map(torch.tensor)


@QUICK
@given(weight=weights())
def test_int8_is_scale_times_integer_and_writing_it_again_changes_nothing(
    weight: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("int8") / "f"
    found = there_and_back(path, {"w": weight}, int8=["w"])
    content, scales = path.read_bytes(), found.encodings["w"].scales
    back = found.tensors["w"]
    assert scales is not None
    assert back.dtype == scales.dtype == torch.float32
    assert bits(back) == bits(rounded(weight))
    levels = (back.double() / scales.double()[:, None]).round()
    assert levels.abs().max() <= 127
    assert torch.equal(back, scales[:, None] * levels.float())
    assert bool((back[weight == 0] == 0).all())
    # half a step, and for the very largest and smallest numbers what float32 leaves of it
    step = scales.double()[:, None] * (0.5 + 1e-4)
    assert bool(((back.double() - weight.double()).abs() <= step).all())
    write_sparse(path, {"w": back}, int8=["w"])
    assert path.read_bytes() == content


def test_int8_scales_are_the_largest_weight_of_each_output_over_127(tmp_path: Path) -> None:
    weight = torch.tensor([[1.27, -0.5, 0.0], [0.0, 0.0, 0.0], [-254.0, 2.0, 127.0]])
    found = there_and_back(tmp_path / "f", {"w": weight}, int8=["w"])
    torch.testing.assert_close(found.encodings["w"].scales, torch.tensor([0.01, 1.0, 2.0]))
    torch.testing.assert_close(
        found.tensors["w"], torch.tensor([[1.27, -0.5, 0.0], [0.0, 0.0, 0.0], [-254.0, 2.0, 128.0]])
    )


def test_int8_scales_come_again_whatever_their_digits() -> None:
    random = np.random.default_rng(0).integers(0x00800000, 0x7C000000, 200_000, np.uint32).view(np.float32)
    first = _stable(np.concatenate([random, np.float32([0, 1e-45, 3.4e38 / 127])]))
    assert np.array_equal(_stable((first * np.float32(127)) / np.float32(127)), first)
    largest = np.finfo(np.float32).max
    integers, scales = to_int8(np.float32([[largest], [1e-45]]))
    assert np.isfinite(integers.astype(np.float32) * scales[:, None]).all()


def test_int8_is_for_named_weights_only_and_much_smaller(tmp_path: Path) -> None:
    tensors = network("unstructured", 0.5)
    convolutions = [name for name in tensors if "conv" in name]
    found = there_and_back(tmp_path / "f", tensors, int8=convolutions)
    for name, tensor in tensors.items():
        assert bits(found.tensors[name]) == bits(rounded(tensor) if name in convolutions else tensor)
        assert (found.encodings[name].scales is not None) == (name in convolutions)
    write_sparse(tmp_path / "exact", tensors)
    assert (tmp_path / "f").stat().st_size < 0.45 * (tmp_path / "exact").stat().st_size


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (5,), (2, 3, 1, 1)])
def test_int8_of_odd_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    weight = torch.randn(shape)
    found = there_and_back(tmp_path / "f", {"w": weight}, int8=["w"])
    assert bits(found.tensors["w"]) == bits(rounded(weight))
    assert found.tensors["w"].shape == shape


def test_what_cannot_be_rounded_is_said_all_at_once(tmp_path: Path) -> None:
    tensors = {"half": torch.ones(2).half(), "scalar": torch.tensor(1.0), "bad": torch.tensor([math.nan])}
    with pytest.raises(BootcampError) as caught:
        write_sparse(tmp_path / "f", tensors, int8=["half", "scalar", "bad", "hlaf"])
    text = str(caught.value)
    for part in ("half is torch.float16", "scalar is", "bad holds values", "Did you mean 'half'"):
        assert part in text
    assert list(tmp_path.iterdir()) == []


# ---- damaged and hostile files ----


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "f"
    torch.manual_seed(0)
    tensors = {
        "mask": pruned(torch.randn(16, 32), "unstructured", 0.8),
        "nm": pruned(torch.randn(16, 32), "2:4", 0.5),
        "int8": torch.randn(16, 32),
        "again": torch.ones(3),
        "same": torch.ones(3),
        "truth": torch.tensor([True, False]),
    }
    write_sparse(path, tensors, int8=["int8"], metadata={"a": "b"})
    return path.read_bytes()


def content_of(file: bytes, folder: Path) -> tuple[dict[str, Any], bytes]:
    (folder / "good").write_bytes(file)
    return container.read_container(folder / "good")


@settings(QUICK, max_examples=300)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(
    good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed"
    at, value = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(good)
    changed[at] ^= value
    path.write_bytes(changed)
    with pytest.raises(BootcampError):
        read_sparse(path)


def test_no_changed_byte_of_the_header_goes_unnoticed(good: bytes, tmp_path: Path) -> None:
    """Every byte, to every blank that JSON knows and to what it doesn't: blanks behind the header were read as one."""
    length = 8 + int.from_bytes(good[:8], "little")
    assert good[length - 1 : length] == b" ", "nothing fills the header up, so that this shows nothing"
    for at in range(8, length):
        for value in b" \n\r\t\x00x":
            if value != good[at]:
                (tmp_path / "changed").write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
                with pytest.raises(BootcampError):
                    read_sparse(tmp_path / "changed")


@QUICK
@given(st.data())
def test_no_part_of_a_file_and_no_other_bytes_are_read(
    good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut"
    length = data.draw(st.integers(0, len(good) - 1))
    path.write_bytes(data.draw(st.sampled_from([good[:length], good[length + 1 :], good + b"x", b"x" * length])))
    with pytest.raises(BootcampError):
        read_sparse(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
)


@settings(QUICK, max_examples=300)
@given(st.data())
def test_an_index_with_a_right_checksum_that_says_anything_is_refused_in_words(
    good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    content, rest = content_of(good, folder)
    before = json.dumps(content)
    where = data.draw(st.sampled_from(["rows", "sizes", "metadata", "row", "row", "row", "row", "size"]))
    if where == "row":
        row = data.draw(st.sampled_from(content["rows"]))
        key = data.draw(st.sampled_from(["name", "dtype", "shape", "kind", "count", "group", "n", "m", "of", "int8"]))
        odd = st.sampled_from(
            ["dense", "bitmask", "nm", "same", "bool", "float64", 0, 1, 2, 4, 512, 513, [512], [2**62]]
        )
        row[key] = data.draw(odd | JSON)
    elif where == "size":
        sizes = data.draw(st.sampled_from(content["sizes"]))
        sizes[data.draw(st.integers(0, len(sizes) - 1))] = data.draw(JSON)
    else:
        content[where] = data.draw(JSON)
    path = folder / "hostile"
    container.write_container(path, content, rest)
    try:
        found = read_sparse(path)
    except BootcampError:
        return
    # what is still read is another file, well formed: say, a renamed tensor
    assert json.dumps(content) != before or found.tensors
    assert sum(tensor.numel() for tensor in found.tensors.values()) < 10_000


@pytest.mark.parametrize(
    ("shape", "kind"),
    [([2**30, 2**29], "dense"), ([2**40], "bitmask"), ([2**31, 2**31, 2**31], "dense"), ([0, 2**60], "dense")],
)
def test_a_claim_out_of_proportion_is_refused_before_memory_is_taken(
    shape: list[int], kind: str, good: bytes, tmp_path: Path
) -> None:
    content, rest = content_of(good, tmp_path)
    content["rows"][0] |= {"shape": shape, "kind": kind, "count": 5}
    container.write_container(tmp_path / "bomb", content, rest)
    with pytest.raises(BootcampError, match="out of"):
        read_sparse(tmp_path / "bomb")


def test_what_reading_would_refuse_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "_ALWAYS_ALLOWED", 2**16)
    with pytest.raises(BootcampError, match="1000 times smaller"):
        write_sparse(tmp_path / "f", {"zeros": torch.zeros(2**20)})
    assert list(tmp_path.iterdir()) == []


def test_a_piece_that_inflates_without_end_is_cut_short(good: bytes, tmp_path: Path) -> None:
    bomb = coding.deflated(bytes(2**24))
    assert len(bomb) < 2**15
    row = {"name": "w", "dtype": "uint8", "shape": [2**15], "kind": "dense", "group": 0}
    content = {"rows": [row], "sizes": [[0, 0, len(bomb)]], "metadata": {}}
    container.write_container(tmp_path / "bomb", content, bomb)
    with pytest.raises(BootcampError, match="does not inflate to its 32768 bytes"):
        read_sparse(tmp_path / "bomb")


def test_a_deeply_nested_index_is_refused(tmp_path: Path) -> None:
    index = b"[" * 200_000
    stored = coding.deflated(index)
    check = struct.pack(container._CHECK, len(index), container._crc(stored, b""))
    parts = {"data": np.empty(0, np.uint8), "index": np.frombuffer(check + stored, np.uint8)}
    (tmp_path / "deep").write_bytes(save_arrays(parts, {"format": f"{container.MARK}/{container.VERSION}"}))
    with pytest.raises(BootcampError, match="its index"):
        read_sparse(tmp_path / "deep")


def _set(row: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["rows"][row].update(changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set(0, count=101), "damaged"),
        (_set(1, n=1), "damaged"),
        (_set(4, of=4), "not a number from 0 to 3"),
        (_set(4, of=5), "not a number from 0 to 3"),
        (_set(4, of=0), "can't equal mask"),
        (_set(4, name="mask"), "there twice"),
        (_set(3, group=77), "group 77"),
        (_set(5, dtype="object"), "unknown type"),
        (_set(5, int8=True), "int8 values of a torch.bool"),
    ],
)
def test_each_lie_has_its_words(
    change: Callable[[dict[str, Any]], None], says: str, good: bytes, tmp_path: Path
) -> None:
    content, rest = content_of(good, tmp_path)
    change(content)
    container.write_container(tmp_path / "lie", content, rest)
    with pytest.raises(BootcampError, match=says) as caught:
        read_sparse(tmp_path / "lie")
    assert str(tmp_path / "lie") in str(caught.value)


def test_values_out_of_range_are_refused(tmp_path: Path) -> None:
    def file(row: dict[str, Any], *pieces: bytes) -> Path:
        content = {"rows": [row | {"name": "w", "kind": "dense", "group": 0}], "metadata": {}}
        container.write_container(tmp_path / "f", content | {"sizes": [[0, 0, *map(len, pieces)]]}, b"".join(pieces))
        return tmp_path / "f"

    with pytest.raises(BootcampError, match="truth value"):
        read_sparse(file({"dtype": "bool", "shape": [2]}, b"\x01\x02"))
    rounded_row = {"dtype": "float32", "shape": [1, 1], "int8": True}
    one = [bytes([byte]) for byte in np.float32([1.0]).tobytes()]
    assert read_sparse(file(rounded_row, b"\x05", *one)).tensors["w"].item() == 5
    with pytest.raises(BootcampError, match="out of range"):
        read_sparse(file(rounded_row, b"\x80", *one))
    for wrong in (-1.0, 0.0, math.nan, math.inf):
        scale = [bytes([byte]) for byte in np.float32([wrong]).tobytes()]
        with pytest.raises(BootcampError, match="out of range"):
            read_sparse(file(rounded_row, b"\x05", *scale))


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "plain.safetensors").write_bytes(save_tensors({"w": torch.ones(2)}))
    with pytest.raises(BootcampError, match="is no sparse file"):
        read_sparse(tmp_path / "plain.safetensors")
    assert not sparse.is_sparse(tmp_path / "plain.safetensors")
    with pytest.raises(BootcampError, match="no such file"):
        read_sparse(tmp_path / "none")
    with pytest.raises(BootcampError):
        read_sparse(tmp_path)
    content = save_arrays({"data": np.empty(0, np.uint8)}, {"format": f"{container.MARK}/2"})
    (tmp_path / "new").write_bytes(content)
    with pytest.raises(BootcampError, match="version 2; this release reads 1"):
        read_sparse(tmp_path / "new")


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        torch.manual_seed(1)
        write_sparse(tmp_path / name, network("unstructured", 0.7), metadata={"b": "1", "a": "2", "c": "3"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
