"""What a network costs: FLOPs by two counters, parameters, sparsity, and two networks compared."""

from pruning_bootcamp.tools.metrics.comparison import compare_metrics, normalize_metrics
from pruning_bootcamp.tools.metrics.flops import Flops, LayerFlops, compute_flops, effective_macs
from pruning_bootcamp.tools.metrics.products import Product, count_macs, count_products
from pruning_bootcamp.tools.metrics.weights import Left, Sparsity, compute_params, compute_sparsity

__all__ = [
    "Flops",
    "LayerFlops",
    "Left",
    "Product",
    "Sparsity",
    "compare_metrics",
    "compute_flops",
    "compute_params",
    "compute_sparsity",
    "count_macs",
    "count_products",
    "effective_macs",
    "normalize_metrics",
]
