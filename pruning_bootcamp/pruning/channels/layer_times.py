"""How long one layer takes at other widths: where it is timed, what is doubted and timed again, and what is between."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from pruning_bootcamp.results.layer_times import time_at
from pruning_bootcamp.tools.alone import LayerShape

# A side is looked at in so many steps at first; where a step is higher than this share of the whole, in its middle too.
_STEPS = 16
_REFINED = 0.08
# What a busy machine may have slowed is timed again, so many times at most, or until that does not help.
_AGAIN, _CONFIRMED, _LESS_USE = 2, 0.97, 0.85
Widths = tuple[int, int]  # what goes in, what comes out
Clock = Callable[[LayerShape, Sequence[Widths]], dict[Widths, float]]


class Known(Protocol):
    """Milliseconds of layers that were timed before, and room for more."""

    def of(self, shape: LayerShape) -> Mapping[Widths, float]:
        """Of the layer, at the widths that are known."""
        ...

    def put(self, shape: LayerShape, times: Mapping[Widths, float]) -> None:
        """Know these too, or instead."""
        ...


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of one layer at widths of both its sides.

    Along each side it was measured with the other one whole, and once with both small. Between: `c + (a - c)(b - c) /
    (whole - c)`, with `c`, what the layer takes whatever its widths, such that the small one comes out as measured.
    """

    shape: LayerShape
    inputs: Mapping[int, float]
    outputs: Mapping[int, float]
    constant: float = 0.0

    @property
    def whole(self) -> float:
        """Uncut."""
        return self.outputs[self.shape.outputs]

    def at(self, inputs: int, outputs: int) -> float:
        """Cut to these widths; 0 where nothing is left of a side."""
        if inputs <= 0 or outputs <= 0:
            return 0.0
        if self.shape.depthwise:
            return time_at(self.outputs, outputs)
        along, across = time_at(self.inputs, inputs), time_at(self.outputs, outputs)
        if inputs >= self.shape.inputs or outputs >= self.shape.outputs:
            return across if inputs >= self.shape.inputs else along
        c = self.constant
        return c + max(0.0, along - c) * max(0.0, across - c) / max(self.whole - c, 1e-9)


def layer_times(shape: LayerShape, cut: set[str], known: Known, clock: Clock, multiple: int = 1) -> LayerTimes:
    """The layer along each side that is cut, in coarse steps, then in the middle of the high ones.

    `cut`: kinds of sides (`input`, `output`, `depthwise`). Where `known` has all of it, nothing is timed.
    """
    both = {"output", "input"} <= cut and not shape.depthwise
    whole = (shape.inputs, shape.outputs)
    multiples = {kind: math.lcm(shape.groups if kind != "depthwise" else 1, multiple) for kind in sorted(cut)}
    full = {kind: shape.inputs if kind in ("input", "depthwise") else shape.outputs for kind in multiples}
    along = {kind: coarse_widths(full[kind], multiples[kind]) for kind in multiples}

    def sides() -> dict[str, dict[int, Widths]]:
        return {kind: {width: _place(shape, kind, width) for width in widths} for kind, widths in along.items()}

    def points(places: Mapping[int, Widths]) -> list[tuple[int, float]]:
        times = known.of(shape)
        return [(width, times[place]) for width, place in places.items()]

    def timed(more: Sequence[Widths] = (), again: bool = False) -> bool:
        """All of them together, where one is not known, or again: alone a width is quicker than among others."""
        before = known.of(shape)
        places = [whole, *(place for places in sides().values() for place in places.values()), *more]
        if not again and all(place in before for place in places):
            return False
        times = clock(shape, list(dict.fromkeys(places)))
        known.put(shape, {place: min(time, before.get(place, time)) for place, time in times.items()})
        return True

    def refine() -> None:
        for kind, places in sides().items():
            more = between(points(places), known.of(shape)[whole], multiples[kind])
            along[kind] = sorted({*along[kind], *more})

    looked = timed()
    if looked:  # else that was done before, and by other figures other steps would look high
        refine()
        timed()
        refine()
    for kind in along:
        also = {width for width in range(1, full[kind]) if _place(shape, kind, width) in known.of(shape)}
        along[kind] = sorted({*along[kind], *(width for width in also if width % multiples[kind] == 0)})
    small = [(_middle(along["input"]), _middle(along["output"]))] if both else []
    timed(small)
    for _ in range(_AGAIN if looked else 0):
        doubts = {places[width] for places in sides().values() for width in doubted(points(places))}
        first = known.of(shape)
        if not doubts or not timed(small, again=True):
            break
        if all(known.of(shape)[place] > _CONFIRMED * first[place] for place in doubts):
            break
    inputs = dict(points(sides().get("input", {}))) | {shape.inputs: known.of(shape)[whole]}
    outputs = dict(points(sides().get("output", {}))) | {shape.outputs: known.of(shape)[whole]}
    if shape.depthwise:
        outputs |= {place[1]: known.of(shape)[place] for place in sides().get("depthwise", {}).values()}
        return LayerTimes(shape, {shape.inputs: known.of(shape)[whole]}, outputs)
    if not both:
        return LayerTimes(shape, inputs, outputs)
    times = inputs[small[0][0]], outputs[small[0][1]], known.of(shape)[whole]
    return LayerTimes(shape, inputs, outputs, _constant(*times, known.of(shape)[small[0]]))


def _place(shape: LayerShape, kind: str, width: int) -> Widths:
    """Both widths of the layer where the one of that side is so many, and the other whole or tied to it."""
    if kind == "depthwise":
        return width, width * shape.outputs // shape.inputs
    return (width, shape.outputs) if kind == "input" else (shape.inputs, width)


def doubted(points: Sequence[tuple[int, float]]) -> list[int]:
    """Widths whose time may be that of something else that ran: a wider one is quicker, or a narrower one makes more of
    the time that it takes.

    Steps of a runtime look alike: only timing them again tells. Sorted by width.
    """
    found, best = [], 0.0
    for number, (width, milliseconds) in enumerate(points):
        wider = min((later for _, later in points[number + 1 :]), default=math.inf)
        use = width / max(milliseconds, 1e-12)
        if wider < _CONFIRMED * milliseconds or use < _LESS_USE * best:
            found.append(width)
        best = max(best, use)
    return found


def coarse_widths(full: int, multiple: int = 1) -> list[int]:
    """Widths up to the full one: the smallest, then in about 16 steps, of 4 or a multiple of it."""
    step = max(4, math.ceil(full / _STEPS / 4) * 4)
    step = math.lcm(step, multiple)
    small = [multiple * n for n in (1, 2, 3) if multiple * n < min(step, full)]
    return sorted({*small, *range(step, full, step), full})


def between(points: Sequence[tuple[int, float]], whole: float, multiple: int = 1) -> list[int]:
    """Widths in the middle of the high steps: whether the step is early or late, or a slope, decides what is worth."""
    found = []
    for (low, before), (high, after) in pairwise(points):
        middle = (low + high) // 2 // multiple * multiple
        if low < middle < high and abs(after - before) > _REFINED * whole:
            found.append(middle)
    return found


def _middle(widths: Sequence[int]) -> int:
    return widths[len(widths) // 2 - 1]


def _constant(along: float, across: float, whole: float, reached: float) -> float:
    """What the layer takes whatever its widths, by bisection: the more, the longer it takes with both sides small."""
    low, high = 0.0, min(along, across) * 0.999
    for _ in range(40):
        c = (low + high) / 2
        if c + (along - c) * (across - c) / max(whole - c, 1e-9) < reached:
            low = c
        else:
            high = c
    return low
