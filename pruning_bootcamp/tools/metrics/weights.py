"""How many parameters a network has, and which share of its prunable weights is zero."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, unknown
from pruning_bootcamp.tools.metrics.kinds import FROZEN, other_weights, product_weights


@dataclass(frozen=True)
class Left:
    """A weight that is not pruned: how many values it has, and why it is left out."""

    size: int
    reason: str


@dataclass(frozen=True)
class Sparsity:
    """Zeros among the prunable weights, by weight name ("conv1.weight"), and what the others are."""

    zeros: dict[str, int]
    sizes: dict[str, int]
    left_out: dict[str, Left] = field(default_factory=dict)
    """weights that are not pruned, by name: lookup tables, bare parameters, frozen ones"""
    params: int = 0
    """all parameters; those neither in `sizes` nor left out are biases, scales of norms and other vectors"""

    @property
    def total(self) -> float:
        """Share of the prunable weights that is zero, in [0, 1]; 0 for a network without any."""
        return sum(self.zeros.values()) / max(1, self.prunable)

    @property
    def prunable(self) -> int:
        """How many weights there are that pruning can take away."""
        return sum(self.sizes.values())

    @property
    def of_all(self) -> float:
        """The same zeros as a share of all parameters, in [0, 1]."""
        return sum(self.zeros.values()) / max(1, self.params)

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

    Prunable are the weights of convolution, linear, bilinear and recurrent layers and attention projections; biases and
    normalisation are not. Lookup tables and bare parameters are left out, unless a mask names them; so is a frozen
    weight among trainable ones, a constant of the network (a fixed shortcut). A weight that two layers share counts
    once. `masks` (weight name -> True where a weight stays) are applied first; one that fits no weight raises
    BootcampError.
    """
    masks = masks or {}
    used, sources = _collected(model, product_weights)
    some_train = any(source.requires_grad for source in sources.values())
    others, other_sources = _collected(model, lambda module: [attribute for attribute, _ in other_weights(module)])
    reasons = {
        f"{path}.{attribute}".lstrip("."): reason
        for path, module in model.named_modules()
        for attribute, reason in other_weights(module)
    }
    left_out: dict[str, Left] = {}
    for name, weight in others.items():
        if any(other_sources[name] is source for source in sources.values()):
            continue  # tied to a layer's weight, which counts
        if name in masks:
            used[name] = weight
        else:
            left_out[name] = Left(weight.numel(), reasons[name])
    problems = [f"masks: {unknown('weight', name, used)}" for name in masks if name not in used]
    problems += [
        f"masks: {name}: the mask has shape {tuple(masks[name].shape)}, the weight {tuple(weight.shape)}."
        for name, weight in used.items()
        if name in masks and masks[name].shape != weight.shape
    ]
    if problems:
        raise BootcampError(*problems)
    zeros, sizes = {}, {}
    for name, weight in used.items():
        if some_train and name in sources and not sources[name].requires_grad and name not in masks:
            left_out[name] = Left(weight.numel(), FROZEN)
            continue
        kept = weight != 0
        if name in masks:
            kept &= masks[name].to(weight.device, torch.bool)
        zeros[name], sizes[name] = weight.numel() - int(kept.sum()), weight.numel()
    return Sparsity(zeros, sizes, left_out, compute_params(model))


def _collected(
    model: nn.Module, names_of: Callable[[nn.Module], Iterable[str]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Name -> the weight that is used, and the parameter that it is made from; each parameter under its first name."""
    used: dict[str, Tensor] = {}
    sources: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        for attribute in names_of(module):
            name = f"{path}.{attribute}" if path else attribute
            source = _source(module, attribute)
            if source is not None and all(source is not other for other in sources.values()):
                sources[name] = source
                used[name] = _used_weight(module, attribute).detach()
    return used, sources


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
