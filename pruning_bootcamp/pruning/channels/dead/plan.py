"""What can be removed from a network without changing what it computes, and what that saves."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pruning_bootcamp.errors import listed
from pruning_bootcamp.pruning.channels.dead.folding import Home, folded
from pruning_bootcamp.pruning.channels.dead.search import Search
from pruning_bootcamp.pruning.channels.measuring import left_out
from pruning_bootcamp.pruning.channels.structured import GroupPlan
from pruning_bootcamp.pruning.graph import cut_members, find_groups
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.tools.metrics import count_macs
from pruning_bootcamp.tools.modes import beside


@dataclass(frozen=True)
class DeadPlan:
    """What does nothing in a network, by group, and what removing it saves.

    `groups` holds all that can be cut, also those that lose nothing. `dead` are the units that do nothing and `keep`
    those that stay, both a group: a group that is dead as a whole keeps one. `constants`: layer -> the value of each
    channel that it reads, NaN where that depends on the input; `homes`: where a layer's constants go. `stays`: reason
    -> group -> how many of its channels do nothing and stay for that reason; `filters` the same of filters of zeros,
    by layer, whose channels live all the same or can't be followed. `folded`: of the channels removed, those that were
    a constant other than 0. `output_varies`: whether the network's output depends on its input at all.
    """

    groups: list[GroupPlan]
    dead: dict[str, Tensor]
    keep: dict[str, Tensor]
    constants: dict[str, Tensor]
    homes: dict[str, Home]
    stays: dict[str, dict[str, int]]
    filters: dict[str, dict[str, int]]
    folded: int
    macs_before: float
    macs_after: float
    params_before: int
    params_after: int
    output_varies: bool

    @property
    def removed(self) -> int:
        """Channels that go."""
        return sum(group.width - len(group.keep) for group in self.groups)

    @property
    def stays_said(self) -> list[str]:
        """A line for each reason why something stays, with where."""
        lines = []
        for kind, found in (("dead channels", self.stays), ("filters of zeros", self.filters)):
            for reason, places in found.items():
                total, where = sum(places.values()), listed((f"{name} {count}" for name, count in places.items()), 6)
                what = (
                    f"{kind} stay"
                    if total > 1
                    else f"{kind.replace('channels', 'channel').replace('filters', 'filter')} stays"
                )
                lines.append(f"{total} {what} ({where}): {reason}")
        return lines


def plan_dead(model: nn.Module, example: Tensor, *, exclude: Sequence[str] = ()) -> DeadPlan:
    """What can be removed without changing what the network computes in eval mode; the model is not changed.

    A constant goes into the bias of the layer that reads it, or into the mean of the batch norm right behind that
    layer; where neither is there, or where the layer pads with zeros, so that the constant has a border, its channel
    stays. `exclude`: groups with a layer that matches keep all channels. Raises BootcampError where torch.export can't
    follow the network.
    """
    copied, example = detached_copy(model), beside(model, example)
    groups = find_groups(copied, example)
    search = Search(copied, example, groups, left_out(groups, exclude))
    live = search.live()
    cuttable = [group for group in groups if group.name not in search.reasons]
    dead = {group.name: ~live[group.name] for group in cuttable}
    keep = {name: _at_least_one(~gone) for name, gone in dead.items()}
    constants = {path: reader.values for path, reader in search.readers.items()}
    homes = {path: reader.home for path, reader in search.readers.items() if reader.home is not None}
    cut = folded(copied, cuttable, dead, constants, homes)
    cut_members(cut, cuttable, keep)
    return DeadPlan(
        groups=[GroupPlan(g.name, g.channels, g.root.index[keep[g.name][g.root.unit]], g.layers) for g in cuttable],
        dead=dead,
        keep=keep,
        constants=constants,
        homes=homes,
        stays=search.stays(live),
        filters=search.filters_of_zeros(live),
        folded=sum(search.folded(group, ~keep[group.name]) for group in cuttable),
        macs_before=count_macs(copied, example),
        macs_after=count_macs(cut, example),
        params_before=sum(parameter.numel() for parameter in copied.parameters()),
        params_after=sum(parameter.numel() for parameter in cut.parameters()),
        output_varies=search.output_varies,
    )


def _at_least_one(keep: Tensor) -> Tensor:
    keep = keep.clone()
    keep[0] |= not keep.any()
    return keep
