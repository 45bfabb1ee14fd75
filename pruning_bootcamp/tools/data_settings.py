"""What a dataset can be told: the section `data`, light enough for `--help`."""

from dataclasses import dataclass, field
from typing import Any

from pruning_bootcamp.schema import between


@dataclass
class DataSettings:
    """A dataset, and what of it is used."""

    name: str = "digits"
    """a dataset of `pruning-bootcamp list`"""
    root: str = "data"
    """the folder where the dataset lies or is downloaded to"""
    args: dict[str, Any] = field(default_factory=dict)
    """settings of the dataset itself, e.g. {mean: [...], std: [...]}"""
    val_fraction: float = between(0.1, 0, 1, "()")
    """share of the training images held out for every choice; the test split is read once, at the end"""
    limit: int | None = between(None, 1)
    """use only that many training images (for a quick look)"""
    batch_size: int = between(256, 1)
    """images per batch in evaluation"""
