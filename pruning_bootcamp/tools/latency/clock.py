"""One way to time anything: warm up, run the candidates in turn (A/B, B/A), report the median with its spread."""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.results import Latency, NetworkMetrics
from pruning_bootcamp.runtime import float32_on, processor_name, synchronize, using_threads
from pruning_bootcamp.tools.latency.pairs import PairedRatio, judged_pairs
from pruning_bootcamp.tools.latency.runner import Runner
from pruning_bootcamp.tools.modes import beside, evaluation_mode

Takes = Runner | Callable[[Tensor], Any]
Candidate = tuple[Takes, Tensor] | Callable[[], Any]
"""A runner, a network (or whatever takes its input) with an example batch; or a function without arguments, taken as
batch 1."""

FEWEST_RUNS = 3  # a median of fewer is not one, whatever the time budget says


@dataclass(frozen=True)
class LatencyStats:
    """Milliseconds of one forward pass of `batch_size` images, over `n` timed passes; what ran it, and where."""

    median_ms: float
    mean_ms: float
    std_ms: float
    p5_ms: float
    p95_ms: float
    n: int
    batch_size: int
    device: str
    threads: int
    backend: str
    version: str | None = None
    precision: str | None = None
    processor: str | None = None
    note: str | None = None
    rounds_ms: tuple[float, ...] = field(default=(), repr=False)
    """each pass, in the order of the rounds that all candidates took part in"""

    def as_result(self) -> Latency:
        """What a file of results keeps of it: all but the single rounds."""
        return Latency(**{name: value for name, value in vars(self).items() if name != "rounds_ms"})

    def beside(self, metrics: NetworkMetrics) -> NetworkMetrics:
        """The network's other figures with its latency, and how that was measured."""
        return replace(
            metrics,
            latency_ms=self.median_ms,
            throughput_fps=self.throughput_fps,
            latency_batch_size=self.batch_size,
            latency_backend=self.backend,
            latency_version=self.version,
            latency_precision=self.precision,
            latency_processor=self.processor,
            latency_threads=self.threads,
            latency_note=self.note,
        )

    def ratio_to(self, baseline: "LatencyStats") -> PairedRatio | None:
        """Its time over the baseline's, pair by pair; None where the two were not timed in the same rounds."""
        if not self.rounds_ms or len(self.rounds_ms) != len(baseline.rounds_ms):
            return None
        return judged_pairs(baseline.rounds_ms, self.rounds_ms)

    @property
    def throughput_fps(self) -> float:
        """Images a second at this batch size, from the median."""
        return 1000.0 * self.batch_size / self.median_ms

    @property
    def spread(self) -> str:
        """`0.245 ms median (mean 0.751, std 2.340, p5 0.143, p95 4.387, n 545)`."""
        return (
            f"{self.median_ms:.3f} ms median (mean {self.mean_ms:.3f}, std {self.std_ms:.3f}, p5 {self.p5_ms:.3f}, "
            f"p95 {self.p95_ms:.3f}, n {self.n})"
        )

    @property
    def way(self) -> str:
        """How it was measured (see results.Latency)."""
        return self.as_result().way

    def __str__(self) -> str:
        return f"{self.spread}, {self.as_result().noted_way}"


def measure_latency(runner: Takes, example: Tensor, **settings: Any) -> float:
    """Median milliseconds of one forward pass of `example`; settings as compare_latencies."""
    return measure_latency_with_stats(runner, example, **settings).median_ms


def measure_latency_with_stats(runner: Takes, example: Tensor, **settings: Any) -> LatencyStats:
    """As measure_latency, with the spread, n and the machine; settings as compare_latencies."""
    return compare_latencies({"only": (runner, example)}, **settings)["only"]


def compare_latencies(
    candidates: Mapping[str, Candidate],
    *,
    runs: int = 50,
    min_seconds: float = 1.0,
    max_seconds: float = 60.0,
    warmup_runs: int = 3,
    warmup_seconds: float = 0.3,
) -> dict[str, LatencyStats]:
    """Timings of the candidates, run in turn so that a slow spell of the machine hits all of them alike.

    Every second round goes backwards (A B, B A, A B, ...): on a busy machine a pass is mostly a little quicker than the
    one before it, as caches warm up until the next interruption, and the second network would seem to be the quicker.
    Each is run at least `runs` times and for `min_seconds` in all; after `max_seconds` in all it ends early, and `n`
    says so (never below 3). Before that come `warmup_runs` passes and `warmup_seconds` each. Networks run in eval
    mode, without gradients, on the device where their weights are, runners on their own number of threads; the clock
    is CUDA's events on CUDA, else monotonic.
    """
    if not candidates or runs < 1:
        raise BootcampError(f"latency: nothing to time ({len(candidates)} networks, {runs} runs). Give at least one.")
    timed = {name: _timed(candidate) for name, candidate in candidates.items()}
    models = [candidate[0] for candidate in candidates.values() if isinstance(candidate, tuple)]
    modules = [model for model in models if isinstance(model, nn.Module)]
    order, milliseconds = list(timed), {name: list[float]() for name in timed}
    with evaluation_mode(*modules), torch.inference_mode(), _no_garbage_collection():
        for one in timed.values():
            with using_threads(one.threads):
                _warm_up(one, warmup_runs, warmup_seconds)
        started, rounds = time.perf_counter(), 0
        while True:
            for name in order if rounds % 2 == 0 else reversed(order):
                with using_threads(timed[name].threads):
                    milliseconds[name].append(timed[name].milliseconds())
            rounds += 1
            elapsed = time.perf_counter() - started
            enough = rounds >= runs and elapsed >= min_seconds
            if rounds >= FEWEST_RUNS and (enough or elapsed >= max_seconds):
                break
    return {name: _stats(values, timed[name]) for name, values in milliseconds.items()}


@dataclass(frozen=True)
class _Timed:
    """A pass without arguments, and what a reader must know of it."""

    run: Callable[[], Any]
    batch_size: int
    device: torch.device
    backend: str
    threads: int
    version: str | None = None
    precision: str | None = None
    note: str | None = None

    def milliseconds(self) -> float:
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                self.run()
                end.record()
                end.synchronize()
            return start.elapsed_time(end)
        synchronize(self.device)
        begun = time.perf_counter_ns()
        self.run()
        synchronize(self.device)
        return (time.perf_counter_ns() - begun) / 1e6


def _timed(candidate: Candidate) -> _Timed:
    threads = torch.get_num_threads()
    if not isinstance(candidate, tuple):
        return _Timed(candidate, 1, torch.device("cpu"), "function", threads)
    takes, example = candidate
    if isinstance(takes, Runner):
        laid, run = takes.place(example), takes.run
        said = (takes.backend, takes.threads, takes.version, takes.precision, takes.note)
        return _Timed(lambda: run(laid), len(example), takes.device, *said)
    placed = example.detach()
    if not isinstance(takes, nn.Module):
        return _Timed(lambda: takes(placed), len(example), placed.device, "function", threads)
    placed = beside(takes, placed)
    precision = _precision(takes, placed.device)
    return _Timed(
        lambda: takes(placed), len(example), placed.device, "torch", threads, str(torch.__version__), precision
    )


def _precision(model: nn.Module, device: torch.device) -> str:
    """What the network's weights are; of float32, what the device makes of it."""
    kinds = {str(one.dtype).removeprefix("torch.") for one in model.parameters() if one.is_floating_point()}
    return " and ".join(sorted(kinds)) if kinds - {"float32"} else float32_on(device)


def _warm_up(timed: _Timed, runs: int, seconds: float) -> None:
    """Run until caches, allocators and clocks have settled: so many times, and so long."""
    started, done = time.perf_counter(), 0
    while done < runs or time.perf_counter() - started < seconds:
        timed.run()
        synchronize(timed.device)
        done += 1


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Python collects garbage when it pleases, which would land in one of the timings."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _stats(milliseconds: list[float], timed: _Timed) -> LatencyStats:
    low, high = np.percentile(milliseconds, [5, 95])
    return LatencyStats(
        median_ms=statistics.median(milliseconds),
        mean_ms=statistics.fmean(milliseconds),
        std_ms=statistics.stdev(milliseconds),
        p5_ms=float(low),
        p95_ms=float(high),
        n=len(milliseconds),
        batch_size=timed.batch_size,
        device=str(timed.device),
        threads=timed.threads,
        backend=timed.backend,
        version=timed.version,
        precision=timed.precision,
        processor=processor_name(timed.device),
        note=timed.note,
        rounds_ms=tuple(milliseconds),
    )
