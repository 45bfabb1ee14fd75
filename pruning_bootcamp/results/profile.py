"""profile.yaml: FLOPs against latency."""

from dataclasses import dataclass

from pruning_bootcamp.plain import Part, beside
from pruning_bootcamp.results.network import Comparison, Environment, NetworkMetrics, noted, way_said


@dataclass(frozen=True, kw_only=True)
class Latency(Part):
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
    """of the backend"""
    precision: str | None = None
    """that the products were computed in: float32, int8, ..."""
    processor: str | None = None
    note: str | None = None
    """what a backend that chooses has chosen, and by what figures"""

    @property
    def way(self) -> str:
        """`batch 16, onnxruntime 1.31.0 in float32 on cpu (AMD EPYC), 1 thread`, as far as it was recorded."""
        return way_said(
            batch_size=self.batch_size,
            backend=self.backend,
            version=self.version,
            precision=self.precision,
            where=f"{self.device} ({self.processor})" if self.processor else self.device,
            threads=self.threads,
        )

    @property
    def noted_way(self) -> str:
        """The same, and what a backend that chooses has chosen."""
        return noted(self.way, self.note)


@dataclass(frozen=True, kw_only=True)
class Paired(Comparison):
    """One way to run two networks, pair by pair; `verdict`: faster, slower or may be noise."""

    verdict: str | None = None


@dataclass(frozen=True, kw_only=True)
class LatencyPair(Part):
    """The two networks timed in turn."""

    baseline: Latency | None = None
    pruned: Latency | None = None
    paired: Paired | None = None


@dataclass(frozen=True, kw_only=True)
class Layer(Part):
    """A layer's time and multiply-accumulates; `share` of all layers' time."""

    name: str
    kind: str
    median_ms: float
    share: float
    macs: float
    width: int | None


@dataclass(frozen=True, kw_only=True)
class Cause(Part):
    """Points of the gap between FLOPs and latency, and where they come from."""

    points: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Analysis(Part):
    """Why the latency fell by less (or more) than the FLOPs."""

    discrepancy_points: float | None = None
    certain: bool | None = None
    verdict: str | None = None
    causes: tuple[Cause, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CutWidths(Part):
    """Layers whose width the pruning changed, and how many of those widths are no multiple of 8."""

    cut: int
    uneven: int


@dataclass(frozen=True, kw_only=True)
class Option(Part):
    """One way to be quicker, timed in turn with what it is compared to; `verdict`: quicker, slower or can't tell.

    By the 95% interval of the median of so many paired ratios.
    """

    name: str
    latency_ms: float | None = None
    """None: it could not be timed; the note says why"""
    against: str | None = None
    speedup: float | None = None
    low: float | None = beside("pairs")
    high: float | None = beside("pairs")
    pairs: int | None = None
    verdict: str | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answer(Part):
    """Whether something would pay: the backend, the widths, int8 or the zeros."""

    question: str
    answer: str
    way: str | None = None
    """how the options were timed"""
    options: tuple[Option, ...] = ()
    command: str | None = None
    """that does it; None: nothing is certainly quicker than what was asked for"""
    takes_ms: float | None = None
    """of one pass, by the option that the command is of"""


@dataclass(frozen=True, kw_only=True)
class Checkpoints(Part):
    """The files of the two networks."""

    baseline: str | None = None
    pruned: str | None = None


@dataclass(frozen=True, kw_only=True)
class Profile(Part):
    """profile.yaml: FLOPs against latency."""

    baseline: NetworkMetrics | None = None
    pruned: NetworkMetrics | None = None
    comparison: Comparison
    environment: Environment | None = None
    checkpoints: Checkpoints
    latency: LatencyPair | None = None
    """on the main backend"""
    backends: dict[str, LatencyPair] | None = None
    """each backend that was asked for, where they are several"""
    layers: dict[str, tuple[Layer, ...]] | None = None
    analysis: Analysis | None = None
    alternatives: dict[str, LatencyPair] | None = None
    """other ways to run the pair"""
    not_timed: tuple[str, ...] | None = None
    launch_bound: tuple[str, ...] | None = None
    cut_widths: CutWidths | None = None
    tiny_weights: dict[str, dict[str, int]] | None = None
    """network -> tensor -> how many of its weights, batch norm folded, are so small that they make products slow"""

    would_pay: tuple[Answer, ...] | None = None
    """of the network at `checkpoints.pruned`"""
    next_command: str | None = None
    """of the answers, the one that saves most for certain"""

    @property
    def pruned_latency(self) -> Latency | None:
        """None where latency was not measured."""
        return None if self.latency is None else self.latency.pruned
