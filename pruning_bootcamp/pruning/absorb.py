"""What takes up a shift of a layer's outputs: its own bias, or the running mean of the batch norm behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning_bootcamp.tools.modes import evaluation_mode


@dataclass(frozen=True)
class Absorber:
    """Where a constant of the layer's outputs goes. `start` is the bias or mean that was there when it was found."""

    module: nn.Module
    start: Tensor
    norm: bool

    @torch.no_grad()
    def set(self, constant: Tensor) -> None:
        """From here on the network behind sees W x + constant [out], where it saw W x + what the layer had before."""
        if self.norm:
            assert isinstance(self.module.running_mean, Tensor)
            self.module.running_mean.copy_(self.start - constant.to(self.start))
        else:
            assert isinstance(self.module.bias, Tensor)
            self.module.bias.copy_(constant)


@torch.no_grad()
def find_absorbers(model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor) -> dict[str, Absorber]:
    """Layer name -> what takes up a shift; layers without any are left out. The model runs once, on these images.

    A batch norm counts where it is given exactly what the layer gave out, and by this layer alone.
    """
    names = {layer: name for name, layer in layers.items()}
    outputs: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that no other gets the same id
    fed: dict[nn.Module, list[str | None]] = {}

    def after(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            outputs[id(output)] = (names[layer], output)

    def before(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        fed.setdefault(norm, []).append(outputs.get(id(inputs[0]), (None, None))[0])

    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    handles = [layer.register_forward_hook(after) for layer in names]
    handles += [norm.register_forward_pre_hook(before) for norm in norms]
    try:
        with evaluation_mode(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for layer, name in names.items():
        if isinstance(layer.bias, Tensor):
            found[name] = Absorber(layer, layer.bias.detach().clone(), norm=False)
    for norm, sources in fed.items():
        if len(sources) == 1 and sources[0] is not None:
            assert isinstance(norm.running_mean, Tensor)
            found.setdefault(sources[0], Absorber(norm, norm.running_mean.clone(), norm=True))
    return found
