"""Settings of the network."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ModelConfig:
    name: str = "cifar_resnet20"
    """a model of `pruning-bootcamp list`, any torchvision or timm name, or module:factory"""
    args: dict[str, Any] = field(default_factory=dict)
    """keyword arguments of the model's builder; classes and channels come from the data"""
