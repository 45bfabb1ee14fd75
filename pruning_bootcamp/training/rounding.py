"""Weights and inputs rounded to 8 bits; gradients pass straight through the rounding (Bengio et al., 2013)."""

from typing import Any

import torch
from torch import Tensor

_WEIGHT_LEVELS = 127  # -127..127: symmetric, so that 0 is a level and no channel needs a zero point
_INPUT_LEVELS = 255  # 0..255


def fake_quantize_weight(weight: Tensor) -> Tensor:
    """The nearest of -127..127 times each output channel's scale; the gradient passes straight through."""
    exact = _computing(weight)
    rounded: Tensor = _Rounded.apply(exact, _per_channel(weight_scales(exact), exact))
    return rounded.to(weight.dtype)


@torch.no_grad()
def weight_scales(weight: Tensor) -> Tensor:
    """max|w| / 127 of each output channel; 1 for a channel of zeros (or so small that its scale is none)."""
    largest = weight.flatten(1).abs().amax(1)
    scales = largest / torch.full_like(largest, _WEIGHT_LEVELS)  # on CUDA / 127 would be * (1 / 127), rounded twice
    return torch.where(scales < torch.finfo(scales.dtype).tiny, 1.0, scales)  # NaN stays, to be seen in the loss


def fake_quantize_input(values: Tensor, range_: Tensor) -> Tensor:
    """The nearest of 256 levels between range_[0] and range_[1]; no gradient for values outside."""
    exact = _computing(values)
    scale, zero_point = _levels(range_.to(exact.dtype))
    quantised: Tensor = _Clipped.apply(exact, scale, zero_point)
    return quantised.to(values.dtype)


class _Rounded(torch.autograd.Function):
    """round(x / scale) * scale, whose gradient is that of x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, scale: Tensor) -> Tensor:
        return (values / scale).round_().mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


class _Clipped(torch.autograd.Function):
    """The nearest of the levels 0..255; the gradient is that of x where its level is one of them, else 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        levels = (values / scale).round_().add_(zero_point)
        return levels.clamp_(0, _INPUT_LEVELS).sub_(zero_point).mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        values, scale, zero_point = ctx.saved_tensors
        levels = (values / scale).round_().add_(zero_point)
        return gradients[0] * ((levels >= 0) & (levels <= _INPUT_LEVELS)), None, None


def _levels(range_: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the 256 levels. The range is widened to hold 0, which is a level to the bit."""
    low, high = range_[0].clamp(max=0), range_[1].clamp(min=0)
    scale = (high - low) / torch.full_like(high, _INPUT_LEVELS)
    scale = torch.where(scale < torch.finfo(scale.dtype).tiny, 1.0, scale)  # no range at all: as onnxruntime does
    return scale, (-low / scale).round().clamp(0, _INPUT_LEVELS)


def _computing(values: Tensor) -> Tensor:
    """Half precision has too few digits to find the level in."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _per_channel(scales: Tensor, weight: Tensor) -> Tensor:
    return scales.reshape(-1, *[1] * (weight.ndim - 1))


def round_in_place(weight: Tensor) -> Tensor:
    """Put the weight on its int8 grid; the channels' scales. Rounding it again changes no bit."""
    codes = (weight / _per_channel(weight_scales(weight), weight)).round_().add_(0.0)  # -0.0 becomes 0.0
    for _ in range(3):
        # 127 * scale is rounded too, and in 1 of 128 channels gives back the scale's neighbour: once more, with that
        scales = weight_scales(weight)
        weight.copy_(codes * _per_channel(scales, weight))
        if torch.equal(weight_scales(weight), scales):
            return scales
    raise AssertionError("the scale of a rounded channel is not its own")
