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


@dataclass(frozen=True, kw_only=True)
class NetworkMetrics(Cost, Accuracies):
    """One network: what it does, what it costs, and how long it takes."""

    latency_ms: float | None = None
    throughput_fps: float | None = None
    latency_batch_size: int | None = None
    latency_backend: str | None = None
    weights: str | None = None
    """a hash of them"""


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
