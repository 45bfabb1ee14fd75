"""Odd widths rounded up with channels that are zero: the same function in the blocks that a runtime likes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import GoalNotMet, listed
from pruning_bootcamp.pruning.channels.proof import SliceProof, prove_same, prove_slice
from pruning_bootcamp.pruning.graph import Group, cut_members, find_groups, why_not_widened, widen_members
from pruning_bootcamp.pruning.graph.obstacles import IS_OUTPUT
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.tools.modes import beside


@dataclass(frozen=True)
class Widening:
    """A wider network that computes what the other does. `widths`: group -> channels before and after.

    `left`: group whose width is no multiple and stays as it is -> why. `proof` is None where nothing was widened.
    """

    model: nn.Module
    widths: dict[str, tuple[int, int]]
    left: dict[str, str]
    proof: SliceProof | None


def widen(model: nn.Module, example: Tensor, multiple: int) -> Widening:
    """A copy of the network with every group of channels, where that can be, in a multiple of this; `model` stays.

    The proof: taking the new channels out again gives the very tensors of the network; what they hold never matters
    (the slice proof, with random weights too); and both give the same outputs, in float64. A group with which it fails
    is left as it is. The classes, and whatever else the network gives, are never widened.
    """
    example = beside(model, example)
    groups = [group for group in find_groups(model, example) if group.members and group.channels % multiple]
    reasons = {group.name: why_not_widened(group) for group in groups}
    left = {name: reason for name, reason in reasons.items() if reason is not None and reason != IS_OUTPUT}
    chosen = [group.name for group in groups if reasons[group.name] is None]
    try:
        return _proved(model, example, chosen, multiple, left)
    except GoalNotMet:
        for name in list(chosen):
            try:
                _proved(model, example, [name], multiple, left)
            except GoalNotMet:
                chosen.remove(name)
                left[name] = "the network would compute something else: its code counts these channels"
        return _proved(model, example, chosen, multiple, left)


def _proved(
    model: nn.Module, example: Tensor, names: Sequence[str], multiple: int, left: Mapping[str, str]
) -> Widening:
    wide = detached_copy(model)
    if not names:
        return Widening(wide, {}, dict(left), None)
    before = {group.name: group for group in find_groups(wide, example) if group.name in names}
    more = {name: _missing(group, multiple) for name, group in before.items()}
    groups = widen_members(wide, before.values(), more)
    keep = {group.name: torch.arange(group.width) < before[group.name].width for group in groups}
    again = detached_copy(wide)
    cut_members(again, groups, keep)
    _check_identical(model, again)
    proofs = prove_slice(wide, again, groups, keep, example), prove_same(model, wide, example)
    widths = {group.name: (before[group.name].channels, group.channels) for group in groups}
    return Widening(wide, widths, dict(left), max(proofs, key=lambda proof: proof.relative))


def _missing(group: Group, multiple: int) -> int:
    """Units to add until the channels are a multiple."""
    per_unit = group.channels // group.width
    return next(more for more in range(1, multiple + 1) if per_unit * (group.width + more) % multiple == 0)


def _check_identical(model: nn.Module, again: nn.Module) -> None:
    before, after = detached_copy(model).state_dict(), again.state_dict()
    different = [name for name in before if name not in after or not torch.equal(before[name], after[name])]
    if different or before.keys() != after.keys():
        raise GoalNotMet(f"widening: {listed(different)} is not what it was once the new channels are taken out again.")
