"""Which channels do nothing: nobody reads them, or what is read of them is a constant that the readers can hold."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from pruning_bootcamp.errors import BootcampError
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
from pruning_bootcamp.pruning.graph import Group, Member
from pruning_bootcamp.pruning.graph.members import TRANSPOSED
from pruning_bootcamp.tools.inputs import inputs_like

LAST = "a layer can't have none, and its group is dead as a whole"
BORDER = "the layer that reads its constant pads with zeros, so that at the border it is another one"
HOMELESS = "the layer that reads its constant has neither a bias nor a batch norm behind it to hold it"
NORMALISED = "it is normalised together with others, whose mean and deviation would be others without it"
MIXED = "it meets other channels in an operation that looks at several at once"
TIED = "what they write is added to channels that live, or goes together with some"


@dataclass
class Reader:
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


class Search:
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
            for member in _writing(group) if group.reason is None else ():
                self.writers.setdefault(member.path, []).append((group, member))
        self.output_varies = True
        self.readers = self._find_readers()

    def live(self) -> dict[str, Tensor]:
        """Group -> True for each unit that something needs; a group that can't be cut lives as a whole."""
        while True:
            live = self._marked()
            culprits = self._mixed(live)
            if not culprits:
                return live
            self.reasons |= dict.fromkeys(culprits, MIXED)

    def _find_readers(self) -> dict[str, Reader]:
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
            readers[path] = Reader(path, reads, border, known, self._home(path, sites.get(path)))
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
        self.output_varies = self._run(self.program.start(unknown), watched)
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

    def _stays(self, reader: Reader, live: Mapping[str, Tensor]) -> Tensor:
        """Which of its outputs live; those of no group do."""
        stays = torch.ones(len(reader.reads), dtype=torch.bool)
        for group, member in self.writers.get(reader.path, ()):
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
        held = torch.zeros(group.width, dtype=torch.long)
        for member in group.of_kind("input"):
            reader = self.readers[member.path]
            constant = (reader.values.nan_to_num(0) != 0) & reader.reads.any(0)
            counts = torch.bincount(member.unit[constant[member.index]], minlength=group.width)
            held = torch.maximum(held, counts)  # behind a flatten a channel is read at many places
        channels = torch.bincount(group.root.unit, minlength=group.width)
        return int(torch.minimum(held, channels)[gone].sum())

    def stays(self, live: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
        """Reason -> group -> how many of its channels do nothing and stay all the same."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for group in self.groups:
            if group.reason is not None:  # who looks at its channels is not known
                continue
            lives = live[group.name]
            if not lives.any():
                found[LAST][group.name] = int((group.root.unit == 0).sum())
            for unit in (self._idle(group) & lives).nonzero().flatten().tolist():
                reason = self.reasons.get(group.name) or self._blocked_by(group, unit, live)
                found[reason][group.name] += int((group.root.unit == unit).sum())
        return {reason: dict(places) for reason, places in found.items()}

    def filters_of_zeros(self, live: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
        """Reason -> layer -> how many of its filters are zero and stay, their channels not being dead."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for group in self.groups:
            if group.reason is None:
                busy, why = live[group.name] & ~self._idle(group), self.reasons.get(group.name, TIED)
                for member in _writing(group):
                    found[why][member.path] += int((self._zero(member)[member.index] & busy[member.unit]).sum())
                continue
            reason = f"its group {group.reason}" if group.reason.startswith("is ") else group.reason
            for member in _writing(group):
                if member.path not in self.writers:
                    found[reason][member.path] = int(self._zero(member).sum())
        return {reason: dict(+places) for reason, places in found.items() if +places}

    def _zero(self, member: Member) -> Tensor:
        """For each output of the layer whether its filter is all zeros; of a frozen one nothing is said."""
        weight = self.model.get_submodule(member.path).get_parameter("weight")
        if not weight.requires_grad and any(parameter.requires_grad for parameter in self.model.parameters()):
            return torch.zeros(member.size, dtype=torch.bool)
        along = 1 if isinstance(member.module, TRANSPOSED) and member.kind == "output" else 0
        return (weight.detach().transpose(0, along).flatten(1) == 0).all(1)

    def _idle(self, group: Group) -> Tensor:
        """Units that are constant or unread wherever they are read."""
        idle = torch.full((group.width,), bool(group.of_kind("input")), dtype=torch.bool)
        for member in group.of_kind("input"):
            reader = self.readers[member.path]
            needed = reader.reads.any(0) & reader.values.isnan()
            idle[member.unit[needed[member.index]]] = False
        return idle

    def _blocked_by(self, group: Group, unit: int, live: Mapping[str, Tensor]) -> str:
        for member in group.of_kind("input"):
            reader = self.readers[member.path]
            rows = reader.blocked & self._stays(reader, live)[:, None]
            if rows[:, member.index[member.unit == unit]].any():
                return HOMELESS if reader.home is None else BORDER
        raise AssertionError("something keeps it alive")


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
