"""Sizes that a file's own header claims: refused with a message, before the memory or the disk is taken."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from pruning_bootcamp.checkpoints import Recipe, load_checkpoint, load_model, save_checkpoint
from pruning_bootcamp.checkpoints.files import read_file
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model
from pruning_bootcamp.tools.datasets import archives
from pruning_bootcamp.tools.datasets.decoding import Decoder
from pruning_bootcamp.tools.datasets.download import Download, fetch
from pruning_bootcamp.tools.datasets.formats import read_batch, read_idx

RECIPE = Recipe("cifar_resnet20", {}, 10, 1, (1, 8, 8), (0.5,), (0.25,))
MOST_MB = 200


@pytest.fixture(autouse=True)
def _little_memory(fuzzing: ModuleType) -> Iterator[None]:
    """Nothing here may take more than a good file of the size would."""
    before = fuzzing.peak_mb()
    yield
    assert fuzzing.peak_mb() - before < MOST_MB


def refused(action: Callable[[], object], *words: str) -> None:
    with pytest.raises(BootcampError) as caught:
        action()
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "m.pth", build_model("cifar_resnet20", classes=10, in_channels=1), RECIPE)
    return tmp_path / "m.pth"


# --- checkpoints


def rezip(path: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> None:
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w", method) as new:
        for entry in old.infolist():
            with new.open(entry.filename, "w") as stream:
                stream.write(change(entry.filename, old.read(entry)))


@pytest.mark.parametrize("entry", ["data.pkl", "data/0", "byteorder"])
def test_a_zip_bomb_is_no_checkpoint(own: Path, entry: str) -> None:
    rezip(own, lambda name, data: bytes(2**26) if name.endswith(entry) else data, zipfile.ZIP_DEFLATED)
    assert own.stat().st_size < 2**21
    refused(lambda: read_file(own), "would unpack to", "never compressed")


def test_an_archive_that_begins_elsewhere_is_refused(own: Path) -> None:
    own.write_bytes(own.read_bytes()[:4] + own.read_bytes())
    refused(lambda: read_file(own), "does not begin where the file does")


def test_a_legacy_file_that_claims_a_terabyte(tmp_path: Path) -> None:
    path = tmp_path / "legacy.th"
    torch.save({"a": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    claim = b"\x8a\x06" + (2**40).to_bytes(6, "little")  # in the place of K\x04
    for claimed in (claim, b"J\xff\xff\xff\x7f"):
        path.write_bytes(path.read_bytes().replace(b"K\x04N", claimed + b"N"))
        refused(lambda: read_file(path), "damaged")


def test_a_tensor_that_repeats_one_number_for_ever(own: Path) -> None:
    content = torch.load(own, weights_only=True)
    content["state_dict"]["linear.weight"] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(content, own)
    refused(lambda: load_model(own), "claims 4,000,000,000,000 bytes and has 4")


@pytest.mark.parametrize(
    "value",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    ],
)
def test_tensors_that_are_not_plain_are_refused(own: Path, value: Callable[[], Any]) -> None:
    content = torch.load(own, weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content["state_dict"]["linear.weight"] = value()
    torch.save(content, own)
    refused(lambda: load_model(own), "plain tensors only")


def _itself() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


def _laughs() -> list[Any]:
    inner: list[Any] = [1]
    for _ in range(30):
        inner = [inner] * 9
    return inner


@pytest.mark.parametrize(("value", "words"), [(_itself, "nests deeper"), (_laughs, "stands for more than")])
@pytest.mark.parametrize("place", ["metrics", "recipe", "state_dict", "changes"])
def test_a_few_bytes_that_stand_for_a_billion_values(
    own: Path, place: str, value: Callable[[], Any], words: str
) -> None:
    content = torch.load(own, weights_only=True)
    if place == "changes":
        content["recipe"]["changes"] = {"conv1": {"stride": value()}}
    else:
        content[place]["x"] = value()
    torch.save(content, own)
    assert own.stat().st_size < 2**21
    refused(lambda: load_model(own), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": 10**12}, "can't belong together"),
        ({"classes": 2**62}, "can't belong together"),
        ({"classes": 10**30}, "more than 64 bits"),
        ({"in_channels": 10**9, "mean": (0.5,), "input_shape": (10**9, 8, 8)}, "'input_shape'"),
        ({"input_shape": (1, 10**6, 10**6)}, "'input_shape'"),
        ({"input_shape": (1, 0, 8)}, "'input_shape'"),
        ({"mean": (0.5,) * 1000}, "'mean'"),
        ({"std": (float("inf"),)}, "'std'"),
        ({"class_names": ("a",) * 7}, "7 names for 10 classes"),
        ({"model": "vgg16_bn", "classes": 10**9}, "can't belong together"),
        ({"model": "mobilenet_v2", "args": {"inverted_residual_setting": [[1, 1, 10**9, 1]]}}, "can't belong"),
        ({"model": "mobilenet_v2", "args": {"width_mult": 1e9}}, "can't belong together"),
        ({"model": "resnet18", "args": {"groups": 0}}, "can't be built"),
    ],
)
def test_a_recipe_of_a_network_that_no_machine_holds(own: Path, changes: dict[str, Any], words: str) -> None:
    content = torch.load(own, weights_only=True)
    content["recipe"].update(changes, class_names=changes.get("class_names", ()))
    torch.save(content, own)
    refused(lambda: load_model(own), words)


def test_a_network_pruned_to_a_thousandth_still_opens(tmp_path: Path) -> None:
    """The limit is on what a file's weights can be a pruned part of, and does not touch real ones."""
    recipe = Recipe("vgg16_bn", {}, 10, 3, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    model: Any = build_model("vgg16_bn", classes=10)
    for number, layer in list(enumerate(model.features)):
        if isinstance(layer, nn.Conv2d):
            model.features[number] = nn.Conv2d(3 if number == 0 else 2, 2, 3, padding=1)
        elif isinstance(layer, nn.BatchNorm2d):
            model.features[number] = nn.BatchNorm2d(2)
    model.classifier = nn.Linear(2, 10)
    save_checkpoint(tmp_path / "m.pth", model.eval(), recipe)
    small: Any = load_model(tmp_path / "m.pth")
    assert sum(tensor.numel() for tensor in small.parameters()) < 1000
    assert small(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("announced", [2**20, 2**40, 2**63])
def test_a_safetensors_header_longer_than_the_file(tmp_path: Path, announced: int) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", announced) + b"{}")
    refused(lambda: read_file(tmp_path / "x.safetensors"), "announces a header of", "has 10")


def test_a_safetensors_shape_larger_than_the_file(tmp_path: Path) -> None:
    for shape, end in (([2**40], 2**42), ([2**62, 4], 8), ([-1], 4)):
        header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        refused(lambda: read_file(tmp_path / "x.safetensors"), "damaged")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    refused(lambda: load_checkpoint(path if kind == "pipe" else "/dev/zero", recipe=RECIPE), "not a file")


# --- data sets


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(bytes(2**16))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**27, 1)])
def test_a_decompression_bomb_is_no_image(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "x.png").write_bytes(png(width, height))
    tracemalloc.start()
    refused(lambda: Decoder(channels=3, side=8)(str(tmp_path / "x.png")), "x.png: can't be read as an image")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_postscript_under_the_name_of_an_image_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL hands PostScript to Ghostscript, whatever the file's name."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("Ghostscript was called"))
    monkeypatch.setattr("subprocess.check_output", lambda *_, **__: pytest.fail("Ghostscript was called"))
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    refused(lambda: Decoder(channels=3, side=8)(str(tmp_path / "x.png")), "not an image")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_file_that_announces_more_than_there_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    write = (lambda data: path.write_bytes(gzip.compress(data))) if suffix else path.write_bytes
    for shape, words in (((2**32 - 1,) * 3, "are the most"), ((2**20, 2), "are announced"), ((1, 1), "are announced")):
        write(struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(7))
        refused(lambda: read_idx(path), words)
    write(struct.pack(">HBB", 0, 8, 255) + bytes(2000))
    refused(lambda: read_idx(path), "is not an idx file")


def test_a_compressed_idx_file_is_read_no_further_than_it_announces(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "x.gz", "wb") as stream:
        stream.write(struct.pack(">HBBI", 0, 8, 1, 10))
        for _ in range(512):
            stream.write(bytes(2**20))
    refused(lambda: read_idx(tmp_path / "x.gz"), "more bytes, where 10 are announced")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # numbers a value 2**31: Python would take 34 GB
        b"\x80\x04B\xff\xff\xff\x7fx.",  # announces bytes that are not there
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.",
        b"\x80\x05\x96\xff\xff\xff\xff\x00\x00\x00\x00x.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
    ],
)
def test_a_batch_that_announces_gigabytes(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(raw)
    refused(lambda: read_batch(tmp_path / "batch"), "batch")


def test_a_batch_nested_a_million_deep(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(b"\x80\x02" + b"(" * 10**6 + b"l" * 10**6 + b".")
    refused(lambda: read_batch(tmp_path / "batch"), "batch")
    assert pickle.HIGHEST_PROTOCOL  # the module is used by name only


# --- downloaded archives


def tar_with(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        good = tarfile.TarInfo("data/good")
        good.size = 3
        tar.addfile(good, io.BytesIO(b"abc"))
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)) if member.isreg() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    info.size = 1 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "evil",
    [
        member("../escaped"),
        member("data/../../escaped"),
        member("/tmp/escaped"),
        member("data\\..\\escaped"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("link", tarfile.SYMTYPE, ".."),
        member("link", tarfile.LNKTYPE, "data/good"),
        member("device", tarfile.CHRTYPE),
        member("device", tarfile.BLKTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name} {info.type!r}",
)
def test_members_that_lead_out_of_the_folder_are_refused(tmp_path: Path, evil: tarfile.TarInfo) -> None:
    folder = tmp_path / "deep" / "unpacked"
    folder.mkdir(parents=True)
    refused(lambda: archives.unpack(tar_with(tmp_path / "x.tar.gz", evil), folder), "x.tar.gz: refused", evil.name)
    assert list(folder.iterdir()) == []  # the good one before it was not written either
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "x.tar.gz"]


def test_a_good_archive_is_unpacked_without_its_own_permissions(tmp_path: Path) -> None:
    wide = member("data/wide")
    wide.mode = 0o6777
    (tmp_path / "out").mkdir()
    archives.unpack(tar_with(tmp_path / "x.tar.gz", wide), tmp_path / "out")
    assert (tmp_path / "out" / "data" / "good").read_bytes() == b"abc"
    assert (tmp_path / "out" / "data" / "wide").stat().st_mode & 0o7133 == 0


def test_archives_that_unpack_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 2**20)
    (tmp_path / "out").mkdir()
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("zeros")
        info.size = 2**21
        tar.addfile(info, io.BytesIO(bytes(2**21)))
    (tmp_path / "y.gz").write_bytes(gzip.compress(bytes(2**21)))
    for name in ("x.tar.gz", "y.gz"):
        refused(lambda name=name: archives.unpack(tmp_path / name, tmp_path / "out"), "would unpack to more than")
    assert not (tmp_path / "out" / "zeros").exists()
    monkeypatch.setattr(archives, "MOST_FILES", 0)
    refused(lambda: archives.unpack(tar_with(tmp_path / "z.tar.gz"), tmp_path / "out"), "would unpack to more than")


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", gzip.compress(b"not a tar", mtime=0)[:-9]], ids=["empty", "text", "cut"]
)
def test_a_damaged_archive_is_a_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    (tmp_path / "y.gz").write_bytes(content or b"x")
    for name in ("x.tar.gz", "y.gz"):
        refused(lambda name=name: archives.unpack(tmp_path / name, tmp_path), "damaged")


def test_a_download_goes_through_these_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(address: str, folder: str, name: str, md5: str) -> None:
        tar_with(Path(folder) / name, member("../../escaped"))

    monkeypatch.setattr("pruning_bootcamp.tools.datasets.download.download_url", download)
    what = Download("X", [("http://nowhere/x.tar.gz", "0")], "x")
    refused(lambda: fetch(what, tmp_path / "data", allowed=True), "refused", "escaped")
    assert list(tmp_path.rglob("*")) == [tmp_path / "data"]
