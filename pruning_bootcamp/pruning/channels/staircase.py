"""How long each layer takes at other widths, in the runtime that is deployed: measured, a layer at a time, and kept."""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends import Way, prepare, version_of
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.graph import Group
from pruning_bootcamp.results import LayerStairs, WayStairs
from pruning_bootcamp.runs import atomic_path, cache_folder
from pruning_bootcamp.runtime import processor_name
from pruning_bootcamp.tools.alone import LayerAlone, LayerShape, shape_of
from pruning_bootcamp.tools.latency import compare_latencies
from pruning_bootcamp.tools.modes import evaluation_mode

FORMAT = 1
# A side is looked at in so many steps at first; where a step is higher than this share of the whole, in its middle too.
_STEPS = 16
_REFINED = 0.08
# Of a layer with few outputs so many copies run at once: the call of a runtime takes as long as the layer.
_COPIES, _SMALL = 4, 2**20
_ROUNDS, _MOST_SECONDS = 7, 1.5
# What a busy machine may have slowed is timed again, so many times at most, or until that has not helped twice.
_AGAIN, _CONFIRMED, _LESS_USE = 5, 0.97, 0.85
Widths = tuple[int, int]  # what goes in, what comes out
Say = Callable[[int, int, LayerShape], None]  # how many are done, of how many, and which is next
Clock = Callable[[LayerShape, Sequence[Widths]], dict[Widths, float]]


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
            return _step(self.outputs, outputs)
        along, across = _step(self.inputs, inputs), _step(self.outputs, outputs)
        if inputs >= self.shape.inputs or outputs >= self.shape.outputs:
            return across if inputs >= self.shape.inputs else along
        c = self.constant
        return c + max(0.0, along - c) * max(0.0, across - c) / max(self.whole - c, 1e-9)


def _step(times: Mapping[int, float], width: int) -> float:
    """Of the width, or of the next that was measured: a staircase is flat up to its steps."""
    return times[min((known for known in times if known >= width), default=max(times))]


@dataclass(frozen=True)
class Staircases:
    """Layer -> its times; `way`, how they were run; `kept`, how many of the measurements had been made before."""

    layers: dict[str, LayerTimes]
    way: Way
    measured: int = 0
    kept: int = 0
    seconds: float = 0.0

    def widths_of(self, group: Group) -> set[int]:
        """The numbers of the group's channels whose times are known where they are made or read."""
        found: set[int] = set()
        for member in group.members:
            if (times := self.layers.get(member.path)) is None:
                continue
            side = times.outputs if member.kind != "input" else times.inputs
            each, others = len(member.index) / group.channels, member.size - len(member.index)
            found |= {round((width - others) / each) for width in side if width > others}
        return {width for width in found if 0 < width <= group.channels}

    def as_result(self, widths: Callable[[str, LayerShape], Widths], threads: int, device: torch.device) -> WayStairs:
        """What a file keeps of them, `widths` being those that were chosen for a layer."""
        alike: dict[LayerShape, list[str]] = {}
        for path, times in self.layers.items():
            alike.setdefault(times.shape, []).append(path)
        layers = [
            LayerStairs(
                layer=str(shape),
                widths=(shape.inputs, shape.outputs),
                inputs=_microseconds(self.layers[paths[0]].inputs),
                outputs=_microseconds(self.layers[paths[0]].outputs),
                chosen={path: widths(path, shape) for path in paths},
            )
            for shape, paths in alike.items()
        ]
        return WayStairs(
            way=str(self.way),
            version=version_of(self.way.backend),
            processor=processor_name(device),
            threads=threads,
            layers=tuple(sorted(layers, key=lambda one: -one.all_us)),
        )


def _microseconds(times: Mapping[int, float]) -> dict[int, float]:
    return {width: round(1000 * times[width], 2) for width in sorted(times)}


def measure_staircases(
    model: nn.Module,
    example: Tensor,
    groups: Sequence[Group],
    way: Way,
    threads: int,
    device: torch.device,
    say: Say = lambda number, total, shape: None,
    multiple: int = 1,
) -> Staircases:
    """Of every layer that is cut with one of the groups; layers alike are measured once, and kept for the next time.

    `example`: one input; layers get as many as `way` says. `multiple`: what widths will be multiples of. What was
    measured before, on this processor by this version of the backend with as many threads, is read from the user's
    cache folder.
    """
    begun = time.perf_counter()
    sides: dict[str, set[str]] = {}
    for group in groups:
        for member in group.of_kind("output", "input", "depthwise"):
            sides.setdefault(member.path, set()).add(member.kind)
    shapes = _shapes(model, example, sides)
    wanted: dict[LayerShape, set[str]] = {}
    for path, shape in shapes.items():
        wanted.setdefault(shape, set()).update(sides[path])
    known = _Kept(way, threads, device)
    before = len(known)
    found = {}
    for number, (shape, cut) in enumerate(wanted.items()):
        say(number, len(wanted), shape)
        clock = partial(_time, way=way, threads=threads, device=device)
        found[shape] = _layer_times(shape, cut, known, clock, multiple)
        known.write()
    return Staircases(
        layers={path: found[shape] for path, shape in shapes.items()},
        way=way,
        measured=len(known) - before,
        kept=before,
        seconds=time.perf_counter() - begun,
    )


def _shapes(model: nn.Module, example: Tensor, paths: Mapping[str, set[str]]) -> dict[str, LayerShape]:
    """Layer -> what decides its time, as it is run in the network; those that can stand alone."""
    found: dict[str, LayerShape] = {}

    def note(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            if path not in found and given and isinstance(given[0], Tensor):
                shape = shape_of(layer, given[0])
                if shape is not None:
                    found[path] = shape

        return hook

    handles = [model.get_submodule(path).register_forward_pre_hook(note(path)) for path in paths]
    try:
        with evaluation_mode(model), torch.inference_mode():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _layer_times(shape: LayerShape, cut: set[str], known: "_Kept", clock: Clock, multiple: int) -> LayerTimes:
    """The layer along each side that is cut, in coarse steps, then in the middle of the high ones."""
    both = {"output", "input"} <= cut and not shape.depthwise
    whole, before = (shape.inputs, shape.outputs), known.of(shape)
    multiples = {kind: math.lcm(shape.groups if kind != "depthwise" else 1, multiple) for kind in sorted(cut)}
    full = {kind: shape.inputs if kind in ("input", "depthwise") else shape.outputs for kind in multiples}
    along = {kind: coarse_widths(full[kind], multiples[kind]) for kind in multiples}

    def measured(widths: Sequence[Widths]) -> Mapping[Widths, float]:
        if missing := [place for place in dict.fromkeys(widths) if place not in known.of(shape)]:
            known.put(shape, clock(shape, missing))
        return known.of(shape)

    def sides() -> dict[str, dict[int, Widths]]:
        return {kind: {width: _place(shape, kind, width) for width in widths} for kind, widths in along.items()}

    def points(places: Mapping[int, Widths]) -> list[tuple[int, float]]:
        times = known.of(shape)
        return [(width, times[place]) for width, place in places.items()]

    for _ in range(2):
        measured([whole, *(place for places in sides().values() for place in places.values())])
        for kind, places in sides().items():
            more = between(points(places), known.of(shape)[whole], multiples[kind])
            along[kind] = sorted({*along[kind], *more})
    measured([place for places in sides().values() for place in places.values()])
    in_vain = Counter(dict.fromkeys(before, 2))
    for _ in range(_AGAIN):
        doubts = {places[width] for places in sides().values() for width in doubted(points(places))}
        doubts = {place for place in doubts if in_vain[place] < 2}
        if not doubts:
            break
        first = dict(known.of(shape))
        again = clock(shape, sorted(doubts))
        in_vain.update(place for place in doubts if again[place] > _CONFIRMED * first[place])
        known.put(shape, {place: min(again[place], first[place]) for place in doubts})
    inputs = dict(points(sides().get("input", {}))) | {shape.inputs: known.of(shape)[whole]}
    outputs = dict(points(sides().get("output", {}))) | {shape.outputs: known.of(shape)[whole]}
    if shape.depthwise:
        outputs |= {place[1]: known.of(shape)[place] for place in sides().get("depthwise", {}).values()}
        return LayerTimes(shape, {shape.inputs: known.of(shape)[whole]}, outputs)
    if not both:
        return LayerTimes(shape, inputs, outputs)
    small = (_middle(along["input"]), _middle(along["output"]))
    reached = measured([small])[small]
    times = inputs[small[0]], outputs[small[1]], known.of(shape)[whole]
    return LayerTimes(shape, inputs, outputs, _constant(*times, reached))


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


def _time(
    shape: LayerShape, widths: Sequence[Widths], way: Way, threads: int, device: torch.device
) -> dict[Widths, float]:
    """Milliseconds at these widths, all in turn: each one's quickest pass, which a busy machine disturbs least."""
    copies = _COPIES if math.prod(shape.size) * way.batch * shape.outputs <= _SMALL else 1
    candidates = {}
    for place in widths:
        net = LayerAlone(shape.at(*place), copies).to(device)
        batch = net.example(way.batch).to(device)
        candidates[str(place)] = (prepare(way.backend, net, batch, threads), batch)
    found = compare_latencies(
        candidates, runs=_ROUNDS, min_seconds=0.2, max_seconds=_MOST_SECONDS, warmup_runs=1, warmup_seconds=0.0
    )
    return {place: min(found[str(place)].rounds_ms) / copies for place in widths}


class _Kept:
    """What was measured on this processor, by this version of the backend: one small file each."""

    def __init__(self, way: Way, threads: int, device: torch.device) -> None:
        self._whose = {
            "format": FORMAT,
            "processor": sorted({processor_name(torch.device("cpu")), processor_name(device)}),
            "backend": way.backend,
            "version": version_of(way.backend),
            "threads": threads,
            "batch": way.batch,
        }
        name = hashlib.sha256(json.dumps(self._whose, sort_keys=True).encode()).hexdigest()[:16]
        self._path: Path = cache_folder() / "layer_times" / f"{name}.json"
        self._times: dict[str, dict[str, float]] = {}
        self._changed = False
        try:
            content = json.loads(self._path.read_text())
            if {key: content.get(key) for key in self._whose} == self._whose:
                self._times = content["milliseconds"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, AttributeError) as error:
            LOGGER.info("%s: unreadable (%s); layers are timed again", self._path, error)

    def __len__(self) -> int:
        return sum(len(times) for times in self._times.values())

    def of(self, shape: LayerShape) -> Mapping[Widths, float]:
        """Milliseconds of the layer at the widths that are known."""
        kept = self._times.get(_name(shape), {})
        return {(int(inputs), int(outputs)): kept[f"{inputs}x{outputs}"] for inputs, outputs in map(_sides, kept)}

    def put(self, shape: LayerShape, times: Mapping[Widths, float]) -> None:
        """Know these too, or instead."""
        self._times.setdefault(_name(shape), {}).update({f"{place[0]}x{place[1]}": times[place] for place in times})
        self._changed = True

    def write(self) -> None:
        """Keep what is new; where that can't be done it costs the time again."""
        if not self._changed:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path) as temporary:
                temporary.write_text(json.dumps(self._whose | {"milliseconds": self._times}))
        except (OSError, BootcampError) as error:
            LOGGER.info("%s: not written (%s); layers will be timed again", self._path, error)
        self._changed = False


def _name(shape: LayerShape) -> str:
    return json.dumps(asdict(shape), sort_keys=True)


def _sides(key: str) -> list[str]:
    return key.split("x")
