"""How long a forward pass takes on this machine: whole networks interleaved, layer by layer, and against FLOPs."""

from pruning_bootcamp.tools.latency.analysis import (
    Analysis,
    Cause,
    TimedNetwork,
    flops_latency_analysis,
    what_would_pay,
)
from pruning_bootcamp.tools.latency.blocks import compare_in_blocks
from pruning_bootcamp.tools.latency.clock import (
    LatencyStats,
    compare_latencies,
    measure_latency,
    measure_latency_with_stats,
)
from pruning_bootcamp.tools.latency.layers import OUTSIDE, LayerLatency, profile_layer_latency, profile_layers
from pruning_bootcamp.tools.latency.pairs import PairedRatio, paired_ratio
from pruning_bootcamp.tools.latency.runner import Runner

__all__ = [
    "OUTSIDE",
    "Analysis",
    "Cause",
    "LatencyStats",
    "LayerLatency",
    "PairedRatio",
    "Runner",
    "TimedNetwork",
    "compare_in_blocks",
    "compare_latencies",
    "flops_latency_analysis",
    "measure_latency",
    "measure_latency_with_stats",
    "paired_ratio",
    "profile_layer_latency",
    "profile_layers",
    "what_would_pay",
]
