"""Every loader on files made here, against the pixels that were written; every wrong folder with its message."""

import hashlib
import http.server
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms.v2 import functional as TF

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model
from pruning_bootcamp.tools.datasets import FileSplit, ImageSplit, Split, digits, eval_batches, load_dataset
from pruning_bootcamp.tools.datasets.decoding import Decoder
from pruning_bootcamp.tools.datasets.download import Download, fetch

OFF = {"download": False}


def everything(split: Split) -> np.ndarray:
    return split.fetch(torch.arange(len(split))).numpy()


def message(name: str, root: Path, **args: object) -> str:
    with pytest.raises(BootcampError) as caught:
        load_dataset(name, root=root, args=args)
    return str(caught.value)


def test_digits_are_exactly_scikit_learns() -> None:
    splits = load_dataset("digits")
    bunch = load_digits()
    theirs = {
        (image.astype(int).tobytes(), int(label)) for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    assert len(splits.train) + len(splits.val) + len(splits.test) == len(theirs) == 1797
    for split in (splits.train, splits.val, splits.test):
        back = np.round(everything(split)[:, 0] * (16 / 255)).astype(int)
        assert {(image.tobytes(), int(y)) for image, y in zip(back, split.labels, strict=True)} <= theirs
    assert len(splits.test) == 449
    assert splits.shape == (1, 8, 8)
    assert "flip" not in splits.augment


@pytest.mark.parametrize("kept_elsewhere", [False, True])
def test_digits_are_read_in_scikit_learns_order(kept_elsewhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if kept_elsewhere:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    pixels, labels = digits._read()
    bunch = load_digits()
    assert np.array_equal(pixels, bunch.data)
    assert np.array_equal(labels, bunch.target)
    assert labels.dtype == np.int64


def test_digits_do_not_wait_for_scikit_learn() -> None:
    program = "import sys; from pruning_bootcamp.tools.datasets import load_dataset; load_dataset('digits')"
    check = f"{program}; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize(("place", "suffix"), [("FashionMNIST/raw", ""), ("FashionMNIST/raw", ".gz"), (".", ".gz")])
def test_fashion_mnist_is_read_from_idx_files(disk: ModuleType, tmp_path: Path, place: str, suffix: str) -> None:
    disk.write_fashion(tmp_path / place, suffix)
    splits = load_dataset("fashion_mnist", root=tmp_path, args=OFF)
    assert np.array_equal(everything(splits.test)[:, 0], disk.pixels(20, 28, 28, seed=2))
    assert splits.test.labels.tolist() == [i % 10 for i in range(20)]
    assert splits.class_names[9] == "Ankle boot"


@pytest.mark.parametrize("place", ["cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_cifar10_is_read_from_torchvisions_batches(disk: ModuleType, tmp_path: Path, place: str) -> None:
    disk.write_cifar10(tmp_path / place)
    for root in (tmp_path, tmp_path / place):
        splits = load_dataset("cifar10", root=root, args=OFF)
        assert np.array_equal(everything(splits.test), disk.pixels(20, 3072, seed=5).reshape(20, 3, 32, 32))
        assert splits.test.labels.tolist() == [i % 10 for i in range(20)]
        assert len(splits.train) + len(splits.val) == 100


def test_cifar100_is_read_with_its_class_names(disk: ModuleType, tmp_path: Path) -> None:
    disk.write_cifar100(tmp_path / "cifar-100-python")
    splits = load_dataset("cifar100", root=tmp_path, args=OFF)
    assert np.array_equal(everything(splits.test), disk.pixels(100, 3072, seed=1).reshape(100, 3, 32, 32))
    assert splits.class_names[42] == "class 42"


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_cifar10_class_folders_are_read_exactly_in_torchvisions_order(
    disk: ModuleType, tmp_path: Path, suffix: str
) -> None:
    written = disk.write_tree(tmp_path / "cifar10", {"train": 3, "test": 2}, disk.CIFAR10[::-1], suffix=suffix)
    for root in (tmp_path, tmp_path / "cifar10"):
        splits = load_dataset("cifar10", root=root)
        assert splits.class_names == disk.CIFAR10
        for index, (image, label) in enumerate(zip(everything(splits.test), splits.test.labels, strict=True)):
            assert label == index // 2
            path = f"test/{disk.CIFAR10[label]}/{index % 2}{suffix}"
            assert np.array_equal(image.transpose(1, 2, 0), written[path])


def test_cifar10_class_folders_under_other_names_are_refused(disk: ModuleType, tmp_path: Path) -> None:
    disk.write_tree(tmp_path, {"train": 2, "test": 1}, (*disk.CIFAR10[:-1], "lorry"))
    text = message("cifar10", tmp_path)
    assert "lorry" in text
    assert "use data.name=imagefolder" in text


@pytest.mark.parametrize(
    ("size", "mode", "reason"),
    [((32, 31), "RGB", "32x31 pixels, not 32x32"), ((32, 32), "L", r"1 channels \(L\), not 3")],
)
def test_cifar10_images_of_another_shape_are_named(
    disk: ModuleType, tmp_path: Path, size: tuple[int, int], mode: str, reason: str
) -> None:
    disk.write_tree(tmp_path, {"train": 2, "test": 1}, disk.CIFAR10)
    path = tmp_path / "train" / "frog" / "0.png"
    Image.new(mode, size).save(path)
    with pytest.raises(BootcampError, match=f"{path}: can't be read as an image .{reason}"):
        load_dataset("cifar10", root=tmp_path)


def test_images_of_any_size_and_kind_become_one_size(disk: ModuleType, tmp_path: Path) -> None:
    disk.write_tree(tmp_path, {"train": 3, "test": 3}, sizes=((40, 20), (20, 60), (24, 24)))
    folder = tmp_path / "test" / "apple"
    Image.new("L", (50, 30), 7).save(folder / "grey.png")
    Image.new("RGBA", (30, 50), (1, 2, 3, 128)).save(folder / "see-through.PNG")
    Image.new("CMYK", (30, 30)).save(folder / "print.jpg")
    (folder / "notes.txt").write_text("not an image, and not looked at")
    (folder / ".hidden.png").write_text("nor is this")
    (folder / "more").mkdir()
    Image.new("P", (64, 32)).save(folder / "more" / "palette.png")
    splits = load_dataset("imagefolder", root=tmp_path, args={"size": 16, "resize": 20})
    assert splits.shape == (3, 16, 16)
    assert len(splits.test) == 3 * 3 + 4
    assert isinstance(splits.test, ImageSplit)
    assert splits.test.images.shape == (13, 3, 20, 20)
    assert splits.test.labels.bincount().tolist() == [7, 3, 3]
    grey = load_dataset("imagefolder", root=tmp_path, args={"size": 16, "channels": 1})
    assert grey.shape == (1, 16, 16)
    assert len(grey.mean) == 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_are_resized_and_cut_as_torchvision_does(disk: ModuleType, tmp_path: Path, mode: str) -> None:
    sizes = ((60, 40), (40, 61), (33, 20), (20, 20), (20, 35), (10, 15), (321, 77))
    decode = Decoder(channels=3, side=20)
    for path in disk.write_tree(tmp_path, {"train": 7}, ("one",), sizes=sizes, mode=mode):
        image = Image.open(tmp_path / path).convert("RGB")
        theirs = TF.center_crop(TF.resize(image, [20]), [20, 20])
        assert np.array_equal(decode(str(tmp_path / path)), np.asarray(theirs).transpose(2, 0, 1)), image.size


def test_val_is_validation_and_where_there_is_no_test_its_other_half_is_that(disk: ModuleType, tmp_path: Path) -> None:
    args = {"size": 32, "resize": 32}
    disk.write_tree(tmp_path / "three", {"train": 10, "val": 3, "test": 2})
    three = load_dataset("imagefolder", root=tmp_path / "three", args=args)
    assert (len(three.train), len(three.val), len(three.test)) == (30, 9, 6)
    assert (three.val_from, three.test_from) == ("val/", "test/")
    disk.write_tree(tmp_path / "plain", {"train": 10, "test": 3})
    plain = load_dataset("imagefolder", root=tmp_path / "plain", args=args, val_fraction=0.2)
    assert (len(plain.train), len(plain.val), len(plain.test)) == (24, 6, 9)
    assert (plain.val_from, plain.test_from) == ("held out of train", "test/")


@pytest.mark.parametrize(("name", "cache_mb"), [("imagefolder", 1500), ("imagefolder", 0), ("imagenet_mini", 1500)])
def test_no_image_of_train_is_judged_on_and_no_image_of_val_twice(
    disk: ModuleType, tmp_path: Path, name: str, cache_mb: int
) -> None:
    written = disk.write_tree(tmp_path, {"train": 10, "val": 5})
    args = {"size": 32, "resize": 32, "cache_mb": cache_mb}
    splits = load_dataset(name, root=tmp_path, args=args)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (30, 7, 8)
    assert splits.val_from == "one half of val/"
    assert "other half of val/" in splits.test_from
    for part, found in (("train", [splits.train]), ("val", [splits.val, splits.test])):
        theirs = [image.tobytes() for path, image in written.items() if path.startswith(f"{part}/")]
        ours = [image.transpose(1, 2, 0).tobytes() for split in found for image in everything(split)]
        assert sorted(ours) == sorted(theirs)
    again = load_dataset(name, root=tmp_path, args={**args, "cache_mb": 1500}, val_fraction=0.4)
    assert np.array_equal(everything(again.val), everything(splits.val))
    other = load_dataset(name, root=tmp_path, args={**args, "split_seed": 1})
    assert np.array_equal(everything(other.test), everything(splits.test))  # one test set, whatever the seed


def test_a_hash_knows_a_split_by_its_images_wherever_they_lie(disk: ModuleType, tmp_path: Path) -> None:
    for folder in ("here", "there"):
        disk.write_tree(tmp_path / folder, {"train": 10, "test": 3})
    for cache_mb in (1500, 0):
        args = {"size": 32, "resize": 32, "cache_mb": cache_mb}
        here, there = (load_dataset("imagefolder", root=tmp_path / f, args=args) for f in ("here", "there"))
        assert here.val.content_hash() == there.val.content_hash()
        assert len({split.content_hash() for split in (here.train, here.val, here.test)}) == 3
        other = load_dataset("imagefolder", root=tmp_path / "here", args={**args, "split_seed": 1})
        assert other.val.content_hash() != here.val.content_hash()


def test_a_set_too_large_to_keep_stays_in_its_files(
    disk: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk.write_tree(tmp_path, {"train": 10, "test": 4}, sizes=((40, 36),))
    caplog.set_level("INFO", logger="pruning_bootcamp")
    args = {"size": 28, "resize": 32}
    kept = load_dataset("imagefolder", root=tmp_path, args=args)
    assert isinstance(kept.train, ImageSplit)
    left = load_dataset("imagefolder", root=tmp_path, args={**args, "cache_mb": 0.1})
    assert "more than data.args.cache_mb=0.1" in caplog.text
    for one, other in ((kept.train, left.train), (kept.val, left.val), (kept.test, left.test)):
        assert isinstance(other, FileSplit)
        assert np.array_equal(everything(one), everything(other))
        assert torch.equal(one.labels, other.labels)


def test_validation_is_cut_with_the_limit_but_not_below_500(disk: ModuleType, tmp_path: Path) -> None:
    disk.write_fashion(tmp_path, train=3000, test=20)

    def lengths(limit: int | None) -> tuple[int, int, int]:
        splits = load_dataset("fashion_mnist", root=tmp_path, args=OFF, val_fraction=0.4, limit=limit)
        return len(splits.train), len(splits.val), len(splits.test)

    assert lengths(None) == (1800, 1200, 20)
    assert lengths(800) == (800, 800, 20)
    assert lengths(100) == (100, 500, 20)
    assert lengths(5000) == (1800, 1200, 20)


def test_unreadable_images_are_all_named_at_once(disk: ModuleType, tmp_path: Path) -> None:
    disk.write_tree(tmp_path, {"train": 5, "test": 2}, suffix=".jpg")
    good = (tmp_path / "train" / "apple" / "0.jpg").read_bytes()
    damage = {"apple/1": good[: len(good) // 2], "banana/2": b"", "cherry/3": b"GIF89a nonsense"}
    for name, content in damage.items():
        (tmp_path / "train" / f"{name}.jpg").write_bytes(content)
    text = message("imagefolder", tmp_path, size=32, resize=32)
    for name in damage:
        assert f"{tmp_path}/train/{name}.jpg: can't be read as an image (" in text
    assert len(text.splitlines()) == 3


def test_sixteen_bit_images_are_refused_rather_than_clipped(disk: ModuleType, tmp_path: Path) -> None:
    disk.write_tree(tmp_path, {"train": 2, "test": 1})
    Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(tmp_path / "train" / "apple" / "deep.png")
    assert "deep.png: can't be read as an image (mode I;16" in message("imagefolder", tmp_path, size=32)


def _remove_classes(root: Path) -> None:
    for name in ("banana", "cherry"):
        for part in ("train", "test"):
            for path in (root / part / name).iterdir():
                path.unlink()
            (root / part / name).rmdir()


def _empty_one(root: Path) -> None:
    for path in (root / "train" / "banana").iterdir():
        path.rename(path.with_suffix(".txt"))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda root: (root / "test").rename(root / "tests"), ("no class folders", "holds the folders tests, train")),
        (_remove_classes, ("holds only the class folder apple", "two classes or more")),
        (_empty_one, ("no images (.bmp, ", "train/banana. Remove the folder or fill it")),
        (lambda root: (root / "test" / "plum").mkdir(), ("has, beyond them, plum", "test/plum")),
        (lambda root: (root / "test" / "apple").rename(root / "apple"), ("it lacks apple",)),
    ],
)
def test_a_wrong_tree_says_what_is_wrong(disk: ModuleType, tmp_path: Path, spoil, expected: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    disk.write_tree(tmp_path, {"train": 2, "test": 1})
    spoil(tmp_path)
    text = message("imagefolder", tmp_path, size=32)
    assert text.startswith("data.root: ")
    for part in (*expected, str(tmp_path)):
        assert part in text


def test_a_missing_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for name, looked_for in (
        ("imagefolder", "nowhere/train with"),
        ("imagenet_mini", "nowhere/imagenet-mini/train"),
        ("cifar10", "nowhere/cifar-10-batches-py/data_batch_1"),
        ("cifar100", "nowhere/cifar-100-python/train"),
        ("fashion_mnist", "nowhere/FashionMNIST/raw/train-images-idx3-ubyte"),
    ):
        text = message(name, nowhere, **({} if name.startswith("image") else OFF))
        assert f"the folder {nowhere} does not exist" in text
        assert looked_for in text
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in message("cifar10", tmp_path / "file")
    assert "is a file, not a folder" in message("imagefolder", tmp_path / "file")


def test_incomplete_files_are_named(disk: ModuleType, tmp_path: Path) -> None:
    disk.write_cifar10(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    assert "cifar-10-batches-py lacks data_batch_3" in message("cifar10", tmp_path)
    disk.write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert "lacks t10k-labels-idx1-ubyte" in message("fashion_mnist", tmp_path)
    disk.write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(7, np.uint8))
    assert "do not belong together" in message("fashion_mnist", tmp_path)
    disk.write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.full(20, 10, np.uint8))
    assert "has label 10, where there are 10 classes" in message("fashion_mnist", tmp_path)


def test_wrong_settings_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(BootcampError) as caught:
        load_dataset("digits", root=tmp_path, val_fraction=1.0, limit=0, args={"split_sed": 1, "mean": [0.1, 0.2]})
    text = str(caught.value)
    assert "data.args.split_sed: unknown setting 'split_sed'. Did you mean 'split_seed'?" in text
    assert "data.args.mean: 2 values for 1 channels" in text
    assert "data.val_fraction: 1.0 is not in (0, 1)" in text
    assert "data.limit: 0" in text
    assert "unknown dataset 'digit'. Did you mean 'digits'?" in message("digit", tmp_path)


def test_a_size_larger_than_the_stored_images_is_refused(disk: ModuleType, tmp_path: Path) -> None:
    disk.write_tree(tmp_path, {"train": 2, "test": 1})
    assert "need 1 <= size <= resize" in message("imagefolder", tmp_path, size=32, resize=16)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address and its folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            """No line per request."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_address[1]}", folder
        web.shutdown()
        thread.join()


def test_a_download_is_checked_unpacked_and_leaves_nothing_else(
    disk: ModuleType, tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    address, folder = server
    disk.write_cifar10(tmp_path / "made" / "cifar-10-batches-py")
    with tarfile.open(folder / "cifar.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    md5 = hashlib.md5((folder / "cifar.tar.gz").read_bytes()).hexdigest()
    name = "cifar-10-batches-py"
    root = tmp_path / "data"
    fetch(Download("CIFAR-10", [(f"{address}/cifar.tar.gz", md5)], name, inner=name), root, allowed=True)
    assert os.listdir(root) == [name]
    assert len(load_dataset("cifar10", root=root, args=OFF).test) == 20

    wrong = Download("CIFAR-10", [(f"{address}/cifar.tar.gz", "0" * 32)], name, inner=name)
    with pytest.raises(BootcampError, match="could not be downloaded"):
        fetch(wrong, tmp_path / "other", allowed=True)
    assert os.listdir(tmp_path / "other") == []

    disk.write_fashion(folder, ".gz")
    parts = [
        (f"{address}/{path.name}", hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(folder.glob("*idx*"))
    ]
    assert len(parts) == 4
    fetch(Download("Fashion-MNIST", parts, "FashionMNIST/raw"), root, allowed=True)
    assert sorted(os.listdir(root / "FashionMNIST")) == ["raw"]
    assert len(load_dataset("fashion_mnist", root=root, args=OFF).test) == 20


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_without_a_network_the_message_says_what_to_put_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    text = message(name, tmp_path / "data")
    assert "could not be downloaded" in text
    assert "unpack, so that the files lie in" in text
    assert list((tmp_path / "data").rglob("*")) in ([], [tmp_path / "data" / "FashionMNIST"])


@pytest.mark.slow
def test_real_cifar10_agrees_with_a_published_network(cifar10_folder: Path, published_resnet20: Path) -> None:
    """91.73% on the 10,000 test images: decoding, label order and normalisation are right, all at once."""
    args = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    splits = load_dataset("cifar10", root=cifar10_folder, args=args)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (45000, 5000, 10000)
    model = build_model("cifar_resnet20", classes=10).eval()
    state = torch.load(published_resnet20, weights_only=True, map_location="cpu")["state_dict"]
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    right = 0
    with torch.inference_mode():
        for images, labels in eval_batches(splits.test, batch_size=250, mean=splits.mean, std=splits.std, device="cpu"):
            right += int((model(images).argmax(1) == labels).sum())
    assert right == 9173
