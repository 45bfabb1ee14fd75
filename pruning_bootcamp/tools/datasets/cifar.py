"""CIFAR-10 and CIFAR-100: torchvision's batches, or for CIFAR-10 class folders too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.tools.datasets.catalog import DATASETS, Statistic, make_splits
from pruning_bootcamp.tools.datasets.decoding import Decoder
from pruning_bootcamp.tools.datasets.download import Download, check_complete, fetch, may_be_absent
from pruning_bootcamp.tools.datasets.folders import Tree, find_tree, is_tree, open_tree
from pruning_bootcamp.tools.datasets.formats import read_batch, read_cifar
from pruning_bootcamp.tools.datasets.splits import ImageSplit, Splits

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# mean and standard deviation of the training pixels
CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def _cifar_download(title: str, kind: type[CIFAR10]) -> Download:
    return Download(title, [(kind.url, kind.tgz_md5)], kind.base_folder, inner=kind.base_folder)


def _cifar_files(kind: type[CIFAR10]) -> list[str]:
    return [name for name, _ in kind.train_list + kind.test_list]


def _find_batches(root: Path, kind: type[CIFAR10], alias: str) -> Path | None:
    for place in (root / kind.base_folder, root / alias / kind.base_folder, root):
        if place.name == kind.base_folder and place.is_dir():
            return place
    return None


def _find_cifar10(root: Path) -> Tree | Path | None:
    """A class-folder tree, or the folder of torchvision's batches; the more specific place first."""
    if is_tree(root / "cifar10"):
        return _cifar10_tree(root / "cifar10")
    batches = _find_batches(root, CIFAR10, "cifar10")
    if batches is not None:
        return batches
    return _cifar10_tree(root) if is_tree(root) else None


def _cifar10_tree(folder: Path) -> Tree:
    """The tree, only with CIFAR-10's own class names: another name would shift every label behind it."""
    tree = find_tree([folder])
    if tree.class_names != CIFAR10_CLASSES:
        raise BootcampError(
            f"{tree.train} has the class folders {listed(tree.class_names, 12)}; CIFAR-10's are "
            f"{listed(CIFAR10_CLASSES)}. Rename them, or use data.name=imagefolder for images of your own."
        )
    return tree


def _look_cifar10(root: Path, settings: dict[str, Plain]) -> None:
    found = _find_cifar10(root)
    if found is None:
        looked_for = [
            f"{root}/{CIFAR10.base_folder}/data_batch_1",
            f"{root}/cifar10/train/airplane/ and so on",
            f"{root}/train/airplane/ and so on",
        ]
        may_be_absent("CIFAR-10", looked_for, root, settings)
    elif isinstance(found, Path):
        check_complete(found, [name for name in _cifar_files(CIFAR10) if not (found / name).exists()])


@DATASETS.register("cifar10", channels=3, look=_look_cifar10)
def cifar10(
    *,
    root: Path,
    val_fraction: float,
    limit: int | None,
    split_seed: int = 0,
    download: bool = True,
    mean: Statistic | None = None,
    std: Statistic | None = None,
) -> Splits:
    """60,000 colour pictures, 32x32, 10 classes; torchvision's batches (downloaded when absent) or class folders.

    mean and std are CIFAR-10's own by default; the published ResNet checkpoints were trained with ImageNet's,
    mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225].
    """
    found = _find_cifar10(root) or fetch(_cifar_download("CIFAR-10", CIFAR10), root, download)
    if isinstance(found, Tree):
        decoder = Decoder(channels=3, side=32, exact=True)
        parts: dict[str, Any] = open_tree(found, decoder, size=32, cache_mb=float("inf"))
    else:
        parts = {part: _batches(found, names, "labels", 10) for part, names in _batch_names(CIFAR10).items()}
    return make_splits(
        "cifar10",
        **parts,
        class_names=CIFAR10_CLASSES,
        mean=mean or CIFAR10_STATISTICS[0],
        std=std or CIFAR10_STATISTICS[1],
        augment=("crop", "flip"),
        val_fraction=val_fraction,
        split_seed=split_seed,
        limit=limit,
    )


def _look_cifar100(root: Path, settings: dict[str, Plain]) -> None:
    found = _find_batches(root, CIFAR100, "cifar100")
    if found is None:
        may_be_absent("CIFAR-100", [f"{root}/{CIFAR100.base_folder}/train"], root, settings)
    else:
        names = [*_cifar_files(CIFAR100), "meta"]
        check_complete(found, [name for name in names if not (found / name).exists()])


@DATASETS.register("cifar100", channels=3, look=_look_cifar100)
def cifar100(
    *,
    root: Path,
    val_fraction: float,
    limit: int | None,
    split_seed: int = 0,
    download: bool = True,
    mean: Statistic | None = None,
    std: Statistic | None = None,
) -> Splits:
    """60,000 colour pictures, 32x32, 100 classes; torchvision's batches, downloaded when absent."""
    folder = _find_batches(root, CIFAR100, "cifar100") or fetch(_cifar_download("CIFAR-100", CIFAR100), root, download)
    names = read_batch(folder / "meta").get("fine_label_names")
    if not isinstance(names, list) or len(names) != 100:
        raise BootcampError(f"{folder / 'meta'}: does not name 100 classes. Delete the folder and get it again.")
    parts: dict[str, Any] = {
        part: _batches(folder, files, "fine_labels", 100) for part, files in _batch_names(CIFAR100).items()
    }
    return make_splits(
        "cifar100",
        **parts,
        class_names=tuple(str(name) for name in names),
        mean=mean or CIFAR100_STATISTICS[0],
        std=std or CIFAR100_STATISTICS[1],
        augment=("crop", "flip"),
        val_fraction=val_fraction,
        split_seed=split_seed,
        limit=limit,
    )


def _batch_names(kind: type[CIFAR10]) -> dict[str, list[str]]:
    return {"train": [name for name, _ in kind.train_list], "test": [name for name, _ in kind.test_list]}


def _batches(folder: Path, names: Sequence[str], label_key: str, classes: int) -> ImageSplit:
    pairs = [read_cifar(folder / name, label_key, classes) for name in names]
    return ImageSplit(torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs]))
