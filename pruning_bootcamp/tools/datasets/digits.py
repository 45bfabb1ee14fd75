"""scikit-learn's handwritten digits: the data set that every install has."""

from pathlib import Path
from typing import Any

import torch

from pruning_bootcamp.tools.datasets.catalog import DATASETS, Statistic, make_splits
from pruning_bootcamp.tools.datasets.selection import hold_out
from pruning_bootcamp.tools.datasets.splits import ImageSplit, Splits

TEST_FRACTION = 0.25
MEAN, STD = (0.3053,), (0.3759,)  # of all 1,797 images


def _always_there(root: Path, settings: dict[str, Any]) -> None:
    """Embedded: comes with a package that every install has."""


@DATASETS.register("digits", channels=1, look=_always_there)
def digits(
    *,
    root: Path,
    val_fraction: float,
    limit: int | None,
    split_seed: int = 0,
    mean: Statistic | None = None,
    std: Statistic | None = None,
) -> Splits:
    """1,797 handwritten digits, 8x8 grey, 10 classes; comes with scikit-learn, no download.

    The test split is always the same 449 images. Pixels 0..16 are spread over 0..255: round(v * 255 / 16).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)[:, None]
    everything = ImageSplit(images, torch.from_numpy(bunch.target))
    kept, test = hold_out(everything.labels, TEST_FRACTION, seed=0)
    return make_splits(
        "digits",
        train=everything.subset(kept),
        test=everything.subset(test),
        class_names=tuple(str(name) for name in bunch.target_names),
        mean=mean or MEAN,
        std=std or STD,
        augment=("shift",),
        val_fraction=val_fraction,
        split_seed=split_seed,
        limit=limit,
    )
