"""Multiply-accumulates of one forward pass by two counters, torch's and thop's, side by side, layer by layer."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvTransposeNd
from torch.utils.flop_counter import FlopCounterMode

from pruning_bootcamp.tools.metrics.weights import Sparsity
from pruning_bootcamp.tools.modes import detached_clone, evaluation_mode
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
    """Multiply-accumulates for one input (1 multiply-accumulate = 2 FLOPs). `macs` is the headline figure.

    macs: convolutions, linear layers and matrix products, by torch's counter.
    macs_thop: thop's figure, or None with the reason in thop_missing.
    disagreement_pct: |thop - torch| in percent of torch's (100 where torch's is 0); 0 when thop could not count.
    disagreeing: when that is above AGREEMENT_PCT, the layers that differ, with both figures and the known cause.
    skipped: layers that ran and that torch's counter can't count, so that `macs` is too low.
    """

    macs: float
    macs_thop: float | None
    thop_missing: str | None
    disagreement_pct: float
    layers: list[LayerFlops]
    disagreeing: list[str]
    skipped: list[str]


def compute_flops(model: nn.Module, example: Tensor) -> Flops:
    """Multiply-accumulates of one forward pass of one input: of `example` only the first entry is run.

    Counted on a copy in eval mode, so the model is left as it is. Attention counts too: its fused kernels, which
    torch's counter does not see, are replaced by plain matrix products while counting. Zero weights count like any
    other (see effective_macs).
    """
    clone = detached_clone(model)
    device = next((parameter.device for parameter in clone.parameters()), example.device)
    example = example[:1].detach().to(device)
    modules = dict(clone.named_modules())
    macs, called = _count_with_torch(clone, modules, example)
    by_thop, thop_missing = _count_with_thop(detached_clone(model), example)

    every_name = dict(clone.named_modules(remove_duplicate=False))  # thop counts a layer under each of its names
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
        skipped=_skipped(modules, called, macs),
    )


def effective_macs(flops: Flops, sparsity: Sparsity) -> float:
    """Multiply-accumulates that are left when each layer's zero weights are skipped (which needs a sparse kernel)."""
    return sum(layer.macs * (1.0 - sparsity.of_layer(layer.name)) for layer in flops.layers)


def _count_with_torch(
    model: nn.Module, modules: dict[str, nn.Module], example: Tensor
) -> tuple[dict[str, float], set[str]]:
    """Each module's own multiply-accumulates by path, and the paths of all modules that were called.

    Attributed by who runs, not by name, so that a module used twice or called from elsewhere is counted right.
    """
    counter = FlopCounterMode(display=False)
    macs: dict[str, float] = {}
    called: set[str] = set()
    inside = [0.0]  # for each module that is running: what the modules inside it have counted so far

    def count_into(path: str, module: nn.Module) -> None:
        start: list[float] = []

        def before(*_: Any) -> None:
            start.append(counter.get_total_flops() / 2)
            inside.append(0.0)

        def after(*_: Any) -> None:
            spent = counter.get_total_flops() / 2 - start.pop()
            own = spent - inside.pop()
            inside[-1] += spent
            macs[path] = macs.get(path, 0.0) + own
            called.add(path)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    for path, module in modules.items():
        count_into(path, module)
    with evaluation_mode(model), torch.no_grad(), _unfused_attention(), counter:
        model(example)
    return macs, called


@contextlib.contextmanager
def _unfused_attention() -> Iterator[None]:
    """nn.MultiheadAttention's and scaled_dot_product_attention's fused kernels are off inside."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _count_with_thop(model: nn.Module, example: Tensor) -> tuple[dict[str, float] | None, str | None]:
    """thop's count by path, or None and why not. thop leaves buffers behind in `model`: give it a copy."""
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
        by_torch, by_thop = sum(layer.macs for layer in alike), sum(layer.macs_thop or 0.0 for layer in alike)
        lines.append(f"{names}{more} ({kind}): torch {by_torch / 1e6:.4g} M, thop {by_thop / 1e6:.4g} M; {cause}")
    return lines


def _apart(layer: LayerFlops) -> float:
    return abs(layer.macs - (layer.macs_thop or 0.0))


def _cause(layer: LayerFlops, module: nn.Module, called: set[str]) -> str:
    """Why the two counters differ on a layer, as far as is known of them."""
    if layer.name not in called:
        return "the same layer under a second name, which thop counts again"
    if isinstance(module, _ConvTransposeNd):
        return "thop counts a transposed convolution by its output size, which is too much by the stride"
    if layer.macs == 0:
        if _has_matrix(module):
            return "torch's counter has no rule for it"
        return "thop counts this elementwise work, torch's counter only matrix products and convolutions"
    if not layer.macs_thop:
        return "thop sees no functional matrix product or attention, and has no rule for this layer"
    return "cause unknown"


def _has_matrix(module: nn.Module) -> bool:
    """A weight with two sides longer than 1, in a layer of its own: not a block's scales or position embedding."""
    shapes = [parameter.shape for parameter in module.parameters(recurse=False)]
    return not any(module.children()) and any(sum(side > 1 for side in shape) >= 2 for shape in shapes)


def _skipped(modules: dict[str, nn.Module], called: set[str], macs: dict[str, float]) -> list[str]:
    """Layers with a weight matrix that ran, and for which torch's counter found nothing to count (LSTM, Bilinear)."""
    lookups = (nn.Embedding, nn.EmbeddingBag)
    return [
        f"{path or 'the model itself'} ({type(module).__name__}): torch's counter has no rule for it"
        for path, module in modules.items()
        if path in called and not macs.get(path) and _has_matrix(module) and not isinstance(module, lookups)
    ]
