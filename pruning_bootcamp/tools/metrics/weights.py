"""How many parameters a network has, and which share of its prunable weights is zero."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruning_bootcamp.errors import BootcampError, unknown

_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class Sparsity:
    """Zeros among the weights of convolution, linear and attention layers, by weight name ("conv1.weight")."""

    zeros: dict[str, int]
    sizes: dict[str, int]

    @property
    def total(self) -> float:
        """Share of all these weights that is zero, in [0, 1]; 0 for a network without any."""
        return sum(self.zeros.values()) / max(1, sum(self.sizes.values()))

    @property
    def layers(self) -> dict[str, float]:
        """Share of each weight tensor that is zero, in [0, 1]."""
        return {name: self.zeros[name] / self.sizes[name] for name in self.sizes}

    def of_layer(self, path: str) -> float:
        """Share of zeros among the weights of one layer ("layer1.0.conv1"); 0 when it has none."""
        names = [name for name in self.sizes if name.rpartition(".")[0] == path]
        return sum(self.zeros[name] for name in names) / max(1, sum(self.sizes[name] for name in names))


def compute_params(model: nn.Module) -> int:
    """Number of parameters, trainable or frozen, each counted once; pruned (zero) weights count like any other."""
    return sum(parameter.numel() for parameter in model.parameters())


def compute_sparsity(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> Sparsity:
    """Zeros in the weights that the layers really use: under torch.nn.utils.prune, parametrizations, and `masks`.

    Counted are the weights of convolution and linear layers and attention projections; biases and normalisation
    are not. A frozen weight among trainable ones is a constant of the network (a fixed shortcut) and is left out.
    A weight that two layers share counts once. `masks` (weight name -> True where a weight stays) are applied first;
    a mask that fits no weight raises BootcampError.
    """
    used: dict[str, Tensor] = {}
    sources: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        for attribute in _weight_names(module):
            name = f"{path}.{attribute}" if path else attribute
            source = _source(module, attribute)
            if source is not None and all(source is not other for other in sources.values()):
                sources[name] = source
                used[name] = _used_weight(module, attribute).detach()
    masks = masks or {}
    problems = [f"masks: {unknown('weight', name, used)}" for name in masks if name not in used]
    problems += [
        f"masks: {name}: the mask has shape {tuple(masks[name].shape)}, the weight {tuple(weight.shape)}."
        for name, weight in used.items()
        if name in masks and masks[name].shape != weight.shape
    ]
    if problems:
        raise BootcampError(*problems)
    some_train = any(source.requires_grad for source in sources.values())
    zeros, sizes = {}, {}
    for name, weight in used.items():
        if some_train and not sources[name].requires_grad and name not in masks:
            continue
        kept = weight != 0
        if name in masks:
            kept &= masks[name].to(weight.device, torch.bool)
        zeros[name], sizes[name] = weight.numel() - int(kept.sum()), weight.numel()
    return Sparsity(zeros, sizes)


def _weight_names(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, _ConvNd | nn.Linear):
        return ("weight",)
    return _ATTENTION_WEIGHTS if isinstance(module, nn.MultiheadAttention) else ()


def _source(module: nn.Module, attribute: str) -> Tensor | None:
    """The parameter that the weight is made from; None when the layer has no such weight."""
    parametrizations = getattr(module, "parametrizations", {})
    if attribute in parametrizations:
        return next(parametrizations[attribute].parameters())
    return getattr(module, f"{attribute}_orig", getattr(module, attribute, None))


def _used_weight(module: nn.Module, attribute: str) -> Tensor:
    """The weight in the next forward pass: torch.nn.utils.prune's attribute may be one optimiser step old."""
    original = getattr(module, f"{attribute}_orig", None)
    mask = getattr(module, f"{attribute}_mask", None)
    if isinstance(original, Tensor) and isinstance(mask, Tensor):
        return original * mask
    return getattr(module, attribute)
