"""The pruning methods by their common names: each is one call of the engine, in place, with exact zeros."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pruning_bootcamp.pruning.masks import detached_copy, make_plain
from pruning_bootcamp.pruning.stats import Batches
from pruning_bootcamp.pruning.targets import find_targets
from pruning_bootcamp.pruning.weights.magnitude_pruner import IterativeMagnitudePruner, MagnitudePruner
from pruning_bootcamp.pruning.weights.unstructured import UnstructuredResult, prune_unstructured

__all__ = [
    "IterativeMagnitudePruner",
    "MagnitudePruner",
    "global_magnitude_pruning",
    "layerwise_magnitude_pruning",
    "movement_pruning",
    "n_m_sparsity",
    "print_layerwise_sparsity",
    "remove_pruning_reparameterization",
    "taylor_importance_pruning",
]

Masks = Mapping[str, Tensor] | None
Allocation = Literal["uniform", "global"]


def layerwise_magnitude_pruning(
    model: nn.Module,
    sparsity: float,
    *,
    p: Literal[1, 2] = 1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    previous: Masks = None,
) -> UnstructuredResult:
    """The same share of every layer, lowest |w|^p first; as torch.nn.utils.prune.l1_unstructured, bit for bit."""
    return prune_unstructured(
        model, sparsity=sparsity, score_args={"p": p}, include=include, exclude=exclude, previous=previous
    )


def global_magnitude_pruning(
    model: nn.Module,
    sparsity: float,
    *,
    p: Literal[1, 2] = 1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    previous: Masks = None,
) -> UnstructuredResult:
    """Lowest |w|^p of the whole network first; as torch.nn.utils.prune.global_unstructured, bit for bit."""
    return prune_unstructured(
        model,
        sparsity=sparsity,
        score_args={"p": p},
        allocation="global",
        include=include,
        exclude=exclude,
        previous=previous,
    )


def taylor_importance_pruning(
    model: nn.Module,
    batches: Batches,
    sparsity: float,
    *,
    allocation: Allocation = "global",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    previous: Masks = None,
) -> UnstructuredResult:
    """Lowest |w * g| first, gradients measured on `batches` of (images, labels)."""
    return prune_unstructured(
        model,
        sparsity=sparsity,
        score="taylor",
        allocation=allocation,
        include=include,
        exclude=exclude,
        previous=previous,
        stats_batches=batches,
    )


def movement_pruning(
    model: nn.Module,
    batches: Batches,
    sparsity: float,
    *,
    allocation: Allocation = "global",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    previous: Masks = None,
) -> UnstructuredResult:
    """Lowest -w * g first: what training on `batches` of (images, labels) drives towards zero."""
    return prune_unstructured(
        model,
        sparsity=sparsity,
        score="movement",
        allocation=allocation,
        include=include,
        exclude=exclude,
        previous=previous,
        stats_batches=batches,
    )


def n_m_sparsity(
    model: nn.Module,
    n: int = 2,
    m: int = 4,
    *,
    p: Literal[1, 2] = 1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    previous: Masks = None,
) -> UnstructuredResult:
    """n weights kept of every m neighbours along the input dimension; layers that do not fit are in `.skipped`."""
    return prune_unstructured(
        model,
        sparsity=None,
        score_args={"p": p},
        pattern="nm",
        pattern_args={"n": n, "m": m},
        include=include,
        exclude=exclude,
        previous=previous,
    )


def remove_pruning_reparameterization(model: nn.Module) -> list[str]:
    """Make what torch.nn.utils.prune attached plain weights with exact zeros, in place; the weights' names.

    The engine's own pruning attaches nothing: its weights are plain from the start.
    """
    return make_plain(model)


def print_layerwise_sparsity(model: nn.Module, *, console: Console | None = None) -> float:
    """Print zeros, size and sparsity of every convolution and linear weight and in total; the total sparsity."""
    table = Table(title="Sparsity by layer", title_justify="left")
    table.add_column("layer", overflow="fold")
    for heading in ("shape", "weights", "zeros", "sparsity"):
        table.add_column(heading, justify="right", no_wrap=True)
    weights = find_targets(detached_copy(model))
    zeros_total = size_total = 0
    for name, weight in weights.items():
        zeros = weight.numel() - int(torch.count_nonzero(weight))
        zeros_total, size_total = zeros_total + zeros, size_total + weight.numel()
        shape = "x".join(map(str, weight.shape))
        table.add_row(name, shape, f"{weight.numel():,}", f"{zeros:,}", f"{zeros / weight.numel():.2%}")
    table.add_section()
    table.add_row("total", "", f"{size_total:,}", f"{zeros_total:,}", f"{zeros_total / size_total:.2%}")
    (console or Console()).print(table)
    return zeros_total / size_total
