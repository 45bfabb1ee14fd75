"""Where the time of a forward pass goes: milliseconds and multiply-accumulates, layer by layer."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.runtime import synchronize
from pruning_bootcamp.tools.metrics.flops import compute_flops
from pruning_bootcamp.tools.modes import beside, evaluation_mode

OUTSIDE = "(between the layers)"


@dataclass(frozen=True)
class LayerLatency:
    """One layer in one forward pass. `share` is of the whole pass; `macs` is for one input; `width` is its outputs.

    The row named OUTSIDE is what the layers do not explain: functions called between them (a residual addition), and
    Python and dispatch.
    """

    name: str
    kind: str
    median_ms: float
    share: float
    macs: float
    width: int | None = None


def profile_layer_latency(
    model: nn.Module, example: Tensor, *, runs: int = 20, max_seconds: float = 20.0
) -> list[LayerLatency]:
    """The layers in the order they first run, then OUTSIDE; medians over `runs` passes (fewer after `max_seconds`).

    A layer is a module that runs and calls no other module; one that runs twice in a pass has both times summed.
    """
    return profile_layers({"only": (model, example)}, runs=runs, max_seconds=max_seconds)["only"]


def profile_layers(
    networks: Mapping[str, tuple[nn.Module, Tensor]], *, runs: int = 20, max_seconds: float = 40.0
) -> dict[str, list[LayerLatency]]:
    """profile_layer_latency of several networks, their passes in turn (A/B/A/B). Hooks are gone afterwards.

    The clocks around the layers cost time themselves; what they cost is measured on an empty layer and taken off.
    """
    profilers = {name: _Profiler(model, example) for name, (model, example) in networks.items()}
    with evaluation_mode(*(profiler.model for profiler in profilers.values())), torch.inference_mode():
        for profiler in profilers.values():
            profiler.find_layers()
        started = time.perf_counter()
        for done in range(1, runs + 1):
            for profiler in profilers.values():
                profiler.timed_pass()
            if done >= 3 and time.perf_counter() - started >= max_seconds:
                break
    return {name: profiler.table() for name, profiler in profilers.items()}


class _Profiler:
    """The timings of one network's layers, gathered pass by pass."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        original = getattr(model, "_orig_mod", model)  # a compiled network has no layers left to time
        assert isinstance(original, nn.Module)
        self.model = original
        self.example = beside(original, example.detach())
        self.device = self.example.device
        self.layers: dict[str, nn.Module] = {}
        self.layer_ms: dict[str, list[float]] = {}
        self.outside_ms: list[float] = []
        self.clock_cost_ms = _clock_cost_ms()

    def find_layers(self) -> None:
        """The modules that run and call no other module, in running order; three passes, which also warm up."""
        order: list[str] = []
        callers: set[str] = set()
        running: list[str] = []

        def before(path: str) -> None:
            callers.update(running)
            running.append(path)
            if path not in order:
                order.append(path)

        def after(path: str) -> None:
            running.pop()

        modules = dict(self.model.named_modules())
        with self._hooked(modules, before, after):
            self.model(self.example)
        self.layers = {path: modules[path] for path in order if path not in callers}
        if not self.layers:
            raise BootcampError("profile: no layer of this network runs as a module, so none can be timed.")
        for _ in range(2):
            self.model(self.example)

    def timed_pass(self) -> None:
        """One pass with a clock around every layer, and one around all."""
        marks: list[tuple[str, Any]] = []

        def mark(path: str) -> None:
            marks.append((path, self._clock()))

        with self._hooked(self.layers, mark, mark):
            begun = self._clock()
            self.model(self.example)
            ended = self._clock()
        synchronize(self.device)
        spent = dict.fromkeys(self.layers, 0.0)
        for (path, entered), (_, left) in zip(marks[::2], marks[1::2], strict=True):
            spent[path] += self._between(entered, left)
        for path, milliseconds in spent.items():
            self.layer_ms.setdefault(path, []).append(milliseconds)
        clocks_ms = self.clock_cost_ms * len(marks) / 2
        # within one pass, so that the machine's slow spells hit both alike
        self.outside_ms.append(max(0.0, self._between(begun, ended) - sum(spent.values()) - clocks_ms))

    def _clock(self) -> Any:
        """Now: an event in CUDA's own queue, so that nothing waits; else nanoseconds."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            return event
        synchronize(self.device)
        return time.perf_counter_ns()

    def _between(self, begun: Any, ended: Any) -> float:
        return begun.elapsed_time(ended) if self.device.type == "cuda" else (ended - begun) / 1e6

    @contextlib.contextmanager
    def _hooked(
        self, modules: Mapping[str, nn.Module], before: Callable[[str], None], after: Callable[[str], None]
    ) -> Iterator[None]:
        """Inside, `before(path)` and `after(path)` are called around each of the modules."""
        handles = []
        for path, module in modules.items():
            handles.append(module.register_forward_pre_hook(lambda *_, path=path: before(path)))
            handles.append(module.register_forward_hook(lambda *_, path=path: after(path)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def table(self) -> list[LayerLatency]:
        medians = {path: statistics.median(values) for path, values in self.layer_ms.items()}
        outside = statistics.median(self.outside_ms)
        total = sum(medians.values()) + outside
        flops = compute_flops(self.model, self.example)
        macs = {layer.name: layer.macs for layer in flops.layers}
        rows = [
            LayerLatency(
                path, type(module).__name__, medians[path], medians[path] / total, macs.get(path, 0.0), _width(module)
            )
            for path, module in self.layers.items()
        ]
        outside_macs = max(0.0, flops.macs - sum(row.macs for row in rows))
        rows.append(LayerLatency(OUTSIDE, "", outside, outside / total, outside_macs))
        return rows


def _clock_cost_ms(calls: int = 300) -> float:
    """What two hooks that read the clock add to one call of a layer: the quickest of five tries on nn.Identity."""

    def tries(layer: nn.Module) -> float:
        best = float("inf")
        for _ in range(5):
            begun = time.perf_counter_ns()
            for _ in range(calls):
                layer(None)
            best = min(best, time.perf_counter_ns() - begun)
        return best / calls / 1e6

    bare = tries(nn.Identity())
    marks: list[tuple[str, int]] = []
    hooked = nn.Identity()
    hooked.register_forward_pre_hook(lambda *_: marks.append(("", time.perf_counter_ns())))
    hooked.register_forward_hook(lambda *_: marks.append(("", time.perf_counter_ns())))
    return max(0.0, tries(hooked) - bare)


def _width(module: nn.Module) -> int | None:
    """Output channels or features of a convolution or linear layer."""
    width = getattr(module, "out_channels", getattr(module, "out_features", None))
    return width if isinstance(width, int) else None
