"""Real data set files, made small: idx files, CIFAR batches, class folders of images. No two images are alike."""

import gzip
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES = ("apple", "banana", "cherry")


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(path: Path, values: np.ndarray) -> None:
    """The idx format: two zero bytes, 8 for unsigned bytes, the dimensions, the sizes, the values."""
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = head + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion(folder: Path, suffix: str = "", train: int = 60, test: int = 20) -> None:
    for part, count, seed in (("train", train, 1), ("t10k", test, 2)):
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", pixels(count, 28, 28, seed=seed))
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", (np.arange(count) % 10).astype(np.uint8))


def write_batch(path: Path, data: np.ndarray, labels: Sequence[int], key: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"data": data, key: list(labels), "filenames": ["a.png"] * len(labels)}, protocol=2))


def write_cifar10(folder: Path, each: int = 20) -> None:
    """`each` images per batch file."""
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        write_batch(folder / name, pixels(each, 3072, seed=number), [i % 10 for i in range(each)], "labels")


def write_cifar100(folder: Path, train: int = 300, test: int = 100) -> None:
    for number, (name, count) in enumerate((("train", train), ("test", test))):
        write_batch(folder / name, pixels(count, 3072, seed=number), [i % 100 for i in range(count)], "fine_labels")
    names = {"fine_label_names": [f"class {i}" for i in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))


def write_tree(
    root: Path,
    parts: Mapping[str, int],
    classes: Sequence[str] = CLASSES,
    sizes: Sequence[tuple[int, int]] = ((32, 32),),
    suffix: str = ".png",
    mode: str = "RGB",
) -> dict[str, np.ndarray]:
    """`parts` says how many images each class folder of a part gets; pixels by path, "train/cat/3.png"."""
    written = {}
    seed = 0
    for part, count in parts.items():
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                seed += 1
                width, height = sizes[seed % len(sizes)]
                shape = (height, width, 3) if mode == "RGB" else (height, width)
                image = pixels(1, *shape, seed=seed)[0]
                path = folder / f"{number}{suffix}"
                options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
                Image.fromarray(image, mode).save(path, **options)
                written[f"{part}/{name}/{number}{suffix}"] = image
    return written


def prepare(name: str, root: Path) -> tuple[Path, dict[str, Any]]:
    """A small copy of the data set of that name on disk: its root and the settings that open it."""
    small = {"size": 28, "resize": 32}
    if name == "digits":
        return root, {}
    if name == "fashion_mnist":
        write_fashion(root / "FashionMNIST" / "raw")
        return root, {"download": False}
    if name == "cifar10":
        write_cifar10(root / "cifar-10-batches-py")
        return root, {"download": False}
    if name == "cifar100":
        write_cifar100(root / "cifar-100-python")
        return root, {"download": False}
    if name == "imagefolder":
        write_tree(root, {"train": 12, "test": 4}, sizes=((40, 32), (32, 50), (64, 64)))
        return root, small
    if name == "imagenet_mini":
        write_tree(root / "imagenet-mini", {"train": 12, "val": 4}, sizes=((40, 32), (32, 50)), suffix=".webp")
        return root, small
    raise AssertionError(f"say in tests/dataset_files.py how '{name}' looks on disk, so that its contract is tested")
