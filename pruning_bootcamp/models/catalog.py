"""The registry of the product's own networks, each `f(*, classes, in_channels=3, ...) -> nn.Module`."""

from collections.abc import Callable

from torch import nn

from pruning_bootcamp.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry(
    "model", given=("classes", "in_channels"), plural="models", always=("classes", "in_channels")
)
