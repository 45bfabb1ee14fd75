"""Settings of data and model."""

from dataclasses import dataclass, field
from typing import Any

from pruning_bootcamp.schema import between


@dataclass
class DataConfig:
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


@dataclass
class ModelConfig:
    name: str = "cifar_resnet20"
    """a model of `pruning-bootcamp list`, any torchvision or timm name, or module:factory"""
    args: dict[str, Any] = field(default_factory=dict)
    """keyword arguments of the model's builder; classes and channels come from the data"""
