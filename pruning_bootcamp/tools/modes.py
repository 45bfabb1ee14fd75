"""Models looked at without being touched: evaluation mode that is undone, and a copy that always works."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Inside, every module is in eval mode; afterwards each has its own mode back (frozen batch norm stays frozen)."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of_model(model: nn.Module, otherwise: torch.device | str = "cpu") -> torch.device:
    """Where the model's weights are; `otherwise` for a model that has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device(otherwise))


def beside(model: nn.Module, tensor: Tensor) -> Tensor:
    """The tensor on the device where the model's weights are."""
    return tensor.to(device_of_model(model, tensor.device))


def detached_clone(model: nn.Module) -> nn.Module:
    """An independent copy of the model, whatever is attached to it; a compiled model gives a copy of the original.

    torch.nn.utils.prune leaves a computed (non-leaf) `weight` on its layers, some networks keep computed tensors in a
    table (LeViT its attention biases), and `copy.deepcopy` refuses them: such tensors are copied by value here.
    """
    original = getattr(model, "_orig_mod", model)
    assert isinstance(original, nn.Module)
    computed: dict[int, Tensor] = {
        id(value): value.detach().clone()
        for module in original.modules()
        for kept in vars(module).values()
        for value in (kept.values() if isinstance(kept, dict) else (kept,))
        if isinstance(value, Tensor) and not value.is_leaf
    }
    with torch.no_grad():
        return copy.deepcopy(original, computed)  # type: ignore[arg-type]  # the memo takes any object by id
