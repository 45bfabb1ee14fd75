"""Where a layer can be fitted: its inputs, the batch norm behind it, the sum that it goes into, the ReLU after that."""

import math
import operator
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.channels.refit.program import Program
from pruning_bootcamp.pruning.layers.moments import Product

_aten = torch.ops.aten
_CONVOLUTIONS = {
    _aten.conv1d.default: 1,
    _aten.conv2d.default: 2,
    _aten.conv3d.default: 3,
    _aten.conv1d.padding: 1,
    _aten.conv2d.padding: 2,
    _aten.conv3d.padding: 3,
}
NORMS = (_aten.batch_norm.default, _aten._native_batch_norm_legit_no_training.default)
# Second moments of more columns are not held: they take 8 bytes times their square, a solution time with their cube.
MOST_COLUMNS = 8192
_SAME = (_aten.dropout.default, _aten.clone.default, _aten.alias.default, _aten.contiguous.default)


@dataclass(frozen=True)
class Site:
    """A layer that multiplies, once in a forward pass. Numbers are those of operations in a Program.

    Its outputs are fitted, through the batch norm, to what the dense network has at `target`, less the `others` that
    are added on the way there. `bounds`: the target is only looked at between these (a ReLU follows).
    """

    path: str
    product: Product
    columns: int
    """how many inputs an output is a sum over"""
    operation: int
    source: int
    target: int
    norm: str | None = None
    others: tuple[int, ...] = ()
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def wide(self) -> bool:
        """Whether its inputs are too many for their second moments."""
        return self.columns > MOST_COLUMNS

    @property
    def rectified(self) -> bool:
        """Whether its sum is only looked at between bounds."""
        return self.bounds != (-math.inf, math.inf)

    def reachable(self, given: Tensor, goal: Tensor) -> Tensor:
        """The goal; but where it lies beyond a bound, what is given, as far as that does too.

        Majorise-minimise: what is nearer to it is nearer to the goal as it is looked at.
        """
        low, high = self.bounds
        if low > -math.inf:
            goal = torch.where(goal <= low, given.clamp(max=low), goal)
        if high < math.inf:
            goal = torch.where(goal >= high, given.clamp(min=high), goal)
        return goal


def find_sites(program: Program) -> tuple[list[Site], dict[str, str]]:
    """All layers that can be fitted, in the order in which they run; and why others that multiply can't be."""
    runs = Counter(program.tensors[number] for node in program.nodes for number in _tensor_inputs(program, node))
    sites, unfit = [], {}
    for number in range(len(program)):
        node: Any = program.nodes[number]
        if node.op != "call_function" or not multiplies(node.target):
            continue
        weight = program.tensors.get(program.index[node.args[1]])
        path = _owner(program, weight)
        product = product_of(node)
        if path is None:
            continue
        if product is None:
            unfit[path] = "a transposed convolution"
        elif runs[weight or ""] > 1:
            unfit[path] = "its weights are used more than once"
        else:
            sites.append(_site(program, path, product, number))
    return sites, unfit


def multiplies(target: Any) -> bool:
    """Whether the operation is a convolution of any kind or a linear layer."""
    return (
        target in _CONVOLUTIONS
        or target is _aten.linear.default
        or str(target).startswith(("aten.conv_transpose", "aten.convolution"))
    )


def _tensor_inputs(program: Program, node: Any) -> list[int]:
    return [number for used in node.all_input_nodes if (number := program.index[used]) in program.tensors]


def _owner(program: Program, name: str | None) -> str | None:
    """The layer whose weight, a plain parameter, this is."""
    path, _, attribute = (name or "").rpartition(".")
    if name is None or attribute != "weight":
        return None
    layer = program.model.get_submodule(path)
    return path if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear) else None


def product_of(node: Any) -> Product | None:
    """How the operation multiplies; None: it is no convolution or linear layer, or a transposed one."""
    if node.target is _aten.linear.default:
        return Product()
    if node.target not in _CONVOLUTIONS:
        return None
    dims = _CONVOLUTIONS[node.target]
    stride, padding, dilation, groups = (
        node.args[place] if len(node.args) > place else default for place, default in ((3, 1), (4, 0), (5, 1), (6, 1))
    )
    kernel = tuple(node.args[1].meta["val"].shape[2:])
    dilations = _each(dilation, dims)
    if isinstance(padding, str):
        totals = [0 if padding == "valid" else d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        sides = tuple((total // 2, total - total // 2) for total in totals)
    else:
        sides = tuple((side, side) for side in _each(padding, dims))
    return Product(int(groups), kernel, _each(stride, dims), sides, dilations)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(int(v) for v in (values * dims if len(values) == 1 else values))


def _site(program: Program, path: str, product: Product, operation: int) -> Site:
    """The way from the layer to its target: a batch norm, sums, and whether a ReLU reads what comes out."""
    node: Any = program.nodes[operation]
    source, columns = program.index[node.all_input_nodes[0]], math.prod(node.args[1].meta["val"].shape[1:])
    shape, at, norm = program.shape(operation), operation, None
    others: list[int] = []
    while len(program.users(at)) == 1:
        (user,) = program.users(at)
        node = program.nodes[user]
        if node.target in _SAME and program.shape(user) == shape:
            at = user
        elif node.target in NORMS and norm is None and not others and (norm := _plain_norm(program, user, at)):
            given = [u for u in program.users(user) if program.nodes[u].target is operator.getitem]
            at = given[0] if given else user
        elif (other := _added(program, user, at)) is not None and program.shape(user) == shape:
            others.append(other)
            at = user
        else:
            break
    return Site(path, product, columns, operation, source, at, norm, tuple(others), _bounds(program, at))


def _plain_norm(program: Program, user: int, at: int) -> str | None:
    """The batch norm's path where it has statistics of its own and is used here alone."""
    node: Any = program.nodes[user]
    training = node.args[5] if node.target is _aten.batch_norm.default else False
    if program.index[node.args[0]] != at or training or not isinstance(node.args[3], torch.fx.Node):
        return None
    name = program.tensors.get(program.index[node.args[3]])
    if name is None or len(node.args[3].users) != 1:
        return None
    path = name.rpartition(".")[0]
    found = program.model.get_submodule(path)
    return path if isinstance(found, nn.modules.batchnorm._BatchNorm) else None


def _added(program: Program, user: int, at: int) -> int | None:
    """The other operand, where the operation is a plain sum of two tensors."""
    node = program.nodes[user]
    if node.target is not _aten.add.Tensor or node.kwargs.get("alpha", 1) != 1:
        return None
    operands = [program.index[arg] for arg in node.args[:2] if isinstance(arg, torch.fx.Node)]
    if len(operands) != 2 or operands[0] == operands[1] or at not in operands:
        return None
    other = operands[1] if operands[0] == at else operands[0]
    return None if other in program.tensors else other


def _bounds(program: Program, at: int) -> tuple[float, float]:
    found = {_clips(program.nodes[user]) for user in program.users(at)}
    return found.pop() if len(found) == 1 else (-math.inf, math.inf)


def _clips(node: Any) -> tuple[float, float]:
    if node.target is _aten.relu.default:
        return 0.0, math.inf
    if node.target is _aten.relu6.default:
        return 0.0, 6.0
    if node.target is _aten.hardtanh.default:
        given = list(node.args[1:])
        low, high = given + [-1.0, 1.0][len(given) :]
        return float(low), float(high)
    return -math.inf, math.inf


def changed(sites: Collection[Site], cut: Program, dense: Program, zeroed: Collection[str] = ()) -> list[Site]:
    """Those whose inputs are not those of the dense network: something before them, or they themselves, lost inputs.

    `zeroed`: layers that lost single weights.
    """
    weights = {site.operation: site for site in sites}
    tainted: set[int] = set()
    for number, node in enumerate(cut.nodes):
        if node.op != "call_function":
            continue
        touched = any(cut.index[used] in tainted for used in node.all_input_nodes)
        if not touched and number in weights:
            touched = weights[number].path in zeroed or _narrower_inputs(cut, dense, number)
        elif not touched:
            touched = _normalises_fewer(cut, dense, number)
        if touched:
            tainted.add(number)
    return [site for site in sites if site.operation in tainted]


def _narrower_inputs(cut: Program, dense: Program, number: int) -> bool:
    ours, theirs = cut.nodes[number].all_input_nodes[0], dense.nodes[number].all_input_nodes[0]
    return cut.shape(cut.index[ours]) != dense.shape(dense.index[theirs])


def _normalises_fewer(cut: Program, dense: Program, number: int) -> bool:
    name = str(cut.nodes[number].target)
    mixes = name.startswith(("aten.layer_norm", "aten.group_norm", "aten.native_layer_norm", "aten.native_group_norm"))
    return mixes and cut.shape(number) != dense.shape(number)
