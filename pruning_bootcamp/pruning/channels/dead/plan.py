"""Which channels do nothing: nobody reads them, or what is read of them is a constant that the readers can hold."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.pruning.channels.dead.constants import (
    VARYING,
    Varying,
    at_the_border,
    evaluate,
    evaluate_constants,
    uniform,
)
from pruning_bootcamp.pruning.channels.dead.folding import Home, folded
from pruning_bootcamp.pruning.channels.proof import in_widest
from pruning_bootcamp.pruning.channels.refit.program import Program, State
from pruning_bootcamp.pruning.channels.refit.sites import Site, find_sites, multiplies, product_of
from pruning_bootcamp.pruning.channels.structured import GroupPlan, left_out
from pruning_bootcamp.pruning.graph import Group, Member, cut_members, find_groups
from pruning_bootcamp.pruning.graph.members import TRANSPOSED
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.tools.inputs import inputs_like
from pruning_bootcamp.tools.metrics import count_macs
from pruning_bootcamp.tools.modes import beside

LAST = "a layer can't have none, and its group is dead as a whole"
BORDER = "the layer that reads its constant pads with zeros, so that at the border it is another one"
HOMELESS = "the layer that reads its constant has neither a bias nor a batch norm behind it to hold it"
NORMALISED = "it is normalised together with others, whose mean and deviation would be others without it"
MIXED = "it meets other channels in an operation that looks at several at once"
TIED = "only its own filter is zero, not all that it is added to or goes together with"


@dataclass(frozen=True)
class DeadPlan:
    """What does nothing in a network, by group, and what removing it saves.

    `groups` holds all that can be cut, also those that lose nothing. `dead` are the units that do nothing and `keep`
    those that stay, both a group: a group that is dead as a whole keeps one. `constants`: layer -> the value of each
    channel that it reads, NaN where that depends on the input; `homes`: where a layer's constants go. `stays`: reason
    -> group or layer -> how many channels do nothing there and stay for that reason. `folded`: of the channels removed,
    those that were a constant other than 0.
    """

    groups: list[GroupPlan]
    dead: dict[str, Tensor]
    keep: dict[str, Tensor]
    constants: dict[str, Tensor]
    homes: dict[str, Home]
    stays: dict[str, dict[str, int]]
    folded: int
    macs_before: float
    macs_after: float
    params_before: int
    params_after: int

    @property
    def removed(self) -> int:
        """Channels that go."""
        return sum(group.width - len(group.keep) for group in self.groups)

    @property
    def stays_said(self) -> list[str]:
        """A line for each reason why something stays, with where."""
        lines = []
        for reason, places in self.stays.items():
            total, where = sum(places.values()), listed((f"{name} {count}" for name, count in places.items()), 6)
            lines.append(f"{total} dead {'channel stays' if total == 1 else 'channels stay'} ({where}): {reason}")
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
    search = _Search(copied, example, groups, left_out(groups, exclude))
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
        folded=sum(search.folded(group, ~keep[group.name]) for group in cuttable),
        macs_before=count_macs(copied, example),
        macs_after=count_macs(cut, example),
        params_before=sum(parameter.numel() for parameter in copied.parameters()),
        params_after=sum(parameter.numel() for parameter in cut.parameters()),
    )


def _at_least_one(keep: Tensor) -> Tensor:
    keep = keep.clone()
    keep[0] |= not keep.any()
    return keep


@dataclass
class _Reader:
    """A layer that reads channels: which of its outputs read which, and what is known of them."""

    path: str
    reads: Tensor
    """[out, in]: the weight is not zero"""
    border: Tensor
    """[out, in]: the weight is not zero, and it meets the padding's zeros"""
    values: Tensor
    """[in]: the constant, NaN where it varies"""
    home: Home | None
    blocked: Tensor = field(init=False)
    """[out, in]: the output needs the channel itself"""

    def __post_init__(self) -> None:
        known = ~self.values.isnan()
        held = self.border if self.home is not None else self.reads
        self.blocked = torch.where(known, held & (self.values != 0), self.reads)


class _Search:
    """Marks what the network's outputs need, from the back to the front; what is not marked is dead."""

    def __init__(self, model: nn.Module, example: Tensor, groups: Sequence[Group], reasons: Mapping[str, str]) -> None:
        self.groups = groups
        self.reasons = dict(reasons)
        for group in groups:
            if group.of_kind("layer_norm", "group_norm"):
                self.reasons.setdefault(group.name, NORMALISED)
        self.model, self.example = in_widest(model, example[:1])
        try:
            self.program = Program(self.model, self.example)
        except BootcampError as error:
            raise BootcampError(f"dead channels can't be told from the others: {error.problems[0]}") from error
        self._uses = _uses(self.program)
        self.writers: dict[str, list[tuple[Group, Member]]] = {}
        for group in groups:
            for member in group.members:
                if member.writes:
                    self.writers.setdefault(member.path, []).append((group, member))
        self.readers = self._find_readers()

    def live(self) -> dict[str, Tensor]:
        """Group -> True for each unit that something needs; a group that can't be cut lives as a whole."""
        while True:
            live = self._marked()
            culprits = self._mixed(live)
            if not culprits:
                return live
            self.reasons |= dict.fromkeys(culprits, MIXED)

    def _find_readers(self) -> dict[str, _Reader]:
        modules = {member.path: member.module for group in self.groups for member in group.of_kind("input")}
        sites = {site.path: site for site in find_sites(self.program)[0] if site.path in modules}
        values = self._values(sites)
        readers = {}
        for path in modules:
            module: Any = self.model.get_submodule(path)
            plain = all(
                multiplies(self.program.nodes[number].target) for number in self._uses.get(f"{path}.weight", ())
            )
            product = sites[path].product if path in sites else None
            reads = _reads(module, module.weight) if plain else None
            if reads is None or not self._uses.get(f"{path}.weight"):
                size = module.in_features if isinstance(module, nn.Linear) else module.in_channels
                reads = torch.ones(len(module.weight), size, dtype=torch.bool)
            border = torch.zeros_like(reads)
            if product is not None and product.kernel:
                found = _reads(module, at_the_border(product, module.weight))
                border = reads if found is None else found
            known = values.get(path)
            if known is None:
                known = torch.full(reads.shape[1:], torch.nan, dtype=self.example.dtype)
            readers[path] = _Reader(path, reads, border, known, self._home(path, sites.get(path)))
        return readers

    def _values(self, sites: Mapping[str, Site]) -> dict[str, Tensor]:
        """Layer -> of each channel that it reads the constant, NaN where it varies."""
        by_operation = {site.operation: site for site in sites.values()}
        found: dict[str, Tensor] = {}

        def watched(node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            site = by_operation.get(self.program.index[node])
            if site is not None and (known := uniform(args[0], site.product.channels)) is not None:
                found[site.path] = known
            return evaluate_constants(node, args, kwargs)

        unknown: Any = torch.full_like(self.example, torch.nan) if self.example.is_floating_point() else VARYING
        self._run(self.program.start(unknown), watched)
        return found

    @torch.no_grad()
    def _run(self, start: State, by: Any, instead: dict[str, Tensor] | None = None) -> bool:
        """Whether anything that the network gives varies."""
        end = len(self.program) - 1
        wanted = {self.program.index[node] for node in self.program.nodes[end].all_input_nodes}
        _, outputs = self.program.run(start, end, wanted, instead, by)
        return any(
            isinstance(value, Varying) or bool(value.isnan().any())
            for value in tree_iter(list(outputs.values()))
            if isinstance(value, Tensor | Varying)
        )

    def _home(self, path: str, site: Site | None) -> Home | None:
        if site is None:
            return None
        if len(self._uses.get(f"{path}.bias", ())) == 1:
            return Home(path, "bias")
        return None if site.norm is None else Home(site.norm, "running_mean")

    def _marked(self) -> dict[str, Tensor]:
        live = {
            group.name: torch.full((group.width,), group.name in self.reasons, dtype=torch.bool)
            for group in self.groups
        }
        changed = True
        while changed:
            changed = False
            for group in self.groups:
                if group.name in self.reasons:
                    continue
                for member in group.of_kind("input"):
                    reader = self.readers[member.path]
                    needed = (reader.blocked & self._stays(reader, live)[:, None]).any(0)[member.index]
                    units = member.unit[needed]
                    changed |= not bool(live[group.name][units].all())
                    live[group.name][units] = True
        return live

    def _stays(self, reader: _Reader, live: Mapping[str, Tensor]) -> Tensor:
        """Which of its outputs live; those of no group do."""
        stays = torch.ones(len(reader.reads), dtype=torch.bool)
        for group, member in self.writers.get(reader.path, ()):
            if group.name in live:
                stays[member.index] = live[group.name][member.unit]
        return stays

    def _mixed(self, live: Mapping[str, Tensor]) -> list[str]:
        """Groups of which dead units, their readers deaf to them, still move what the network gives."""
        some = [group for group in self.groups if group.name not in self.reasons and not live[group.name].all()]
        computed = [group.name for group in some if not all(self._written(member) for member in _writing(group))]
        if computed:
            return computed
        dead = {group.name: ~live[group.name] for group in some}
        readers = self.readers.values()
        deaf = folded(self.model, some, dead, {reader.path: reader.values for reader in readers}, {})
        instead: dict[str, Tensor] = {f"{path}.weight": deaf.get_parameter(f"{path}.weight") for path in self.readers}
        if not self._reach(some, dead, instead):
            return []
        return [group.name for group in some if self._reach([group], dead, instead)] or list(dead)

    def _written(self, member: Member) -> bool:
        numbers = self._uses.get(f"{member.path}.weight", ())
        return bool(numbers) and all(multiplies(self.program.nodes[number].target) for number in numbers)

    def _reach(self, groups: Sequence[Group], dead: Mapping[str, Tensor], instead: dict[str, Tensor]) -> bool:
        """Whether the outputs depend on what these groups' dead units hold."""
        spoilt: dict[int, Tensor] = {}
        for group in groups:
            for member in _writing(group):
                for number in self._uses[f"{member.path}.weight"]:
                    index = member.index[dead[group.name][member.unit]]
                    spoilt[number] = torch.cat([spoilt.get(number, index[:0]), index])

        def spoiling(node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = evaluate(node, args, kwargs)
            index = spoilt.get(self.program.index[node])
            if index is None or isinstance(result, Varying):
                return result
            product = product_of(node)
            return result.index_fill(1 if product is None else product.channels, index, torch.nan)

        generator = torch.Generator().manual_seed(0)
        batch = inputs_like(self.example, 1, generator, self.example.dtype)
        return self._run(self.program.start(batch), spoiling, instead)

    def folded(self, group: Group, gone: Tensor) -> int:
        """Of these units of the group, channels that are read as a constant other than zero."""
        held = torch.zeros(group.width, dtype=torch.bool)
        for member in group.of_kind("input"):
            reader = self.readers[member.path]
            values = reader.values[member.index].nan_to_num(0)
            held[member.unit[(values != 0) & reader.reads.any(0)[member.index]]] = True
        return int((held & gone)[group.root.unit].sum()) if group.members else 0

    def stays(self, live: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
        """Reason -> where -> how many channels do nothing and stay all the same."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for group in self.groups:
            lives = live[group.name]
            if group.reason is not None:  # who else looks at its channels is not known
                for path, count in self._zero_filters(group, torch.ones_like(lives)).items():
                    found[f"its group {group.reason}" if group.reason[:3] == "is " else group.reason][path] += count
                continue
            if not lives.any():
                found[LAST][group.name] = int((group.root.unit == 0).sum())
            idle = self._idle(group)
            for unit in (idle & lives).nonzero().flatten().tolist():
                reason = self.reasons.get(group.name) or self._blocked_by(group, unit, live)
                found[reason][group.name] += int((group.root.unit == unit).sum())
            for path, count in self._zero_filters(group, lives & ~idle).items():
                found[TIED][path] += count
        return {reason: dict(places) for reason, places in found.items()}

    def _idle(self, group: Group) -> Tensor:
        """Units that are constant or unread wherever they are read."""
        idle = torch.full((group.width,), bool(group.of_kind("input")), dtype=torch.bool)
        for member in group.of_kind("input"):
            reader = self.readers[member.path]
            needed = reader.reads.any(0) & reader.values.isnan()
            idle[member.unit[needed[member.index]]] = False
        return idle

    def _zero_filters(self, group: Group, units: Tensor) -> dict[str, int]:
        """Layer -> how many of its filters are zero, among those that write these units."""
        found: Counter[str] = Counter()
        for member in _writing(group):
            weight = self.model.get_submodule(member.path).get_parameter("weight").detach()
            along = 1 if isinstance(member.module, TRANSPOSED) and member.kind == "output" else 0
            zero = (weight.transpose(0, along).flatten(1) == 0).all(1)[member.index]
            found[member.path] += int((zero & units[member.unit]).sum())
        return dict(+found)

    def _blocked_by(self, group: Group, unit: int, live: Mapping[str, Tensor]) -> str:
        for member in group.of_kind("input"):
            reader = self.readers[member.path]
            rows = reader.blocked & self._stays(reader, live)[:, None]
            if rows[:, member.index[member.unit == unit]].any():
                return HOMELESS if reader.home is None else BORDER
        return TIED


def _writing(group: Group) -> list[Member]:
    return [member for member in group.members if member.writes]


def _uses(program: Program) -> dict[str, list[int]]:
    """Parameter -> the operations that are given it."""
    uses: dict[str, list[int]] = {}
    for number, node in enumerate(program.nodes):
        for used in node.all_input_nodes:
            name = program.tensors.get(program.index[used])
            if name is not None:
                uses.setdefault(name, []).append(number)
    return uses


def _reads(module: Any, weight: Tensor) -> Tensor | None:
    """[out, in]: True where any weight of the two is not zero; None for what can't be told."""
    read = (weight.detach() != 0).flatten(2).any(2) if weight.dim() > 2 else weight.detach() != 0
    blocks = getattr(module, "groups", 1)
    if isinstance(module, TRANSPOSED):
        return read.T if blocks == 1 else None
    return torch.block_diag(*read.chunk(blocks)).bool() if blocks > 1 else read
