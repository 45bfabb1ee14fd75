"""Constants that layers read put where the layers keep constants, and their weights for them set to zero."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.channels.zeroed import deafen
from pruning_bootcamp.pruning.graph import Group
from pruning_bootcamp.pruning.masks import detached_copy


class Home(NamedTuple):
    """What holds a layer's constants: its own bias, or the running mean of the batch norm right behind it."""

    path: str
    tensor: str


@torch.no_grad()
def folded(
    model: nn.Module,
    groups: Sequence[Group],
    dead: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
    homes: Mapping[str, Home],
) -> nn.Module:
    """A copy, as wide as the model, whose layers read nothing of the dead units and hold what those gave them.

    A layer without a home holds nothing: nobody looks at what it loses by that.
    """
    copied = detached_copy(model)
    sides: dict[str, list[Tensor]] = {}
    for group in groups:
        for member in group.of_kind("input"):
            sides.setdefault(member.path, []).append(member.index[dead[group.name][member.unit]])
    for path, parts in sides.items():
        module: Any = copied.get_submodule(path)
        index = torch.cat(parts).sort().values
        if path in homes:
            values = torch.zeros_like(constants[path])
            values[index] = constants[path][index].nan_to_num(0)
            _hold(copied.get_submodule(homes[path].path), homes[path].tensor, _given(module, values))
        deafen(module, index.to(module.weight.device))
    return copied


def _given(module: Any, values: Tensor) -> Tensor:
    """What these constants add to each output, away from any border."""
    weight = module.weight.to("cpu", values.dtype)
    weight = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    blocks = getattr(module, "groups", 1)
    parts = zip(weight.chunk(blocks), values.chunk(blocks), strict=True)
    return torch.cat([rows @ given for rows, given in parts])


def _hold(module: nn.Module, name: str, given: Tensor) -> None:
    """Added to a bias; taken from a mean, which is subtracted."""
    held = getattr(module, name)
    exact = held.to("cpu", given.dtype)
    held.copy_(exact + given if name == "bias" else exact - given)
