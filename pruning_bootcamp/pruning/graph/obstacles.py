"""Why a group can't be cut: layers and operations on its way which the graph, or a cut, can't follow."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch_pruning.ops import OPTYPE

from pruning_bootcamp.pruning.graph.members import TRANSPOSED, Member

Node = Any  # torch-pruning has no types
Visits = dict[tuple[Node, Callable[..., Any]], dict[int, int]]  # (node, side) -> its index -> root index

IS_OUTPUT = "its channels are the network's output"
_OPAQUE = {
    OPTYPE.MHA: "is tied to an attention layer, whose heads can't be cut yet",
    OPTYPE.LSTM: "is tied to a recurrent layer, which can't be cut",
    OPTYPE.EMBED: "is tied to an embedding, which can't be cut yet",
    OPTYPE.SPLIT: "is split into parts (chunk or split), whose sizes the network's code fixes",
    OPTYPE.UNBIND: "is taken apart (unbind), which can't be followed",
    OPTYPE.EXPAND: "is expanded, which can't be followed",
}
_MIXERS = ("Bmm", "ScaledDotProduct", "Pixel", "ChannelShuffle", "CopySlices", "Index", "Select", "Stack", "Repeat")


def why_not_reached(model: nn.Module, path: str) -> str:
    """Why the trace knows nothing of a layer."""
    if isinstance(model.get_submodule(path.rpartition(".")[0]), nn.MultiheadAttention):
        return "is part of an attention layer, whose heads can't be cut yet"
    return "the trace does not reach it (it is unused, or another module uses its weights)"


def layer_problem(member: Member, users: Mapping[int, list[str]]) -> str | None:
    """Why this member keeps its group from being cut, or None."""
    module: Any = member.module
    if int(member.index.max()) >= member.size:
        return f"is coupled to {member.label}, which has fewer channels ({member.size}): a broadcast"
    if member.kind == "parameter":
        return None
    for parameter in module.parameters(recurse=False):
        others = [path for path in users[id(parameter)] if path != member.path]
        if others:
            return f"is coupled to {member.path}, whose weights are shared with {others[0]}"
    if member.kind == "layer_norm" and len(module.normalized_shape) != 1:
        return f"is coupled to {member.path}, which normalises over more than the channels"
    if member.kind == "depthwise" and module.in_channels != module.out_channels:
        return f"is coupled to {member.path}, which sums several channels into each of its own"
    if isinstance(module, TRANSPOSED) and module.groups > 1 and member.kind != "depthwise":
        return f"is coupled to {member.path}, a grouped transposed convolution"
    plain = isinstance(module.weight, nn.Parameter) or module.weight is None
    return None if plain else f"is coupled to {member.path}, whose weight is computed from other parameters"


def operation_problems(visits: Visits, outputs: list[Any]) -> list[str]:
    """What the channels meet on their way that can't be followed. The gravest first."""
    first, problems = [], []
    volumes = any(
        isinstance(node.module, nn.modules.conv._ConvNd) and node.module.weight.dim() == 5 for node, _ in visits
    )
    for node, side in visits:
        if any(node.grad_fn is output for output in outputs) and side.__name__ == "prune_out_channels":
            first.append(IS_OUTPUT)
        problem = _operation_problem(node, volumes)
        if problem:
            problems.append(problem)
    gravity = {problem: place for place, problem in enumerate(_OPAQUE.values())}
    return first + sorted(problems, key=lambda problem: gravity.get(problem, len(gravity)))


def _operation_problem(node: Node, volumes: bool) -> str | None:
    if node.type in _OPAQUE:
        return _OPAQUE[node.type]
    if node.type == OPTYPE.SLICE:
        followed = any(mapping is not None for dependency in node.dependencies for mapping in dependency.index_mapping)
        return "is sliced by channel, at places which the network's code fixes" if followed else None
    if node.type == OPTYPE.CONCAT:
        unseen = any(function is None for function, _ in node.grad_fn.next_functions)
        if unseen or node.module.offsets is None:
            return "is joined with a tensor that the trace can't see, or not by channel"
    if node.type == OPTYPE.RESHAPE and not volumes:
        sizes = getattr(node.grad_fn, "_saved_self_sym_sizes", ())
        return "is reshaped across channels (a channel shuffle or heads)" if len(sizes) >= 5 else None
    if node.type == OPTYPE.ELEMENTWISE and node.inputs:  # without inputs it works on a layer's own parameter
        name = node.grad_fn.name() if hasattr(node.grad_fn, "name") else "an unknown operation"
        if name.startswith("ConstantPad") and any(node.grad_fn._saved_pad[4:6]):
            return "is padded with zero channels (an option A shortcut: give the network convolution shortcuts)"
        if name == "an unknown operation" or name.startswith(_MIXERS):
            return f"passes through {name}, which can't be followed"
    return None
