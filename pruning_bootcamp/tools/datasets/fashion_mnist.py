"""Fashion-MNIST, from its idx files as torchvision lays them out, plain or compressed."""

from pathlib import Path

from torchvision.datasets import FashionMNIST

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.tools.datasets.catalog import DATASETS, Statistic, make_splits
from pruning_bootcamp.tools.datasets.download import Download, check_complete, fetch, may_be_absent
from pruning_bootcamp.tools.datasets.formats import read_idx
from pruning_bootcamp.tools.datasets.splits import ImageSplit, Splits

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MEAN, STD = (0.2860,), (0.3530,)  # of the training pixels
DOWNLOAD = Download(
    "Fashion-MNIST",
    [(FashionMNIST.mirrors[0] + name, md5) for name, md5 in FashionMNIST.resources],
    "FashionMNIST/raw",
)


def _find(root: Path) -> Path | None:
    places = (root / "FashionMNIST" / "raw", root / "fashion-mnist", root)
    return next((place for place in places if any(_idx_file(place, name).exists() for name in FILES)), None)


def _idx_file(folder: Path, name: str) -> Path:
    """The plain file, else the compressed one."""
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _look(root: Path, settings: dict[str, Plain]) -> None:
    folder = _find(root)
    if folder is None:
        may_be_absent("Fashion-MNIST", [f"{root}/FashionMNIST/raw/{FILES[0]}[.gz]"], root, settings)
    else:
        check_complete(folder, [name for name in FILES if not _idx_file(folder, name).exists()])


@DATASETS.register("fashion_mnist", channels=1, look=_look)
def fashion_mnist(
    *,
    root: Path,
    val_fraction: float,
    limit: int | None,
    split_seed: int = 0,
    download: bool = True,
    mean: Statistic | None = None,
    std: Statistic | None = None,
) -> Splits:
    """70,000 grey pictures of clothes, 28x28, 10 classes; torchvision's files, downloaded when absent."""
    folder = _find(root) or fetch(DOWNLOAD, root, allowed=download)
    names = tuple(FashionMNIST.classes)
    return make_splits(
        "fashion_mnist",
        train=_idx_split(folder, *FILES[:2], len(names)),
        test=_idx_split(folder, *FILES[2:], len(names)),
        class_names=names,
        mean=mean or MEAN,
        std=std or STD,
        augment=("crop", "flip"),
        val_fraction=val_fraction,
        split_seed=split_seed,
        limit=limit,
    )


def _idx_split(folder: Path, images_name: str, labels_name: str, classes: int) -> ImageSplit:
    images, labels = read_idx(_idx_file(folder, images_name)), read_idx(_idx_file(folder, labels_name))
    if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
        raise BootcampError(
            f"{folder}: {images_name} of shape {tuple(images.shape)} and {labels_name} of shape {tuple(labels.shape)} "
            "do not belong together. Delete the folder and get it again."
        )
    if len(labels) and int(labels.max()) >= classes:
        raise BootcampError(
            f"{folder / labels_name}: has label {int(labels.max())}, where there are {classes} classes."
        )
    return ImageSplit(images[:, None], labels)
