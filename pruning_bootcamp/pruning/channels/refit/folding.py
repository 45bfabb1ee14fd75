"""A layer and the batch norm behind it as one product with a bias; and fitted weights put back into the two of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.channels.refit.sites import Site
from pruning_bootcamp.pruning.layers.moments import Moments


def has_intercept(model: nn.Module, site: Site) -> bool:
    """Whether anything there takes a constant up."""
    return site.norm is not None or getattr(model.get_submodule(site.path), "bias", None) is not None


@torch.no_grad()
def folded(model: nn.Module, site: Site) -> Tensor:
    """[groups, d, out / groups] float64: weights and bias of the product that layer and batch norm come to."""
    layer: Any = model.get_submodule(site.path)
    weight = layer.weight.double()
    bias = torch.zeros(len(weight), dtype=torch.double, device=weight.device)
    bias = bias if layer.bias is None else layer.bias.double()
    if site.norm is not None:
        norm: Any = model.get_submodule(site.norm)
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.double()
        shift = 0 if norm.bias is None else norm.bias.double()
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
        bias = (bias - norm.running_mean.double()) * scale + shift
    return torch.cat([site.product.rows(weight), bias.view(site.product.groups, 1, -1)], 1)


@torch.no_grad()
def unfold(model: nn.Module, site: Site, rows: Tensor, outputs: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    """Write such a product into the layer and its batch norm, in place.

    `outputs(weights)`: mean and variance of what these weights [groups, d - 1, out / groups] give, without the bias.

    The batch norm's statistics are those of what the layer gives it now, its scale and shift undo them: training goes
    on from the same function, whether it normalises by batches or not, and with weights of the size that they had.
    """
    layer: Any = model.get_submodule(site.path)
    weights, bias = rows[:, :-1], rows[:, -1].flatten()
    if site.norm is None:
        layer.weight.copy_(site.product.weight(weights, layer.weight))
        if layer.bias is not None:
            layer.bias.copy_(bias)
        return
    norm: Any = model.get_submodule(site.norm)
    mean, variance = outputs(weights)
    if norm.weight is None:  # it divides by the deviation, and nothing undoes that: the layer does
        deviation = (variance + norm.eps).sqrt()
        weights = weights * deviation.view(site.product.groups, 1, -1)
        norm.running_mean.copy_(-bias * deviation if norm.bias is None else torch.zeros_like(mean))
        norm.running_var.copy_(variance)
    else:
        size = _as_large(weights, site.product.rows(layer.weight.double()))
        weights = weights * size.view(site.product.groups, 1, -1)
        norm.running_mean.copy_(mean * size)
        norm.running_var.copy_(variance * size.square())
        # with the variance as the module keeps it: what it divides by is what the scale multiplies by
        norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt() / size)
        if norm.bias is None:
            norm.running_mean.copy_(-bias * size)
        else:
            norm.bias.copy_(bias + norm.running_mean.double() / size)
    layer.weight.copy_(site.product.weight(weights, layer.weight))
    if layer.bias is not None:
        layer.bias.zero_()


def _as_large(weights: Tensor, before: Tensor) -> Tensor:
    """[out]: what makes each output's weights as large as they were; 1 where they were or are zero.

    Behind a batch norm their size changes nothing but how fast they learn (van Laarhoven, 2017): small ones fast.
    """
    now, then = (rows.square().sum(1).sqrt().flatten() for rows in (weights, before))
    return torch.where((now > 0) & (then > 0), then / now.clamp_min(1e-30), torch.ones_like(now))


def spread(moments: Moments) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """For `unfold`: weights -> mean and variance of their outputs on what the moments are of."""
    return partial(_spread, moments)


def _spread(moments: Moments, weights: Tensor) -> tuple[Tensor, Tensor]:
    count = moments.gram[0, -1, -1]
    means = moments.gram[:, -1:, :-1] / count
    second = moments.gram[:, :-1, :-1] / count
    mean = (means @ weights).flatten()
    square = ((second @ weights) * weights).sum(1).flatten()
    return mean, (square - mean.square()).clamp_min(0)


def instead(model: nn.Module, site: Site, rows: Tensor) -> dict[str, Tensor]:
    """Parameters and buffers by name with which layer and batch norm come to this product; nothing is written."""
    layer: Any = model.get_submodule(site.path)
    weights, bias = rows[:, :-1], rows[:, -1].flatten()
    found: dict[str, Tensor] = {}
    if site.norm is not None:
        norm: Any = model.get_submodule(site.norm)
        deviation = (1 + norm.eps) ** 0.5
        found[f"{site.norm}.running_var"] = torch.ones_like(norm.running_var)
        if norm.weight is None:
            weights, bias = weights * deviation, bias * deviation
        else:
            found[f"{site.norm}.weight"] = torch.full_like(norm.weight, deviation)
        shifted = norm.bias is not None
        mean = torch.zeros_like(bias) if shifted else -bias
        found[f"{site.norm}.running_mean"] = mean.to(norm.running_mean)
        if shifted:
            found[f"{site.norm}.bias"] = bias.to(norm.bias)
        bias = torch.zeros_like(bias)
    found[f"{site.path}.weight"] = site.product.weight(weights, layer.weight)
    if layer.bias is not None:
        found[f"{site.path}.bias"] = bias.to(layer.bias)
    return found
