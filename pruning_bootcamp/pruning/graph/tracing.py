"""Channel groups from torch-pruning's dependency graph (Fang et al., 2023).

The graph tells which operation hands its channels to which, and how their numbers change on the way. The walk over it
is our own: it keeps every pair of numbers, so channels which meet (a chunk that is multiplied with its other half, the
blocks of a grouped convolution) are tied together. Whatever the graph can't follow makes a group uncuttable, with the
reason; what slips through is caught by the slice proof. Only this folder knows torch-pruning.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning.ops import OPTYPE
from torch_pruning.utils import flatten_as_list

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.graph.members import Group, Kind, Member
from pruning_bootcamp.pruning.graph.obstacles import Visits, layer_problem, operation_problems, why_not_reached
from pruning_bootcamp.tools.modes import device_of_model

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
# what a network's code, or torch-pruning's, raises when shapes or operations are not what it expects
_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_KINDS: dict[OPTYPE, Kind] = {
    OPTYPE.DEPTHWISE_CONV: "depthwise",
    OPTYPE.BN: "batch_norm",
    OPTYPE.IN: "instance_norm",
    OPTYPE.LN: "layer_norm",
    OPTYPE.GN: "group_norm",
    OPTYPE.PRELU: "prelu",
    OPTYPE.PARAMETER: "parameter",
}


class Pair(NamedTuple):
    """A channel's number where the walk stands, and where it began; torch-pruning's maps read and hand on both."""

    idx: int
    root_idx: int


def find_groups(model: nn.Module, example: Tensor) -> list[Group]:
    """All groups of channels, in the order of the model's layers, those that can't be cut with their reason.

    `example` is one input batch. The model is traced in eval mode and left as it was found. The members refer to
    modules of `model`. Raises BootcampError when the model does not run on the example.
    """
    graph, outputs = _trace(model, example)
    paths = {module: path for path, module in model.named_modules()}
    order = {path: number for number, path in enumerate(paths.values())}
    names = _Names(model, paths)
    covered: dict[nn.Module, set[int]] = defaultdict(set)
    groups = []
    for path, module in model.named_modules():
        if not isinstance(module, _LAYERS):
            continue
        width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        if module not in graph.module2node:
            groups.append(Group(path, width, (), why_not_reached(model, path)))
            continue
        free = [channel for channel in range(width) if channel not in covered[module]]
        if not free:
            continue
        visits, tied = _walk(graph, module, free, names.widest)
        if visits is None:
            reason = "is reshaped over and over in a way that torch-pruning can't follow"
            groups.append(Group(path, width, (), reason))
            continue
        members, problems = _members(graph, visits, names)
        members.sort(key=lambda member: (member.path != path or not member.writes, order[member.path]))
        problems = [*operation_problems(visits, outputs), *problems, *_tie_blocks(members, tied)]
        for member in members:
            if member.writes:
                already = covered[member.module].intersection(member.index.tolist())
                if already:
                    problems.append(f"is coupled to channels of {member.path} which are in another group too")
                covered[member.module].update(member.index.tolist())
        groups.append(_group(path, members, tied, problems))
    return groups


def _trace(model: nn.Module, example: Tensor) -> tuple[Any, list[Any]]:
    """torch-pruning's graph, and the autograd nodes of the network's outputs."""
    outputs: list[Any] = []

    def note(result: Any) -> Any:
        for output in flatten_as_list(result):
            if not isinstance(output, Tensor) or output.grad_fn is None:
                raise BootcampError(
                    f"the network's output ({type(output).__name__}) does not depend on its weights in a way that can "
                    "be differentiated, so its channels can't be traced. Hand over the part before it (logits)."
                )
            outputs.append(output.grad_fn)
        return result

    def forward(network: nn.Module, batch: Tensor) -> Any:
        try:
            return network(batch)
        except _FAILURES as error:
            shape = tuple(batch.shape)
            raise BootcampError(f"the network does not run on an input of shape {shape}: {error}") from error

    with _traceable(model):
        graph = torch_pruning.DependencyGraph()
        # forward_fn: without one, torch-pruning first tries model(*batch), and takes any answer to that
        try:
            graph.build_dependency(model, example, forward_fn=forward, output_transform=note, verbose=False)
        except _FAILURES as error:
            raise BootcampError(
                f"the network can't be cut: torch-pruning can't follow it ({type(error).__name__}: {error}). Channel "
                "shuffles and reshapes across channels are not supported; prune it unstructured instead."
            ) from error
    return graph, outputs


@contextlib.contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """Eval mode, and gradients for frozen layers too: autograd, and so the graph, does not see a layer without."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in wanted:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad(), torch.autocast(device_of_model(model).type, enabled=False):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)


def _walk(graph: Any, root: nn.Module, channels: list[int], widest: int) -> tuple[Visits | None, "_Ties"]:
    """Everywhere that the root's output channels go, and which of them must go together.

    None instead of the places when an index passes `widest`, far above any layer's: reshapes that the graph takes for
    flattens, one after the other, multiply the numbers without end (Swin's merging of patches).
    """
    node, side = graph.module2node[root], graph.get_pruner_of_module(root).prune_out_channels
    visits: Visits = defaultdict(dict)
    tied = _Ties(channels)
    visits[node, side] = {channel: channel for channel in channels}
    stack = [(node, side, [Pair(idx=channel, root_idx=channel) for channel in channels])]
    while stack:
        node, side, pairs = stack.pop()
        for dependency in node.dependencies:
            if not dependency.is_triggered_by(side):
                continue
            mapped = pairs
            for mapping in dependency.index_mapping:
                mapped = mapping(mapped) if mapping is not None else mapped
            if not mapped:  # another part of a concatenation
                continue
            seen = visits[dependency.target, dependency.handler]
            fresh = []
            for pair in mapped:
                if pair.root_idx is None:  # torch-pruning loses track in grouped-query attention, which we refuse
                    continue
                if pair.idx >= widest:
                    return None, tied
                if pair.idx not in seen:
                    seen[pair.idx] = pair.root_idx
                    fresh.append(pair)
                else:
                    tied.join(seen[pair.idx], pair.root_idx)
            if fresh:
                stack.append((dependency.target, dependency.handler, fresh))
    return visits, tied


class _Ties:
    """Which root channels must go together (union-find)."""

    def __init__(self, channels: list[int]) -> None:
        self._parent = {channel: channel for channel in channels}

    def find(self, channel: int) -> int:
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel

    def join(self, one: int, other: int) -> None:
        one, other = self.find(one), self.find(other)
        self._parent[max(one, other)] = min(one, other)

    def units(self) -> dict[int, int]:
        """Root channel -> number of its unit, counted in the order of the units' first channels."""
        firsts = sorted({self.find(channel) for channel in self._parent})
        number = {first: position for position, first in enumerate(firsts)}
        return {channel: number[self.find(channel)] for channel in self._parent}


class _Names:
    """Where modules and parameters live in the model."""

    def __init__(self, model: nn.Module, paths: dict[nn.Module, str]) -> None:
        self.paths = paths
        self.users: dict[int, list[str]] = defaultdict(list)
        self.owners: dict[int, tuple[nn.Module, str]] = {}
        sizes = [size for module in paths for parameter in module.parameters(recurse=False) for size in parameter.shape]
        self.widest = 16 * max(sizes, default=0)  # room for a concatenation or a flatten that no layer reads
        for module, path in paths.items():
            for name, parameter in module.named_parameters(recurse=False):
                self.users[id(parameter)].append(path)
                self.owners[id(parameter)] = (module, name)


def _members(graph: Any, visits: Visits, names: _Names) -> tuple[list[Member], list[str]]:
    """The layers among the visited nodes, with root channels where their units will be; and what can't be cut."""
    members, problems = [], []
    for (node, side), found in visits.items():
        if node.type in (OPTYPE.CONV, OPTYPE.LINEAR):
            kind: Kind = "output" if side == graph.get_pruner_of_module(node.module).prune_out_channels else "input"
        elif node.type in _KINDS:
            kind = _KINDS[node.type]
        else:
            continue
        module, parameter = node.module, ""
        if kind == "parameter":
            module, parameter = names.owners[id(node.module)]
        if kind == "prelu" and module.num_parameters == 1:
            continue
        size = node.module.shape[node.pruning_dim] if kind == "parameter" else _size(module, kind)
        index = torch.tensor(sorted(found))
        member = Member(names.paths[module], module, kind, size, index, _roots(index, found), parameter)
        members.append(member)
        problem = layer_problem(member, names.users)
        if problem:
            problems.append(problem)
    return members, problems


def _roots(index: Tensor, found: dict[int, int]) -> Tensor:
    return torch.tensor([found[place] for place in index.tolist()])


def _size(module: Any, kind: Kind) -> int:
    if kind in ("output", "depthwise"):
        return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)
    if kind == "input":
        return int(module.in_features if isinstance(module, nn.Linear) else module.in_channels)
    if kind == "layer_norm":
        return int(module.normalized_shape[-1])
    attribute = {"group_norm": "num_channels", "prelu": "num_parameters"}.get(kind, "num_features")
    return int(getattr(module, attribute))


def _tie_blocks(members: list[Member], tied: _Ties) -> list[str]:
    """Grouped convolutions and group norms need equal blocks: a channel goes together with its like in every block."""
    problems = []
    for member in members:
        module: Any = member.module
        blocks = module.num_groups if member.kind == "group_norm" else getattr(module, "groups", 1)
        if blocks == 1 or member.kind == "depthwise":
            continue
        length = member.size // blocks
        like: dict[int, list[int]] = defaultdict(list)
        for place, root in zip(member.index.tolist(), member.unit.tolist(), strict=True):
            like[place % length].append(root)
        if any(len(roots) != blocks for roots in like.values()):
            problems.append(f"is coupled to some, not all, of the {blocks} blocks of {member.path}")
        for roots in like.values():
            for root in roots[1:]:
                tied.join(roots[0], root)
    return problems


def _group(name: str, members: list[Member], tied: _Ties, problems: list[str]) -> Group:
    units = tied.units()
    numbered = tuple(
        Member(
            m.path, m.module, m.kind, m.size, m.index, torch.tensor([units[r] for r in m.unit.tolist()]), m.parameter
        )
        for m in members
    )
    width = len(set(units.values()))
    if not problems and width == 1 and len(units) > 1:
        problems = [f"all its {len(units)} channels are tied together"]
    elif not problems and width == 1:
        problems = ["it has one channel only"]
    return Group(name, width, numbered, problems[0] if problems else None)
