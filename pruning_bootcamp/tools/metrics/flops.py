"""Multiply-accumulates of one forward pass by two counters, ours and thop's, side by side, layer by layer."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from pruning_bootcamp.tools.metrics.products import count_products
from pruning_bootcamp.tools.metrics.weights import Sparsity
from pruning_bootcamp.tools.modes import beside, detached_clone
from pruning_bootcamp.tools.quiet import quiet

AGREEMENT_PCT = 2.0  # totals further apart than this are said to disagree


@dataclass(frozen=True)
class LayerFlops:
    """One module's own multiply-accumulates, without those of the modules inside it.

    `name` is its path in the model, "" for the model itself. `macs_thop` is None when thop could not count.
    """

    name: str
    kind: str
    macs: float
    macs_thop: float | None


@dataclass(frozen=True)
class Flops:
    """Multiply-accumulates for one input (1 multiply-accumulate = 2 FLOPs). `macs` is the headline count.

    macs: by the rule of products.py, on top of torch's counter: the count of plans, budgets, goals and reports.
    macs_thop: thop's count, or None with the reason in thop_missing.
    disagreement_pct: |thop - macs| in percent of macs (100 where macs is 0); 0 when thop could not count.
    disagreeing: when that is above AGREEMENT_PCT, the layers that differ, with both counts and the known cause.
    skipped: layers that ran and whose weight matrix no rule counts, so that `macs` is too low.
    by_weight: the part of `macs` that multiplies by each parameter; what is left is products of activations.
    """

    macs: float
    macs_thop: float | None
    thop_missing: str | None
    disagreement_pct: float
    layers: list[LayerFlops]
    disagreeing: list[str]
    skipped: list[str]
    by_weight: dict[str, float] = field(default_factory=dict)


def compute_flops(model: nn.Module, example: Tensor) -> Flops:
    """Multiply-accumulates of one forward pass of one input: of `example` only the first entry is run.

    Counted on a copy in eval mode, so the model is left as it is. Zero weights count like any other (see
    effective_macs).
    """
    products, called = count_products(model, example)
    macs: dict[str, float] = defaultdict(float)
    by_weight: dict[str, float] = defaultdict(float)
    for product in products:
        macs[product.layer] += product.macs
        if product.weight is not None:
            by_weight[product.weight] += product.macs
    by_thop, thop_missing = _count_with_thop(detached_clone(model), example)

    original = getattr(model, "_orig_mod", model)
    assert isinstance(original, nn.Module)
    every_name = dict(original.named_modules(remove_duplicate=False))  # thop counts a layer under each of its names
    layers = [
        LayerFlops(name, type(module).__name__, macs.get(name, 0.0), None if by_thop is None else by_thop.get(name, 0))
        for name, module in every_name.items()
        if macs.get(name) or (by_thop or {}).get(name)
    ]
    total = sum(macs.values())
    total_thop = None if by_thop is None else sum(by_thop.values())
    apart = 0.0 if total_thop is None else 100.0 * abs(total_thop - total) / (total or total_thop or 1.0)
    return Flops(
        macs=total,
        macs_thop=total_thop,
        thop_missing=thop_missing,
        disagreement_pct=apart,
        layers=layers,
        disagreeing=_disagreeing(layers, every_name, called) if apart > AGREEMENT_PCT else [],
        skipped=_skipped(dict(original.named_modules()), called, macs),
        by_weight=dict(by_weight),
    )


def effective_macs(flops: Flops, sparsity: Sparsity) -> float:
    """Multiply-accumulates that are left when every zero weight is skipped (which needs a sparse kernel).

    Products without a weight, such as attention's scores, stay whole.
    """
    shares = sparsity.layers
    return flops.macs - sum(macs * shares.get(name, 0.0) for name, macs in flops.by_weight.items())


def _count_with_thop(model: nn.Module, example: Tensor) -> tuple[dict[str, float] | None, str | None]:
    """thop's count by path, or None and why not. thop leaves buffers behind in `model`: give it a copy."""
    example = beside(model, example[:1].detach())
    with quiet("thop"):
        try:
            from thop import profile
        except ImportError as error:  # its `distutils` left Python in 3.12; setuptools brings it back
            return None, f"thop could not be imported: {error}. Install setuptools and thop."
        try:
            total, _, children = profile(model, (example,), verbose=False, ret_layer_info=True)
        except Exception as error:  # noqa: BLE001  # thop's rules assume much of a layer and raise whatever they meet
            return None, f"thop failed with {type(error).__name__}: {error}"
    counts: dict[str, float] = {}

    def flatten(entries: dict[str, Any], prefix: str) -> float:
        inside = 0.0
        for name, (macs, _, below) in entries.items():
            own = float(macs) - flatten(below, f"{prefix}{name}.")
            counts[f"{prefix}{name}"] = own
            inside += float(macs)
        return inside

    counts[""] = float(total) - flatten(children, "")
    return counts, None


def _disagreeing(layers: list[LayerFlops], modules: dict[str, nn.Module], called: set[str], most: int = 5) -> list[str]:
    """What differs, most first: the layers of one kind and cause together, the furthest apart named first."""
    groups: dict[tuple[str, str], list[LayerFlops]] = {}
    for layer in sorted(layers, key=_apart, reverse=True):
        if _apart(layer) > 0:
            groups.setdefault((layer.kind, _cause(layer, modules[layer.name], called)), []).append(layer)
    furthest = sorted(groups.items(), key=lambda group: -sum(_apart(layer) for layer in group[1]))
    lines = []
    for (kind, cause), alike in furthest[:most]:
        names = ", ".join(layer.name or "the model itself" for layer in alike[:3])
        more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
        ours, by_thop = sum(layer.macs for layer in alike), sum(layer.macs_thop or 0.0 for layer in alike)
        lines.append(f"{names}{more} ({kind}): counted {ours / 1e6:.4g} M, thop {by_thop / 1e6:.4g} M; {cause}")
    return lines


def _apart(layer: LayerFlops) -> float:
    return abs(layer.macs - (layer.macs_thop or 0.0))


def _cause(layer: LayerFlops, module: nn.Module, called: set[str]) -> str:
    """Why the two counters differ on a layer, as far as is known of them."""
    if layer.name not in called:
        return "the same layer under a second name, which thop counts again"
    if isinstance(module, _ConvTransposeNd):
        return "thop counts a transposed convolution by its output size, which is too much by the stride"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and layer.macs_thop:
        return "thop counts a recurrent layer's gates and biases too"
    if layer.macs == 0:
        if _has_matrix(module):
            return "there is no rule for what it computes"
        return "thop counts this elementwise work; only matrix products and convolutions are multiply-accumulates here"
    if not layer.macs_thop:
        return "thop sees no functional matrix product or attention, and has no rule for this layer"
    return "cause unknown"


def _has_matrix(module: nn.Module) -> bool:
    """A weight with two sides longer than 1, in a layer of its own: not a block's scales or position embedding."""
    shapes = [parameter.shape for parameter in module.parameters(recurse=False)]
    return not any(module.children()) and any(sum(side > 1 for side in shape) >= 2 for shape in shapes)


def _skipped(modules: dict[str, nn.Module], called: set[str], macs: dict[str, float]) -> list[str]:
    """Layers with a weight matrix that ran, and in which nothing was counted (a product written elementwise)."""
    lookups = (nn.Embedding, nn.EmbeddingBag)
    return [
        f"{path or 'the model itself'} ({type(module).__name__}): there is no rule for what it computes"
        for path, module in modules.items()
        if path in called and not macs.get(path) and _has_matrix(module) and not isinstance(module, lookups)
    ]
