"""How many weights each layer gives up: scores and a total in, counts out, never thresholds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.pruning.selection import count_below, count_equal, kth_smallest
from pruning_bootcamp.pruning.targets import matches
from pruning_bootcamp.pruning.weights.apportionment import Counts, apportion
from pruning_bootcamp.pruning.weights.curves import ScanMetric, counts_from_scan, read_rows
from pruning_bootcamp.registry import Registry


def _not_counts(counts: Any, scores: Mapping[str, Tensor], sparsity: float | None) -> str | None:
    promised = "an allocation is {layer: how many of its weights go} for each of the scores"
    if not isinstance(counts, Mapping) or counts.keys() != scores.keys():
        names = listed(map(str, counts), 3) if isinstance(counts, Mapping) else ""
        return f"{type(counts).__name__} {names}".strip() + f", and {promised}"
    for name, count in counts.items():
        if not isinstance(count, int) or not 0 <= count <= scores[name].numel():
            return f"{count!r} for {name} with its {scores[name].numel()} weights, and {promised}"
    return None


# f(scores, sparsity, *, ...) -> {name: count}. The engine gives scores of what can go apart: weights, or whole blocks.
# Facts:
#   own_sparsity=True   the settings can say everything, so that `sparsity` may be left out (None)
#   files=("file",)     settings that name a file: it must exist, and the result depends on what is in it
#   invalid(**args) -> str | None   what is wrong with the settings, once the files are known to exist
#   by="obs"            it is given that score's values; the chosen score then only says which weights go
ALLOCATIONS: Registry = Registry("allocation", plural="allocations", takes=("scores", "sparsity"), contract=_not_counts)


@ALLOCATIONS.register("uniform")
def uniform(scores: Mapping[str, Tensor], sparsity: float) -> Counts:
    """The same share of every layer (layerwise), rounded per layer as torch.nn.utils.prune does."""
    return {name: round(sparsity * score.numel()) for name, score in scores.items()}


@ALLOCATIONS.register("global")
def global_(scores: Mapping[str, Tensor], sparsity: float) -> Counts:
    """The lowest scores of the whole network; the total is exact, ties go in layer order."""
    total = round(sparsity * sum(score.numel() for score in scores.values()))
    if total == 0:
        return dict.fromkeys(scores, 0)
    value = kth_smallest(list(scores.values()), total)
    counts = {name: count_below(score, value) for name, score in scores.items()}
    remaining = total - sum(counts.values())
    for name, score in scores.items():
        if remaining == 0:
            break
        tied = min(count_equal(score, value), remaining)
        counts[name] += tied
        remaining -= tied
    return counts


@ALLOCATIONS.register("second_order", by="obs")
def second_order(scores: Mapping[str, Tensor], sparsity: float) -> Counts:
    """Where the second-order cost is least over the whole network, whatever score says which weights go."""
    return global_(scores, sparsity)


@ALLOCATIONS.register("per_layer", own_sparsity=True)
def per_layer(scores: Mapping[str, Tensor], sparsity: float | None, *, layers: dict[str, float]) -> Counts:
    """A sparsity for each named layer; the others share what is left of the total (nothing when it is left out).

    `layers` maps names or patterns (as in include) to sparsities; the first that matches counts.
    """
    named = {name: share for name in scores if (share := _first_match(layers, name)) is not None}
    for pattern, share in layers.items():
        if not any(matches(name, pattern) for name in scores):
            raise BootcampError(f"allocation per_layer: '{pattern}' matches none of {', '.join(scores)}.")
        if not 0 <= share <= 1:
            raise BootcampError(f"allocation per_layer: {pattern}: {share} is not in [0, 1].")
    counts = {name: round(share * scores[name].numel()) for name, share in named.items()}
    rest = {name: score.numel() for name, score in scores.items() if name not in named}
    remaining = 0
    if sparsity is not None:
        total = sum(score.numel() for score in scores.values())
        remaining = round(sparsity * total) - sum(counts.values())
        if not 0 <= remaining <= sum(rest.values()):
            low, high = sum(counts.values()) / total, (sum(counts.values()) + sum(rest.values())) / total
            raise BootcampError(
                f"allocation per_layer: sparsity {sparsity} can't be reached: the named layers fix {low:.6g}, and with "
                f"all the others gone it is {high:.6g}. Leave sparsity out, or change the layers."
            )
    counts |= apportion({name: float(size) for name, size in rest.items()}, rest, remaining)
    return {name: counts[name] for name in scores}


def _first_match(layers: Mapping[str, float], name: str) -> float | None:
    return next((share for pattern, share in layers.items() if matches(name, pattern)), None)


@ALLOCATIONS.register("erk")
def erdos_renyi_kernel(scores: Mapping[str, Tensor], sparsity: float) -> Counts:
    """Small layers stay denser: density of a layer ~ sum of its dimensions / their product (Evci et al., 2020)."""
    sizes = {name: score.numel() for name, score in scores.items()}
    keep = sum(sizes.values()) - round(sparsity * sum(sizes.values()))
    # What a layer would keep at a factor of 1: its density times its size, so simply the sum of its dimensions.
    weights = {name: float(sum(score.shape)) for name, score in scores.items()}
    kept = apportion(weights, sizes, keep)
    return {name: sizes[name] - kept[name] for name in scores}


def _no_scan(*, file: str, by: ScanMetric = "loss") -> str | None:
    try:
        read_rows(Path(file))
    except BootcampError as error:
        return str(error)
    return None


@ALLOCATIONS.register("sensitivity", files=("file",), invalid=_no_scan)
def sensitivity(scores: Mapping[str, Tensor], sparsity: float, *, file: str, by: ScanMetric = "loss") -> Counts:
    """Where a scan measured the least loss (`sensitivity.yaml` of the command sensitivity); the total is exact.

    The summed loss of all rows is the least that their curves (lower convex hulls) allow. by: loss or accuracy.
    """
    sizes = {name: score.numel() for name, score in scores.items()}
    gone = {name: int(torch.count_nonzero(score == -torch.inf)) for name, score in scores.items()}
    return counts_from_scan(sizes, gone, round(sparsity * sum(sizes.values())), file, by)
