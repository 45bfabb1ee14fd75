"""Image sets of the user's own: class folders with images of any size."""

from pathlib import Path
from typing import Any, Literal

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.datasets.catalog import DATASETS, Statistic, make_splits
from pruning_bootcamp.tools.datasets.decoding import Decoder
from pruning_bootcamp.tools.datasets.folders import Tree, find_tree, open_tree
from pruning_bootcamp.tools.datasets.splits import Splits

# ImageNet's, as torchvision's pretrained models expect
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
GREY = ((0.449,), (0.226,))
MINI_NAMES = ("imagenet-mini", "imagenet_mini")


def _places(root: Path, names: tuple[str, ...] = ()) -> list[Path]:
    return [*(root / name for name in names), root]


def _look_folder(root: Path, settings: dict[str, Any]) -> None:
    find_tree(_places(root))
    _side(settings.get("size", 224), settings.get("resize"))


def _look_mini(root: Path, settings: dict[str, Any]) -> None:
    find_tree(_places(root, MINI_NAMES))
    _side(settings.get("size", 224), settings.get("resize"))


@DATASETS.register("imagefolder", channels=3, look=_look_folder)
def imagefolder(
    *,
    root: Path,
    val_fraction: float,
    limit: int | None,
    size: int = 224,
    resize: int | None = None,
    channels: Literal[1, 3] = 3,
    cache_mb: float = 1500,
    split_seed: int = 0,
    mean: Statistic | None = None,
    std: Statistic | None = None,
) -> Splits:
    """Your own images: root/train/<class>/ with root/val or root/test or both, any sizes and formats.

    The shorter side is resized to `resize` (8/7 of `size` by default: 256 for 224) and the middle square kept; a
    network is given size x size: the middle in evaluation, a random resized crop in training. Sets that take no more
    than `cache_mb` (MiB) decoded are kept in memory and cached; larger ones are decoded batch by batch.
    With train, val and test folders all three are used; with train and val only, one half of val is for choices and
    the other is the test; with train and test only, validation is held out of train.
    """
    return _open(
        "imagefolder",
        find_tree(_places(root)),
        val_fraction,
        limit,
        size,
        resize,
        channels,
        cache_mb,
        split_seed,
        mean,
        std,
    )


@DATASETS.register("imagenet_mini", channels=3, look=_look_mini)
def imagenet_mini(
    *,
    root: Path,
    val_fraction: float,
    limit: int | None,
    size: int = 224,
    resize: int | None = None,
    cache_mb: float = 1500,
    split_seed: int = 0,
    mean: Statistic | None = None,
    std: Statistic | None = None,
) -> Splits:
    """ImageNet-mini: root/imagenet-mini (or root itself) with train/ and val/ folders named by WordNet id.

    As `imagefolder`, in colour. Labels follow the sorted ids: with all 1,000 of them, ImageNet's own order.
    """
    tree = find_tree(_places(root, MINI_NAMES))
    return _open("imagenet_mini", tree, val_fraction, limit, size, resize, 3, cache_mb, split_seed, mean, std)


def _open(
    name: str,
    tree: Tree,
    val_fraction: float,
    limit: int | None,
    size: int,
    resize: int | None,
    channels: int,
    cache_mb: float,
    split_seed: int,
    mean: Statistic | None,
    std: Statistic | None,
) -> Splits:
    decoder = Decoder(channels=channels, side=_side(size, resize))
    return make_splits(
        name,
        **open_tree(tree, decoder, size, cache_mb),
        class_names=tree.class_names,
        mean=mean or (MEAN if channels == 3 else GREY[0]),
        std=std or (STD if channels == 3 else GREY[1]),
        augment=("resized_crop", "flip"),
        val_fraction=val_fraction,
        split_seed=split_seed,
        limit=limit,
    )


def _side(size: int, resize: int | None) -> int:
    """The side at which images are stored."""
    side = round(size * 8 / 7) if resize is None else resize
    if size < 1 or side < size:
        raise BootcampError(f"data.args.size={size} and data.args.resize={side}: need 1 <= size <= resize.")
    return side
