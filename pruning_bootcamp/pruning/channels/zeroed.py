"""The uncut network with its dropped channels held at zero: what a cut network must compute.

Made without the code that cuts, so that the two can be compared: dropped channels are zero where they are written
(filters, biases, norm scales and shifts) and where they are read (input columns), and a normalisation over the channels
sees the kept ones only.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning_bootcamp.pruning.graph import Group, Keep
from pruning_bootcamp.pruning.graph.members import TRANSPOSED
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.tools.modes import device_of_model


def zeroed(model: nn.Module, groups: Sequence[Group], keep: Keep) -> nn.Module:
    """A copy of the uncut network in which the dropped channels are zero and nobody listens to them."""
    copied, device = detached_copy(model), device_of_model(model)
    norms: dict[str, Tensor] = {}
    with torch.no_grad():
        for group in groups:
            for member in group.members:
                module: Any = copied.get_submodule(member.path)
                dropped = member.index[~keep[group.name][member.unit]].to(device)
                if member.kind == "parameter":
                    parameter = module.get_parameter(member.parameter)
                    along = max(dim for dim, length in enumerate(parameter.shape) if length > 1)
                    parameter.index_fill_(along, dropped, 0)
                elif member.kind == "input":
                    deafen(module, dropped)
                elif member.kind != "prelu":
                    turned = isinstance(module, TRANSPOSED) and member.kind == "output"
                    _silence(module, dropped, written=1 if turned else 0)
                if member.kind in ("layer_norm", "group_norm"):
                    stays = norms.setdefault(member.path, torch.ones(member.size, dtype=torch.bool, device=device))
                    stays[dropped] = False
    for path, stays in norms.items():
        if not stays.all():
            parent, _, name = path.rpartition(".")
            setattr(copied.get_submodule(parent), name, KeptNorm(copied.get_submodule(path), stays))
    return copied


def _silence(module: nn.Module, dropped: Tensor, written: int) -> None:
    """Zero what makes these output channels: filters or scales, and shifts."""
    for name, along in (("weight", written), ("bias", 0)):
        parameter = getattr(module, name, None)
        if parameter is not None:
            parameter.index_fill_(along, dropped, 0)


def deafen(module: Any, dropped: Tensor) -> None:
    """Zero the columns that read these input channels."""
    if isinstance(module, TRANSPOSED):
        module.weight[dropped] = 0
        return
    blocks = getattr(module, "groups", 1)
    rows, columns = module.weight.shape[0] // blocks, module.weight.shape[1]
    for channel in dropped.tolist():
        block, column = divmod(channel, columns)
        module.weight[block * rows : (block + 1) * rows, column] = 0


class KeptNorm(nn.Module):
    """A layer or group norm over the kept channels of a full-width tensor; the others come out as zero."""

    def __init__(self, norm: nn.Module, stays: Tensor) -> None:
        super().__init__()
        self.norm = norm
        self.kept = stays.nonzero().flatten()
        plain = type(norm).forward is nn.LayerNorm.forward
        self.along = -1 if plain else 1  # a subclass of LayerNorm is one for images: channels come second

    def forward(self, full: Tensor) -> Tensor:
        """A tensor of the full width -> the same shape, normalised over the kept channels alone."""
        norm: Any = self.norm
        some = full.index_select(self.along, self.kept)
        scale = None if norm.weight is None else norm.weight[self.kept]
        shift = None if norm.bias is None else norm.bias[self.kept]
        if isinstance(norm, nn.GroupNorm):
            some = F.group_norm(some, norm.num_groups, scale, shift, norm.eps)
        else:
            some = F.layer_norm(some.movedim(self.along, -1), (len(self.kept),), scale, shift, norm.eps)
            some = some.movedim(-1, self.along)
        return torch.zeros_like(full).index_copy(self.along, self.kept, some)
