"""How long the layers of a network take at other widths, in the runtime that is deployed: measured, and kept."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends import Way, prepare, version_of
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.channels.layer_times import LayerTimes, Widths, layer_times
from pruning_bootcamp.pruning.graph import Group
from pruning_bootcamp.results import LayerStairs, WayStairs
from pruning_bootcamp.runs import atomic_path, cache_folder
from pruning_bootcamp.runtime import processor_name
from pruning_bootcamp.tools.alone import LayerAlone, LayerShape, shape_of
from pruning_bootcamp.tools.latency import compare_latencies
from pruning_bootcamp.tools.latency.clock import Candidate
from pruning_bootcamp.tools.modes import evaluation_mode

FORMAT = 2
# Of a layer with few outputs so many copies run at once: the call of a runtime takes as long as the layer.
_COPIES, _SMALL = 4, 2**20
_ROUNDS, _MOST_SECONDS = 7, 1.5
Say = Callable[[int, int, LayerShape], None]  # how many are done, of how many, and which is next


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
        clock = partial(_time, ready={}, way=way, threads=threads, device=device)
        found[shape] = layer_times(shape, cut, known, clock, multiple)
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


def _time(
    shape: LayerShape,
    widths: Sequence[Widths],
    ready: dict[Widths, Candidate],
    way: Way,
    threads: int,
    device: torch.device,
) -> dict[Widths, float]:
    """Milliseconds at these widths, all in turn: each one's quickest pass, which a busy machine disturbs least.

    `ready`: what runs them, kept for the next time.
    """
    copies = _COPIES if math.prod(shape.size) * way.batch * shape.outputs <= _SMALL else 1
    for place in widths:
        if place not in ready:
            net = LayerAlone(shape.at(*place), copies).to(device)
            batch = net.example(way.batch).to(device)
            ready[place] = prepare(way.backend, net, batch, threads), batch
    found = compare_latencies(
        {str(place): ready[place] for place in widths},
        runs=_ROUNDS,
        min_seconds=0.2,
        max_seconds=_MOST_SECONDS,
        warmup_runs=1,
        warmup_seconds=0.0,
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
        self._times: dict[str, dict[Widths, float]] = {}
        self._changed = False
        try:
            content = json.loads(self._path.read_text())
            if {key: content.get(key) for key in self._whose} == self._whose:
                self._times = {shape: _read(times) for shape, times in content["milliseconds"].items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            LOGGER.info("%s: unreadable (%s); layers are timed again", self._path, error)

    def __len__(self) -> int:
        return sum(len(times) for times in self._times.values())

    def of(self, shape: LayerShape) -> Mapping[Widths, float]:
        """Milliseconds of the layer at the widths that are known."""
        return dict(self._times.get(_name(shape), {}))

    def put(self, shape: LayerShape, times: Mapping[Widths, float]) -> None:
        """Know these too, or instead."""
        self._times.setdefault(_name(shape), {}).update(times)
        self._changed = True

    def write(self) -> None:
        """Keep what is new; where that can't be done it costs the time again."""
        if not self._changed:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path) as temporary:
                kept = {
                    shape: {f"{inputs}x{outputs}": value for (inputs, outputs), value in times.items()}
                    for shape, times in self._times.items()
                }
                temporary.write_text(json.dumps(self._whose | {"milliseconds": kept}))
        except (OSError, BootcampError) as error:
            LOGGER.info("%s: not written (%s); layers will be timed again", self._path, error)
        self._changed = False


def _name(shape: LayerShape) -> str:
    return json.dumps(asdict(shape), sort_keys=True)


def _read(times: Mapping[str, float]) -> dict[Widths, float]:
    """As the file has them; ValueError where one is no time."""
    found = {}
    for place, milliseconds in times.items():
        inputs, outputs = map(int, place.split("x"))
        if not 0 < float(milliseconds) < math.inf:
            raise ValueError(f"{place}: {milliseconds} is no time")
        found[inputs, outputs] = float(milliseconds)
    return found
