"""Option A shortcuts (He et al., 2016), and the same function as a frozen convolution that channel pruners can cut."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Every `stride`-th pixel, with zero channels added on both sides: no weights (option A)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    @property
    def before(self) -> int:
        """Zero channels in front of the input's own."""
        return (self.out_channels - self.in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_channels, h, w] -> [n, out_channels, h / stride, w / stride], rounded up."""
        behind = self.out_channels - self.in_channels - self.before
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, behind))


def fixed_convolution(shortcut: PadShortcut) -> nn.Conv2d:
    """The same function as a 1x1 convolution with 0/1 weights, frozen; exact in float32 (not where TF32 rounds inputs).

    A plain `nn.Conv2d`, so that every tool that knows convolutions knows this one.
    """
    channels = shortcut.in_channels, shortcut.out_channels
    # without the usual random start: the same seed gives the same network with either kind of shortcut
    convolution = torch.nn.utils.skip_init(nn.Conv2d, *channels, 1, stride=shortcut.stride, bias=False)
    weight = torch.zeros_like(convolution.weight)
    channel = torch.arange(shortcut.in_channels)
    weight[channel + shortcut.before, channel] = 1
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    return convolution


def padded_shortcuts(model: nn.Module) -> dict[str, PadShortcut]:
    """The option A shortcuts in a network by module path."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PadShortcut)}


def replace_shortcuts(model: nn.Module, paths: Iterable[str]) -> None:
    """Put the fixed convolution in the place of the option A shortcuts at `paths` (in place)."""
    for path in paths:
        shortcut = model.get_submodule(path)
        assert isinstance(shortcut, PadShortcut), f"{path} is {type(shortcut).__name__}"
        beside = next(model.parameters(), torch.empty(0))
        convolution = fixed_convolution(shortcut).to(beside.device, beside.dtype).train(shortcut.training)
        model.set_submodule(path, convolution)
