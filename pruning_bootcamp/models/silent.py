"""What stands in a network's own code for the layers of a branch that is gone: nothing is computed in it any more."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


class MuteLayer(nn.Module):
    """Stands for a layer, and gives zeros of the size that it gave, whatever it is given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        convolution = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        if not convolution and not isinstance(layer, nn.Linear):
            raise TypeError(f"{type(layer).__name__} is no layer that multiplies.")
        given: Any = layer
        self.out_channels = len(layer.get_parameter("weight"))
        # what decides the size of what comes out; of a linear layer all of it is empty
        self.kernel_size = tuple(given.kernel_size) if convolution else ()
        self.stride = tuple(given.stride) if convolution else ()
        self.padding = _padding(given.padding) if convolution else ()
        self.dilation = tuple(given.dilation) if convolution else ()

    def forward(self, x: Tensor) -> Tensor:
        """[n, any, ...] -> [n, out_channels, ...]; of a linear layer [..., any] -> [..., out_channels]."""
        dims = len(self.kernel_size)
        if not dims:
            return x.new_zeros((*x.shape[:-1], self.out_channels))
        return x.new_zeros((x.shape[0], self.out_channels, *(self._side(x, place) for place in range(dims))))

    def _side(self, x: Tensor, place: int) -> int:
        dims = len(self.kernel_size)
        side = x.shape[place - dims]
        if self.padding == "same":
            return side
        padding = 0 if isinstance(self.padding, str) else self.padding[place]
        reach = self.dilation[place] * (self.kernel_size[place] - 1)
        return (side + 2 * padding - reach - 1) // self.stride[place] + 1


def _padding(padding: Any) -> str | tuple[int, ...]:
    return padding if isinstance(padding, str) else tuple(padding)


def mute(model: nn.Module, paths: Iterable[str]) -> None:
    """Put a mute layer in the place of those at these paths, in place."""
    for path in paths:
        layer = model.get_submodule(path)
        model.set_submodule(path, MuteLayer(layer).train(layer.training))


def mute_layers(model: nn.Module) -> list[str]:
    """Paths at which a mute layer stands."""
    return [path for path, module in model.named_modules() if type(module) is MuteLayer]
