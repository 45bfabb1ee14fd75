"""What one network does and costs, what another saves against it, and where that was measured."""

from dataclasses import dataclass

from pruning_bootcamp.plain import Part, beside


@dataclass(frozen=True, kw_only=True)
class LeftOut(Part):
    """Weights that are not pruned, and why."""

    name: str
    params: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Accuracies(Part):
    """How often a network is right (percent), its mean cross-entropy, and over how many images."""

    accuracy: float | None = None
    """on the test images; in what validation judges, on those"""
    val_accuracy: float | None = None
    val_images: int | None = None
    loss: float | None = None
    val_loss: float | None = None
    test_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cost(Part):
    """What one pass of a network takes (flops_g, flops_g_thop: multiply-accumulates in 10^9 by two counters), its
    parameters in millions, and how many of its weights are zero."""

    flops_g: float | None = None
    flops_g_thop: float | None = beside("flops_g")
    params_m: float | None = None
    sparsity: float | None = None
    """of the `prunable_params`"""
    sparsity_of_all: float | None = None
    prunable_params: int | None = None
    left_out: tuple[LeftOut, ...] | None = None


def threads_said(threads: int | None) -> str:
    """`1 thread`, `4 threads`; `? threads` where it was not recorded."""
    return "1 thread" if threads == 1 else f"{'?' if threads is None else threads} threads"


def way_said(
    *,
    batch_size: int | None,
    backend: str | None,
    version: str | None,
    precision: str | None,
    where: str | None,
    threads: int | None,
) -> str:
    """How a latency was measured: `batch 16, onnxruntime 1.31.0 in float32 on cpu (AMD EPYC), 1 thread`.

    What was not recorded is left out.
    """
    runtime = [backend, version, precision and f"in {precision}", where and f"on {where}"]
    said = [
        "" if batch_size is None else f"batch {batch_size}",
        " ".join(part for part in runtime if part),
        "" if threads is None else threads_said(threads),
    ]
    return ", ".join(part for part in said if part)


def noted(way: str, note: str | None) -> str:
    """The way, and in brackets what a backend that chooses has chosen."""
    return f"{way} ({note})" if note else way


@dataclass(frozen=True, kw_only=True)
class NetworkMetrics(Cost, Accuracies):
    """One network: what it does, what it costs, and how long it takes."""

    latency_ms: float | None = None
    throughput_fps: float | None = None
    latency_batch_size: int | None = None
    latency_backend: str | None = None
    latency_version: str | None = None
    """of the backend"""
    latency_precision: str | None = None
    """that the products were computed in: float32, int8, ..."""
    latency_processor: str | None = None
    latency_threads: int | None = None
    latency_note: str | None = None
    """what a backend that chooses has chosen, and by what figures"""
    weights: str | None = None
    """a hash of them"""

    @property
    def latency_way(self) -> str:
        """How the latency was measured, as far as that was recorded."""
        return way_said(
            batch_size=self.latency_batch_size,
            backend=self.latency_backend,
            version=self.latency_version,
            precision=self.latency_precision,
            where=self.latency_processor,
            threads=self.latency_threads,
        )

    @property
    def noted_latency_way(self) -> str:
        """The same, and what a backend that chooses has chosen."""
        return noted(self.latency_way, self.latency_note)


@dataclass(frozen=True, kw_only=True)
class Comparison(Part):
    """What a pruned network saves (percent of the baseline, negative = grew) and loses (points)."""

    flops_reduction_pct: float | None = None
    params_reduction_pct: float | None = None
    latency_reduction_pct: float | None = None
    latency_reduction_low_pct: float | None = beside("latency_pairs")
    latency_reduction_high_pct: float | None = beside("latency_pairs")
    latency_pairs: int | None = None
    latency_block: int | None = None
    accuracy_drop: float | None = None
    speedup: float | None = None


@dataclass(frozen=True, kw_only=True)
class Environment(Part):
    """What a result depends on and can't be seen from its config."""

    pruning_bootcamp: str | None = None
    python: str | None = None
    torch: str | None = None
    platform: str | None = None
    device: str | None = None
    threads: int | None = None
    commit: str | None = beside("python")
    time: str | None = None
    workers: int | None = None
    """of a sweep"""
