"""What a network costs at any widths of its groups: multiply-accumulates of one image, parameters, channels, time."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.channels.layer_times import LayerTimes
from pruning_bootcamp.pruning.channels.staircase import Staircases
from pruning_bootcamp.pruning.graph import Group, dimensions
from pruning_bootcamp.tools.alone import LayerShape
from pruning_bootcamp.tools.metrics import Product, count_products

Measure = Literal["macs", "params", "channels", "time"]
Side = tuple[str, str, str]  # member's path, kind, parameter


@dataclass(frozen=True)
class _Tensor:
    """A parameter's shape with the sides it runs along: `sides[i] = (dimension, side, full size)`."""

    shape: tuple[int, ...]
    sides: tuple[tuple[int, Side, int], ...]
    positions: float  # multiply-accumulates per weight and image; 0 for what nothing is multiplied by

    def numel(self, kept: Mapping[Side, int]) -> int:
        total = math.prod(self.shape)
        for _, side, size in self.sides:
            total = total * kept[side] // size  # exact, in a grouped convolution too: its blocks are cut equally
        return total


@dataclass(frozen=True)
class _Measured:
    """Products alike, of which there are `times`; a factor is (its full size, ((group, what a unit takes off), ..))."""

    times: int
    factors: tuple[tuple[float, tuple[tuple[str, float], ...]], ...]

    def macs(self, gone: Mapping[str, int]) -> float:
        return self.times * math.prod(
            size - sum(less * gone[name] for name, less in slopes) for size, slopes in self.factors
        )


@dataclass(frozen=True)
class Form:
    """A size that falls with what groups lose: `full` less, for each group, the entry for the units that are gone."""

    full: float
    less: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Polynomial:
    """A measure as a function of the groups' orders of leaving: a constant, and products of forms."""

    constant: float
    terms: tuple[tuple[float, tuple[int, ...]], ...]
    forms: tuple[Form, ...]


class Costs:
    """Multiply-accumulates of one image, parameters and channels, exact, while units are taken and given back.

    A product with a weight costs in proportion to what is left of the weight. One without (attention's scores) is
    taken to be the same at all widths, until `learn` is told better by counts of really cut copies. `time` is 0 without
    `staircases`; with them, what the layers take alone of what they take uncut: the mean over the ways to run them.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        example: Tensor,
        products: Sequence[Product] | None = None,
        staircases: Sequence[Staircases] = (),
    ) -> None:
        self.products = list(products) if products is not None else count_products(model, example)[0]
        by_weight: dict[str, float] = defaultdict(float)
        for product in self.products:
            by_weight[product.weight or ""] += product.macs
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
        self._full = dict(self._kept)
        self._tensors: dict[tuple[str, str], _Tensor] = {}
        for path, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                shape = tuple(parameter.shape)
                positions = by_weight.get(f"{path}.{name}".lstrip("."), 0.0) / max(1, parameter.numel())
                self._tensors[path, name] = _Tensor(shape, tuple(sides[path, name]), positions)
        self._measured: list[_Measured] = []
        self._gone = {group.name: 0 for group in groups}
        self._roots = {group.name: torch.bincount(group.root.unit, minlength=group.width).tolist() for group in groups}
        self.amount: dict[Measure, float] = {
            "macs": sum(product.macs for product in self.products),
            "params": float(sum(parameter.numel() for parameter in model.parameters())),
            "channels": float(sum(group.channels for group in groups)),
            "time": float(bool(staircases)),
        }
        self._at_full = dict(self.amount)
        self._staircases = tuple(staircases)
        self._stairs: dict[str, list[tuple[LayerTimes, float]]] = defaultdict(list)
        for one in staircases:
            whole = sum(times.whole for times in one.layers.values())
            for path, times in one.layers.items():
                self._stairs[path].append((times, 1 / whole / len(staircases)))
        self._find_touched()

    def change(self, name: str, units: Sequence[int], back: bool = False) -> None:
        """Take these units out of the group, or give them back."""
        sign = 1 if back else -1
        before, took = self._totals(name), self._time(name)
        for side, counts in self._counts[name].items():
            self._kept[side] += sign * sum(counts[unit] for unit in units)
        self._gone[name] -= sign * len(units)
        after = self._totals(name)
        self.amount["macs"] += after[0] - before[0]
        self.amount["params"] += after[1] - before[1]
        self.amount["channels"] += sign * sum(self._roots[name][unit] for unit in units)
        self.amount["time"] += self._time(name) - took

    def shares_of_time(self) -> tuple[float, ...]:
        """By each of the staircases, what the layers take alone now of what they take uncut."""
        found = []
        for one in self._staircases:
            now = sum(self._alone(path, times) for path, times in one.layers.items())
            uncut = sum(times.whole for times in one.layers.values())
            found.append(now / uncut if uncut else 1.0)  # no layer that can stand alone
        return tuple(found)

    def learn(self, cut: Mapping[str, tuple[int, Sequence[Product]]]) -> bool:
        """Take over how every product's factors fall: from group -> (units cut from it alone, the products then).

        Nothing must be gone at this time. False, and nothing learned, where the cut copies run other operations.
        """
        assert not any(self._gone.values()), "learn before cutting"
        runs = list(cut.values())
        if any(len(run) != len(self.products) for _, run in runs):
            return False
        seen: Counter[tuple[tuple[float, tuple[tuple[str, float], ...]], ...]] = Counter()
        for place, product in enumerate(self.products):
            others = [run[place].factors for _, run in runs]
            if any(len(other) != len(product.factors) for other in others):
                return False
            slopes = [
                tuple(
                    (name, (size - other[number]) / units)
                    for (name, (units, _)), other in zip(cut.items(), others, strict=True)
                    if other[number] != size
                )
                for number, size in enumerate(product.factors)
            ]
            seen[tuple(zip(product.factors, slopes, strict=True))] += 1
        self._measured = [_Measured(times, factors) for factors, times in seen.items()]
        self._tensors = {where: replace(tensor, positions=0.0) for where, tensor in self._tensors.items()}
        self._find_touched()
        return True

    def correct(self, macs: float) -> None:
        """Add what a count found more (or, negative, less) than was foreseen."""
        self.amount["macs"] += macs
        self._at_full["macs"] += macs

    def polynomial(self, measure: Measure, orders: Mapping[str, Sequence[Sequence[int]]]) -> Polynomial:
        """The measure for groups of which so many of `orders[name]` (units in parts, in order) have gone."""
        if measure == "channels":
            whole = [Form(1.0, ((name, _sums(self._roots[name], parts)),)) for name, parts in orders.items()]
            each_once = tuple((1.0, (number,)) for number in range(len(whole)))
            return Polynomial(self._at_full[measure] - len(whole), each_once, tuple(whole))
        forms: dict[Form, int] = {}
        sides = {side: self._side(side, orders) for side in self._full}
        products: list[tuple[float, list[Form]]] = []
        for tensor in self._tensors.values():
            along = 1.0 if measure == "params" else tensor.positions
            size = math.prod(tensor.shape)
            if along and tensor.sides:
                each = along * size / math.prod(full for _, _, full in tensor.sides)
                products.append((each, [sides[side] for _, side, _ in tensor.sides]))
        for product in self._measured if measure == "macs" else []:
            factors = [_measured_form(size, slopes, orders) for size, slopes in product.factors]
            products.append((float(product.times), factors))
        terms = tuple((each, tuple(forms.setdefault(form, len(forms)) for form in some)) for each, some in products)
        at_full = sum(each * math.prod(form.full for form in some) for each, some in products)
        return Polynomial(self._at_full[measure] - at_full, terms, tuple(forms))

    def _side(self, side: Side, orders: Mapping[str, Sequence[Sequence[int]]]) -> Form:
        less = (
            (name, _sums(self._counts[name][side], parts))
            for name, parts in orders.items()
            if side in self._counts[name]
        )
        return Form(float(self._full[side]), tuple(less))

    def _find_touched(self) -> None:
        self._touched = {
            name: [tensor for tensor in self._tensors.values() if any(side in counts for _, side, _ in tensor.sides)]
            for name, counts in self._counts.items()
        }
        self._touched_measured = {
            name: [m for m in self._measured if any(name == other for _, slopes in m.factors for other, _ in slopes)]
            for name in self._counts
        }
        self._timed = {
            name: sorted({path for path, _, _ in counts if path in self._stairs})
            for name, counts in self._counts.items()
        }

    def _time(self, name: str) -> float:
        """What the layers that the group touches take, as a share of what all take uncut."""
        return sum(
            self._alone(path, times) * share for path in self._timed[name] for times, share in self._stairs[path]
        )

    def widths(self, path: str, shape: LayerShape) -> tuple[int, int]:
        """What goes into the layer of this (whole) shape, and what comes out."""
        return self._width(path, "input", shape.inputs), self._width(path, "output", shape.outputs)

    def _alone(self, path: str, times: LayerTimes) -> float:
        """Milliseconds of the layer at its widths."""
        return times.at(*self.widths(path, times.shape))

    def _width(self, path: str, kind: str, full: int) -> int:
        """Channels left of a layer's side."""
        deep = self._kept.get((path, "depthwise", ""))
        return (
            self._kept.get((path, kind, ""), full) if deep is None else full * deep // self._full[path, "depthwise", ""]
        )

    def _totals(self, name: str) -> tuple[float, int]:
        sizes = [(tensor.numel(self._kept), tensor.positions) for tensor in self._touched[name]]
        measured = sum(product.macs(self._gone) for product in self._touched_measured[name])
        return sum(size * along for size, along in sizes) + measured, sum(size for size, _ in sizes)


def _sums(counts: Sequence[int], parts: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """What is gone after none of the parts, after the first, after the first two, ..."""
    gone = [0.0]
    for part in parts:
        gone.append(gone[-1] + sum(counts[unit] for unit in part))
    return tuple(gone)


def _measured_form(
    size: float, slopes: Sequence[tuple[str, float]], orders: Mapping[str, Sequence[Sequence[int]]]
) -> Form:
    less = []
    for name, each in slopes:
        if name in orders:
            numbers = [0, *(len(part) for part in orders[name])]
            less.append((name, tuple(each * sum(numbers[: steps + 1]) for steps in range(len(numbers)))))
    return Form(size, tuple(less))
