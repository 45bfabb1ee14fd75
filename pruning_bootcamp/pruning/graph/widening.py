"""Channels added that are zero: `cut_members` the other way round, and taken back by it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.graph.members import Group, Member, dimensions, size_attributes

_Side = tuple[str, str, str]
_NEW = -1  # where a channel of the wider side has none to come from
_ONES = ("running_var",)  # what a norm divides by; everything else of a new channel is zero


def why_not_widened(group: Group) -> str | None:
    """Why channels can't be added to the group, or None.

    They can where each layer holds the group's units one after the other (once, or several times over: in the blocks of
    a grouped convolution, say), so that there is a place for further ones; and where no norm takes its statistics over
    the channels, which zeros would change.
    """
    if group.reason is not None:
        return group.reason
    for member in group.members:
        if member.kind in ("layer_norm", "group_norm"):
            return f"{member.label} normalises over the channels, and zeros would change its statistics"
        if not _unit_length(member, group.width):
            return f"{member.label} does not hold the channels one after the other"
    return None


def widen_members(model: nn.Module, groups: Iterable[Group], added: Mapping[str, int]) -> list[Group]:
    """Add units (group -> how many) to `model`, in place, behind those that are there; gives the wider groups.

    What makes a new channel is zero, and what reads it too: whatever an activation makes of zero, nobody listens.
    `why_not_widened` must have nothing against any of `groups`; layers are looked up by path.
    """
    groups = list(groups)
    places: dict[_Side, dict[int, int]] = defaultdict(dict)
    sides: dict[_Side, Member] = {}
    for group in groups:
        for member in group.members:  # a layer that is called twice is a member twice
            sides[_side(member)] = member
            count = added[group.name] * _unit_length(member, group.width)
            places[_side(member)] |= dict.fromkeys(_ends(member, group.width), count)
    sources = {side: _source(member.size, places[side]) for side, member in sides.items()}
    for side, member in sides.items():
        _widen_side(model.get_submodule(member.path), member, sources[side])
    return [_widened(model, group, added[group.name], sources) for group in groups]


def _side(member: Member) -> _Side:
    return member.path, member.kind, member.parameter


def _unit_length(member: Member, width: int) -> int:
    """Neighbouring channels of each unit on this side, the same for all; 0 where they lie otherwise."""
    order = member.index.argsort()
    index, unit = member.index[order], member.unit[order]
    length = int((unit == 0).to(torch.uint8).cumprod(0).sum())
    if length == 0 or len(unit) % (length * width):
        return 0
    runs = index.view(-1, length * width)
    units = torch.arange(width).repeat_interleave(length).expand_as(runs)
    neighbours = runs[:, :1] + torch.arange(length * width)
    return length if torch.equal(unit.view_as(runs), units) and torch.equal(runs, neighbours) else 0


def _ends(member: Member, width: int) -> list[int]:
    """The channel behind each run of the group's units on the member's side."""
    runs = member.index.sort().values.view(-1, _unit_length(member, width) * width)
    return [int(last) + 1 for last in runs[:, -1]]


def _source(size: int, places: Mapping[int, int]) -> Tensor:
    """[wider size]: the channel that each one was, or _NEW; `places`: before which channel -> how many are added."""
    found: list[int] = []
    start = 0
    for place, count in sorted(places.items()):
        found += [*range(start, place), *[_NEW] * count]
        start = place
    return torch.tensor([*found, *range(start, size)])


def _widen_side(module: nn.Module, member: Member, source: Tensor) -> None:
    for name, dim in dimensions(member):
        tensor = getattr(module, name)
        wider = _wider(tensor.detach(), dim, _one_blocks_source(source, member.size, tensor.shape[dim]), name in _ONES)
        if isinstance(tensor, nn.Parameter):
            wider = nn.Parameter(wider, requires_grad=tensor.requires_grad)
        setattr(module, name, wider)
    for attribute in size_attributes(member):
        setattr(module, attribute, len(source))


def _one_blocks_source(source: Tensor, size: int, length: int) -> Tensor:
    """The places along a dimension that holds one block of the side's channels, as a grouped convolution's does."""
    blocks = size // length
    wider = source.view(blocks, -1)
    starts = torch.arange(blocks).unsqueeze(1) * length
    inside = torch.where(wider == _NEW, _NEW, wider - starts)
    assert bool((inside == inside[0]).all()), "its blocks would be widened unequally"
    return inside[0]


def _wider(tensor: Tensor, dim: int, source: Tensor, ones: bool) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] = len(source)
    found = tensor.new_full(shape, 1.0 if ones else 0.0)
    return found.index_copy_(dim, (source != _NEW).nonzero().flatten().to(tensor.device), tensor)


def _widened(model: nn.Module, group: Group, count: int, sources: Mapping[_Side, Tensor]) -> Group:
    """The group of the wider network: its old units under their numbers, the new ones behind them."""
    members = []
    for member in group.members:
        source, length = sources[_side(member)], _unit_length(member, group.width)
        now = (source != _NEW).nonzero().flatten()  # where each channel is now
        firsts = [int(now[end - 1]) + 1 for end in _ends(member, group.width)]
        new = [torch.arange(first, first + count * length) for first in firsts]
        units = (group.width + torch.arange(count)).repeat_interleave(length).repeat(len(firsts))
        members.append(
            replace(
                member,
                module=model.get_submodule(member.path),
                size=len(source),
                index=torch.cat([now[member.index], *new]),
                unit=torch.cat([member.unit, units]),
            )
        )
    return replace(group, width=group.width + count, members=tuple(members))
