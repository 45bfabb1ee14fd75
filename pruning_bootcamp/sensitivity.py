"""What losing weights in one site costs: one layer or block pruned at a time, all others as they were."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.masks import apply_masks, detached_copy
from pruning_bootcamp.pruning.sections import By, PruneSettings
from pruning_bootcamp.pruning.stats import Batches
from pruning_bootcamp.pruning.weights.unstructured import UnstructuredPruning, UnstructuredResult
from pruning_bootcamp.results import ACCURACY, Quality, Scan, ScanPoint, ScanRow
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.training.features import blocks


@dataclass(frozen=True)
class Site:
    """What is pruned together: a layer, or all layers of a block."""

    name: str
    weights: tuple[str, ...]
    size: int


Points = dict[tuple[str, float], Quality]
"""(site, sparsity) -> what the network is worth with that site alone pruned so far"""


def pruner(
    model: nn.Module,
    settings: PruneSettings,
    *,
    previous: Mapping[str, Tensor] | None,
    stats_batches: Batches | None,
    seed: int,
    task: Task = IMAGE_CLASSIFICATION,
) -> Callable[[float | None], UnstructuredResult]:
    """sparsity -> every layer pruned to it as `settings` say, on a copy.

    What the weights are worth is measured once, for all of them. None stands for what the pattern itself says (2:4).
    Each layer loses its own share, so its mask is the same whether the others are pruned or not.
    """
    scored: dict[str, dict[str, Tensor]] = {}

    def at(sparsity: float | None) -> UnstructuredResult:
        engine = UnstructuredPruning(
            detached_copy(model),
            replace(settings, sparsity=sparsity),
            previous=previous,
            stats_batches=stats_batches,
            seed=seed,
            task=task,
        )
        if not scored:
            scored.update(engine.score(engine.calibrate()))
        return engine.prune(scored)

    return at


def sites(model: nn.Module, pruned: UnstructuredResult, by: By) -> list[Site]:
    """What is pruned one at a time, in the network's order. A layer that lies in no block stands for itself.

    Blocks are those of `training.features.blocks`: modules with parts and parameters of their own, in no other block.
    """
    sizes = {layer.name: layer.size for layer in pruned.layers if layer.name not in pruned.skipped}
    inside = blocks(model) if by == "block" else []
    if by == "block" and not inside:
        raise BootcampError(
            "sensitivity.by: this network has no blocks (modules with parts and parameters of their own; plain "
            "containers don't count). Use --by layer."
        )
    together: dict[str, list[str]] = {}
    for weight in sizes:
        block = next((block for block in inside if weight.startswith(f"{block}.")), weight.removesuffix(".weight"))
        together.setdefault(block, []).append(weight)
    return [Site(name, tuple(weights), sum(sizes[w] for w in weights)) for name, weights in together.items()]


def scan(
    model: nn.Module,
    sites: Sequence[Site],
    sparsities: Sequence[float],
    masks_at: Callable[[float], Mapping[str, Tensor]],
    evaluate: Callable[[nn.Module], Quality],
    known: Points,
) -> Iterator[tuple[Site, float, Quality]]:
    """Each site alone at each sparsity, one after the other; points in `known` are left out.

    Before a point is handed over the model is, bit for bit, what it was.
    """
    for sparsity in sparsities:
        open_sites = [site for site in sites if (site.name, sparsity) not in known]
        masks = masks_at(sparsity) if open_sites else {}
        for site in open_sites:
            with put_back(model, site.weights):
                apply_masks(model, {name: masks[name] for name in site.weights})
                found = evaluate(model)
            yield site, sparsity, found


@contextlib.contextmanager
def put_back(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """When the block ends, these weights and all buffers (batch-norm statistics) hold the values they held before."""
    tensors = {name: model.get_parameter(name) for name in names} | dict(model.named_buffers())
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(before[name])


def as_scan(
    sites: Sequence[Site],
    sparsities: Sequence[float],
    points: Mapping[tuple[str, float], Quality],
    dense: Quality,
    *,
    by: By,
    score: str,
    pattern: str,
    images: int,
    task: Task = IMAGE_CLASSIFICATION,
) -> Scan:
    """What sensitivity.yaml holds, in the network's order."""
    rows = [
        ScanRow(
            name=site.name,
            weights=site.weights,
            size=site.size,
            points=tuple(_point(sparsity, points[site.name, sparsity]) for sparsity in sparsities),
        )
        for site in sites
    ]
    return Scan(
        by=by,
        score=score,
        pattern=pattern,
        split="validation",
        images=images,
        noun=None if task.noun == IMAGE_CLASSIFICATION.noun else task.noun,
        metric=None if task.metric == ACCURACY else task.metric,
        dense=_rounded(dense),
        sparsities=tuple(sparsities),
        rows=tuple(rows),
    )


def _point(sparsity: float, quality: Quality) -> ScanPoint:
    return ScanPoint(sparsity=sparsity, accuracy=round(quality.accuracy, 4), loss=round(quality.loss, 6))


def _rounded(quality: Quality) -> Quality:
    return Quality(round(quality.accuracy, 4), round(quality.loss, 6))


def ranking(scan: Scan) -> list[str]:
    """Names from the most sensitive to the least: mean loss added over the sparsities; ties in the network's order."""
    added = {row.name: sum(point.loss - scan.dense.loss for point in row.points) for row in scan.rows}
    return sorted(added, key=lambda name: -added[name])
