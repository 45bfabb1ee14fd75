"""Groups of coupled channels as plain data, which tensors carry them, and the cut itself."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal[
    "output",  # convolution or linear layer that writes the channels
    "input",  # convolution or linear layer that reads them
    "depthwise",  # convolution with one filter a channel: reads and writes them
    "batch_norm",
    "instance_norm",
    "layer_norm",
    "group_norm",
    "prelu",
    "parameter",  # a bare parameter with one entry a channel, such as ConvNeXt's layer scale
]
Keep = Mapping[str, Tensor]  # group name -> BoolTensor [group.width], True where the unit stays

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "depthwise": ("in_channels", "out_channels", "groups"),
    "batch_norm": ("num_features",),
    "instance_norm": ("num_features",),
    "layer_norm": ("normalized_shape",),
    "group_norm": ("num_channels",),
    "prelu": ("num_parameters",),
}


@dataclass(frozen=True)
class Member:
    """One side of one layer in a group.

    `index[i]` is a channel of that side (original numbering, of `size`), and `unit[i]` the unit of the group which it
    belongs to. The two carry every mapping there is: a linear layer after a flatten has several indices a unit, a layer
    that reads a concatenation has indices which start at an offset.
    """

    path: str
    module: nn.Module
    kind: Kind
    size: int
    index: Tensor
    unit: Tensor
    parameter: str = ""

    @property
    def writes(self) -> bool:
        """Whether the layer makes the channels (its filters go when they go)."""
        return self.kind in ("output", "depthwise")

    @property
    def label(self) -> str:
        """Path of the layer, or of the bare parameter: unlike `path`, never empty."""
        return f"{self.path}.{self.parameter}".lstrip(".") if self.parameter else self.path

    def kept(self, keep: Tensor) -> Tensor:
        """The indices, ascending, which stay on this side when only this group is cut."""
        dropped = torch.zeros(self.size, dtype=torch.bool)
        dropped[self.index[~keep[self.unit]]] = True
        return (~dropped).nonzero().flatten()


@dataclass(frozen=True)
class Group:
    """Channels that must be cut together, through all the layers that share them.

    `width` counts units, the smallest parts that can be cut: mostly one channel; one channel of each block where a
    grouped convolution needs its blocks to stay equal. `members[0]` is the root, whose path is the group's name.
    `reason` says why nothing of it can be cut, or is None.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    reason: str | None = None

    @property
    def root(self) -> Member:
        """The member whose outputs the group's units are counted in."""
        return self.members[0]

    @property
    def layers(self) -> list[str]:
        """Every layer that gets smaller when a unit goes."""
        return list(dict.fromkeys(member.label for member in self.members))

    @property
    def channels(self) -> int:
        """Channels of the root layer in this group."""
        return len(self.root.index)

    def of_kind(self, *kinds: Kind) -> list[Member]:
        """Members of these kinds, in the group's order."""
        return [member for member in self.members if member.kind in kinds]


def dimensions(member: Member) -> list[tuple[str, int]]:
    """(tensor of the module, its dimension) for all that this member's channels run along."""
    module = member.module
    if member.kind == "parameter":
        return [(member.parameter, _parameter_dimension(getattr(module, member.parameter), member.size))]
    turned = isinstance(module, TRANSPOSED)
    names: list[tuple[str, int]]
    if member.kind == "output":
        names = [("weight", 1 if turned else 0), ("bias", 0)]
    elif member.kind == "input":
        names = [("weight", 0 if turned else 1)]
    else:
        names = [("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)]
    return [(name, dim) for name, dim in names if isinstance(getattr(module, name, None), Tensor)]


def filters(member: Member, values: Tensor) -> Tensor:
    """[size, n]: of values in the shape of a writing layer's weight, those that make each of its channels."""
    return values.transpose(0, dict(dimensions(member))["weight"]).flatten(1)


def making(groups: Iterable[Group], keep: Keep) -> dict[str, Tensor]:
    """Parameter that trains -> True for each number of it that makes a dropped channel, and none that stays.

    Filters, biases, scales and shifts of norms; not what reads the channel.
    """
    found: dict[str, Tensor] = {}
    for group in groups:
        for member in group.members:
            if member.kind in ("input", "prelu"):
                continue
            goes = torch.zeros(member.size, dtype=torch.bool)
            goes[member.index[~keep[group.name][member.unit]]] = True
            for name, dim in dimensions(member):
                tensor = getattr(member.module, name)
                if isinstance(tensor, nn.Parameter) and tensor.requires_grad and goes.any():
                    path = f"{member.path}.{name}".lstrip(".")
                    along = [length if place == dim else 1 for place, length in enumerate(tensor.shape)]
                    numbers = _of_one_block(tensor, dim, goes).view(along).expand(tensor.shape)
                    found[path] = found[path] | numbers if path in found else numbers.clone()
    return found


def _of_one_block(tensor: Tensor, dim: int, channels: Tensor) -> Tensor:
    """Which entries along `dim` these channels are; in a grouped convolution every block has the same places."""
    blocks = channels.view(-1, tensor.shape[dim])
    assert bool((blocks == blocks[0]).all()), "its blocks would be cut unequally"
    return blocks[0]


def _parameter_dimension(parameter: Tensor, size: int) -> int:
    """The last dimension of that size, which is where the trace found the channels."""
    return max(dim for dim, length in enumerate(parameter.shape) if length == size)


def cut_members(model: nn.Module, groups: Iterable[Group], keep: Keep) -> None:
    """Cut the channels out of `model`, in place: tensors, and the attributes which state their sizes.

    `groups` may have been found on another copy of the same network; layers are looked up by path. All indices are
    of the uncut network, so everything is gathered first and each tensor is cut once a dimension.
    """
    sides: dict[tuple[str, str, str], list[tuple[Member, Tensor]]] = defaultdict(list)
    for group in groups:
        for member in group.members:
            sides[member.path, member.kind, member.parameter].append((member, keep[group.name]))
    for entries in sides.values():
        member = entries[0][0]
        stays = torch.ones(member.size, dtype=torch.bool)
        for part, units in entries:
            stays[part.index[~units[part.unit]]] = False
        if not stays.all():
            _cut_side(model.get_submodule(member.path), member, stays)


def _cut_side(module: nn.Module, member: Member, stays: Tensor) -> None:
    kept = int(stays.sum())
    assert kept > 0, f"{member.label}: no channel is left"
    for name, dim in dimensions(member):
        tensor = getattr(module, name)
        chosen = _of_one_block(tensor, dim, stays)
        smaller = tensor.detach().index_select(dim, chosen.nonzero().flatten().to(tensor.device))
        if isinstance(tensor, nn.Parameter):
            smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
        setattr(module, name, smaller)
    for attribute in size_attributes(member):
        setattr(module, attribute, (kept,) if attribute == "normalized_shape" else kept)


def size_attributes(member: Member) -> tuple[str, ...]:
    """The attributes of its module that state how many channels this side has."""
    if member.kind in ("output", "input"):
        word = "features" if isinstance(member.module, nn.Linear) else "channels"
        return (f"{'out' if member.kind == 'output' else 'in'}_{word}",)
    return _ATTRIBUTES.get(member.kind, ())
