"""scikit-learn's handwritten digits: the data set that every install has."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from pruning_bootcamp.plain import Plain
from pruning_bootcamp.tools.datasets.catalog import DATASETS, Statistic, make_splits
from pruning_bootcamp.tools.datasets.selection import hold_out
from pruning_bootcamp.tools.datasets.splits import ImageSplit, Splits

TEST_FRACTION = 0.25
MEAN, STD = (0.3053,), (0.3759,)  # of all 1,797 images


def _always_there(root: Path, settings: dict[str, Plain]) -> None:
    """Embedded: comes with a package that every install has."""


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (1797, 64) and labels (1797,): the package's own file, without the seconds that importing it takes."""
    found = importlib.util.find_spec("sklearn")
    folders = found.submodule_search_locations if found is not None else None
    path = Path(folders[0]) / "datasets" / "data" / "digits.csv.gz" if folders else None
    if path is not None and path.is_file():
        table = np.loadtxt(path, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits  # a release that keeps the file elsewhere

    bunch = load_digits()
    return bunch.data, bunch.target


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
    values, labels = _read()
    images = torch.from_numpy(values.reshape(-1, 8, 8) * (255 / 16)).round().to(torch.uint8)[:, None]
    everything = ImageSplit(images, torch.from_numpy(labels))
    kept, test = hold_out(everything.labels, TEST_FRACTION, seed=0)
    return make_splits(
        "digits",
        train=everything.subset(kept),
        test=everything.subset(test),
        class_names=tuple(str(digit) for digit in range(10)),
        mean=mean or MEAN,
        std=std or STD,
        augment=("shift",),
        val_fraction=val_fraction,
        split_seed=split_seed,
        limit=limit,
    )
