"""From a budget to the number of channels each group loses: exact costs for any widths, and one solver."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pruning_bootcamp.pruning.groups import Group, dimensions
from pruning_bootcamp.pruning.groups.members import TRANSPOSED

Measure = Literal["macs", "params", "channels"]
Side = tuple[str, str, str]  # member's path, kind, parameter

TOLERANCE = 0.01  # the achieved reduction lies within this of the asked one, both as shares


@dataclass(frozen=True)
class _Tensor:
    """A parameter's shape with the sides it runs along: `sides[i] = (dimension, side, full size)`."""

    shape: tuple[int, ...]
    sides: tuple[tuple[int, Side, int], ...]
    positions: float  # multiply-accumulates per weight and image; 0 for what is not a layer's weight

    def numel(self, kept: Mapping[Side, int]) -> int:
        total = math.prod(self.shape)
        for _, side, size in self.sides:
            total = total * kept[side] // size  # exact, in a grouped convolution too: its blocks are cut equally
        return total


class Costs:
    """Multiply-accumulates of one image, parameters and channels, exact, while units are taken and given back."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], example: Tensor) -> None:
        positions, macs = _positions(model, example)
        sides: dict[tuple[str, str], list[tuple[int, Side, int]]] = defaultdict(list)
        self._kept: dict[Side, int] = {}
        self._counts: dict[str, dict[Side, list[int]]] = {}
        for group in groups:
            counts: dict[Side, list[int]] = {}
            for member in group.members:
                side = (member.path, member.kind, member.parameter)
                counts[side] = torch.bincount(member.unit, minlength=group.width).tolist()
                if side not in self._kept:
                    self._kept[side] = member.size
                    for name, dim in dimensions(member):
                        sides[member.path, name].append((dim, side, member.size))
            self._counts[group.name] = counts
        tensors: dict[tuple[str, str], _Tensor] = {}
        for path, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                along = positions.get(path, 0.0) if name == "weight" else 0.0
                tensors[path, name] = _Tensor(tuple(parameter.shape), tuple(sides[path, name]), along)
        counted = sum(tensor.numel(self._kept) * tensor.positions for tensor in tensors.values())
        self.amount: dict[Measure, float] = {
            "macs": max(macs, counted),  # with products that no layer owns (attention): widths don't change those
            "params": float(sum(parameter.numel() for parameter in model.parameters())),
            "channels": float(sum(group.channels for group in groups)),
        }
        self._touched: dict[str, list[_Tensor]] = {
            name: [tensor for tensor in tensors.values() if any(side in counts for _, side, _ in tensor.sides)]
            for name, counts in self._counts.items()
        }
        self._roots = {group.name: torch.bincount(group.root.unit, minlength=group.width).tolist() for group in groups}

    def change(self, name: str, units: Sequence[int], back: bool = False) -> None:
        """Take these units out of the group, or give them back."""
        sign = 1 if back else -1
        before = self._totals(name)
        for side, counts in self._counts[name].items():
            self._kept[side] += sign * sum(counts[unit] for unit in units)
        after = self._totals(name)
        self.amount["macs"] += after[0] - before[0]
        self.amount["params"] += after[1] - before[1]
        self.amount["channels"] += sign * sum(self._roots[name][unit] for unit in units)

    def _totals(self, name: str) -> tuple[float, int]:
        sizes = [(tensor.numel(self._kept), tensor.positions) for tensor in self._touched[name]]
        return sum(size * along for size, along in sizes), sum(size for size, _ in sizes)


def _positions(model: nn.Module, example: Tensor) -> tuple[dict[str, float], float]:
    """How often each convolution and linear layer uses a weight for one image; and all multiply-accumulates of it.

    A convolution uses a weight once an output position (a transposed one: an input position); torch's counter gives
    the total, so that products outside these layers are in it.
    """
    found: dict[str, float] = defaultdict(float)
    image = example[:1]

    def note(path: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(layer, nn.Linear):
                found[path] += output.numel() / layer.out_features
            else:
                side = inputs[0] if isinstance(layer, TRANSPOSED) else output
                channels = layer.in_channels if isinstance(layer, TRANSPOSED) else layer.out_channels
                found[path] += side.numel() / channels

        return module.register_forward_hook(hook)

    layers = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)]
    handles = [note(path, module) for path, module in layers]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return dict(found), counter.get_total_flops() / 2


@dataclass(frozen=True)
class Ladder:
    """How a group may shrink: its units from the worst to the best, and the numbers of them which may go.

    `stops` begins with 0. `keys[i]` says when the step to `stops[i + 1]` is due: the smallest of all groups goes first.
    """

    name: str
    order: tuple[int, ...]
    stops: tuple[int, ...]
    keys: tuple[float, ...]

    def step(self, number: int) -> tuple[int, ...]:
        """The units that go in step `number` (from 0)."""
        return self.order[self.stops[number] : self.stops[number + 1]]

    def gone(self, steps: int) -> tuple[int, ...]:
        """All units that go in so many steps."""
        return self.order[: self.stops[steps]]


def make_ladder(
    group: Group,
    score: Tensor,
    *,
    allocation: Literal["local", "global"],
    round_to: int | None,
    min_width: int,
    max_sparsity: float,
) -> Ladder:
    """The ladder of one group; ties in the score go by the lowest channel.

    local: a step's key is the share of the group that is gone after it, so all groups shrink alike. global: its key is
    the mean score of its units over the mean score of the group, so groups with large weights are not spared for it.
    """
    order = torch.sort(score, stable=True).indices
    a_unit = group.channels / group.width
    stops = [0]
    for gone in range(1, group.width):
        channels = (group.width - gone) * a_unit
        fits = round_to is None or channels % round_to == 0
        if fits and channels >= min_width and gone <= max_sparsity * group.width + 1e-9:
            stops.append(gone)
    mean = float(score.mean())
    relative = (score / mean if mean > 0 else score)[order].tolist()
    steps = list(itertools.pairwise(stops))
    if allocation == "local":
        keys = [after / group.width for _, after in steps]
    else:
        keys = [sum(relative[before:after]) / (after - before) for before, after in steps]
    return Ladder(group.name, tuple(order.tolist()), tuple(stops), tuple(keys))


def shrink_to(
    costs: Costs, ladders: Sequence[Ladder], measure: Measure, baseline: float, reduction: float, tolerance: float
) -> dict[str, int]:
    """Group name -> steps to take, so that `measure` falls by `reduction` of `baseline`.

    Steps are taken in the order of their keys; one that overshoots by more than `tolerance` is passed over; the end is
    where the target is reached. When what is left of the steps is too coarse to reach it, single steps are exchanged
    between groups. `costs` ends at the result; whoever calls compares what was achieved.
    """
    taken = dict.fromkeys((ladder.name for ladder in ladders), 0)
    target = baseline * (1 - reduction)
    lowest = target - tolerance * baseline
    slack = 1e-9 * baseline  # sums of floats
    # equal keys (a fresh network's scales are all 1) go by the share that is gone, not group after group
    due = sorted(
        (key, ladder.stops[number + 1] / len(ladder.order), place)
        for place, ladder in enumerate(ladders)
        for number, key in enumerate(ladder.keys)
    )
    for _, _, place in due:
        if costs.amount[measure] <= target + slack:
            return taken
        ladder = ladders[place]
        units = ladder.step(
            taken[ladder.name]
        )  # an earlier step that was passed over comes first: same cost, worse units
        costs.change(ladder.name, units)
        if costs.amount[measure] < lowest - slack:
            costs.change(ladder.name, units, back=True)
        else:
            taken[ladder.name] += 1
    _exchange(costs, ladders, taken, measure, target, lowest, slack)
    return taken


def _exchange(
    costs: Costs,
    ladders: Sequence[Ladder],
    taken: dict[str, int],
    measure: Measure,
    target: float,
    lowest: float,
    slack: float,
) -> None:
    """One group a step down, another a step up, as long as that comes closer to the target from above or reaches it."""
    while costs.amount[measure] > target + slack:
        best, best_amount = None, costs.amount[measure]
        for down, up in _pairs(ladders, taken):
            _move(costs, taken, down, 1)
            _move(costs, taken, up, -1)
            amount = costs.amount[measure]
            _move(costs, taken, up, 1)
            _move(costs, taken, down, -1)
            if lowest - slack <= amount < best_amount - slack:
                best, best_amount = (down, up), amount
        if best is None:
            return
        _move(costs, taken, best[0], 1)
        _move(costs, taken, best[1], -1)


def _pairs(ladders: Sequence[Ladder], taken: Mapping[str, int]) -> Iterator[tuple[Ladder, Ladder]]:
    for down in ladders:
        for up in ladders:
            if down is not up and taken[down.name] < len(down.keys) and taken[up.name] > 0:
                yield down, up


def _move(costs: Costs, taken: dict[str, int], ladder: Ladder, direction: Literal[1, -1]) -> None:
    number = taken[ladder.name] if direction == 1 else taken[ladder.name] - 1
    costs.change(ladder.name, ladder.step(number), back=direction == -1)
    taken[ladder.name] += direction


def nearest_stop(ladder: Ladder, share: float) -> int:
    """Steps to take so that `round(share * width)` units go, or as near as the stops allow (the fewer on a tie)."""
    wanted = round(share * len(ladder.order))
    return min(range(len(ladder.stops)), key=lambda number: (abs(ladder.stops[number] - wanted), number))


def most_reachable(costs: Costs, ladders: Sequence[Ladder], taken: Mapping[str, int], measure: Measure) -> float:
    """What is left of `measure` when every group goes to the end of its ladder; `costs` stays as it is."""
    rest = [(ladder.name, ladder.order[ladder.stops[taken[ladder.name]] : ladder.stops[-1]]) for ladder in ladders]
    for name, units in rest:
        costs.change(name, units)
    least = costs.amount[measure]
    for name, units in rest:
        costs.change(name, units, back=True)
    return least
