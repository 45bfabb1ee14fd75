"""Groups that lose all their channels: what computed them, and what read them, is gone, and the branch gives zeros.

Cut to one channel, which nobody reads, so that the network's own code still runs; then its layers are muted, exactly.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pruning_bootcamp.models.silent import mute
from pruning_bootcamp.pruning.channels.refit.program import Program
from pruning_bootcamp.pruning.channels.refit.sites import find_sites
from pruning_bootcamp.pruning.graph import Group, Member, cut_members
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.tools.inputs import inputs_like
from pruning_bootcamp.tools.modes import evaluation_mode

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def can_go(group: Group) -> bool:
    """Whether nothing of the network is left without input or output where the whole group is gone.

    Every layer that makes, passes or reads its channels makes, passes or reads no others.
    """
    layers = group.of_kind("output", "input", "depthwise")
    return (
        bool(group.of_kind("input"))
        and all(member.kind in ("output", "input", "depthwise", "batch_norm") for member in group.members)
        and all(isinstance(member.module, _LAYERS) and _is_all(member) for member in layers)
        and all(getattr(member.module, "groups", 1) == 1 for member in group.of_kind("output", "input"))
    )


def carries_all(model: nn.Module, example: Tensor, group: Group) -> bool:
    """Whether the output no longer depends on the input where the whole group is gone: it is no branch but the way."""
    cut = detached_copy(model)
    for member in group.of_kind("input"):
        layer = cut.get_submodule(member.path)
        nn.init.zeros_(layer.get_parameter("weight"))
    generator = torch.Generator().manual_seed(0)
    with evaluation_mode(cut), torch.inference_mode():
        first, second = (_main(cut(inputs_like(example, 2, generator).to(example.device))) for _ in range(2))
    return torch.equal(first, second)


def _main(given: Any) -> Tensor:
    return torch.cat([leaf.flatten().double() for leaf in tree_leaves(given) if isinstance(leaf, Tensor)])


def _is_all(member: Member) -> bool:

    return len(torch.unique(member.index)) == member.size


def left(groups: Iterable[Group], gone: Mapping[str, Sequence[int]]) -> tuple[dict[str, Tensor], list[str]]:
    """Group -> True for each unit that stays; and the groups all of whose units are gone, where the last one stays."""
    keep, silent = {}, []
    for group in groups:
        units = list(gone.get(group.name, ()))
        if len(units) == group.width:
            silent.append(group.name)
            units = units[:-1]
        keep[group.name] = torch.ones(group.width, dtype=torch.bool)
        keep[group.name][units] = False
    return keep, silent


def layers_of(groups: Iterable[Group], silent: Collection[str]) -> tuple[list[str], list[str]]:
    """Layers that make or pass what is gone, and those that read it, in the groups' order."""
    some = [group for group in groups if group.name in silent]
    makers = [member.path for group in some for member in group.of_kind("output", "depthwise")]
    readers = [member.path for group in some for member in group.of_kind("input")]
    return list(dict.fromkeys(path for path in makers if path not in readers)), list(dict.fromkeys(readers))


def deafen(model: nn.Module, example: Tensor, readers: Collection[str]) -> None:
    """Make these layers, and the batch norms that follow them alone, give zeros, in place: they read nothing now."""
    if not readers:
        return
    norms = {site.path: site.norm for site in find_sites(Program(model, example))[0]}
    with torch.no_grad():
        for path in readers:
            layer = model.get_submodule(path)
            for name in ("weight", "bias"):
                if isinstance(tensor := getattr(layer, name, None), Tensor):
                    tensor.zero_()
            if (norm := norms.get(path)) is not None:
                for name in ("running_mean", "bias"):
                    if isinstance(tensor := getattr(model.get_submodule(norm), name, None), Tensor):
                        tensor.zero_()


def without(model: nn.Module, example: Tensor, groups: Sequence[Group], gone: Mapping[str, Sequence[int]]) -> nn.Module:
    """`model`, cut in place: without these units of its groups, and mute where a whole group is gone."""
    keep, silent = left(groups, gone)
    cut_members(model, groups, keep)
    makers, readers = layers_of(groups, silent)
    deafen(model, example, readers)
    mute(model, [*makers, *readers])
    return model
