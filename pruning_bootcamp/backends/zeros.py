"""Zeros that pay: what is worth trying, the race of what skips zeros against dense, and what to say of a network's."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruning_bootcamp.backends.base import BACKENDS, lacking
from pruning_bootcamp.runtime import has_amx
from pruning_bootcamp.tools.latency import PairedRatio, compare_latencies
from pruning_bootcamp.tools.latency.clock import Takes

# Skipping zeros costs more than it saves below this share, in every runtime that was measured (docs/time.md).
WORTH_TRYING = 0.5
_SKIPPING, _WITH_AMX = ("torch_sparse", "openvino_int8_sparse"), ("openvino_int8_sparse",)


def raced(dense: Takes, sparse: Takes, example: Tensor, *, min_seconds: float = 0.5) -> PairedRatio:
    """The time of `sparse` over that of `dense`, run in turn."""
    stats = compare_latencies(
        {"dense": (dense, example), "sparse": (sparse, example)},
        runs=30,
        min_seconds=min_seconds,
        max_seconds=10.0,
        warmup_seconds=0.1,
    )
    ratio = stats["sparse"].ratio_to(stats["dense"])
    assert ratio is not None, "both were timed in the same rounds"
    return ratio


def has_empty_layers(model: nn.Module) -> bool:
    """Whether at least half of a linear layer's weights are zero."""
    return any(_share([weight]) >= WORTH_TRYING for weight in _weights(model, nn.Linear))


def skipping_on(device: torch.device) -> list[str]:
    """The backends by which zeros may be skipped on this machine, for networks on that device."""
    here = [name for name in _SKIPPING if not lacking(BACKENDS.get(name), device)]
    return [name for name in here if name not in _WITH_AMX or has_amx() is not False]


def zeros_said(model: nn.Module, timed: Collection[str], device: torch.device) -> str | None:
    """What a network's zeros can save, and what it takes; None where less than half of any kind of layer is zero.

    `timed`: the backends that have been.
    """
    convolutions, linear = _weights(model, _ConvNd), _weights(model, nn.Linear)
    said = []
    if (share := _share(convolutions)) >= WORTH_TRYING:
        said.append(f"{share:.1%} in convolutions, which no backend skips")
    if (share := _share(linear)) >= WORTH_TRYING:
        here = skipping_on(device)
        others = [name for name in here if name not in timed]
        trying = f"; --backend {','.join(others)} skips them where that is quicker" if others else ""
        said.append(f"{share:.1%} in linear layers{trying if here else ', which no backend skips here'}")
    if not said:
        return None
    text = f"! Zeros save time only where something skips them: {'. '.join(said)}."
    if two_of_four := sum(_is_two_of_four(weight) for weight in linear):
        text += (
            f" {two_of_four} of {len(linear)} linear layers are 2:4. That takes an NVIDIA GPU, torch's semi-structured "
            "tensors in bfloat16, a CUDA graph or torch.compile, many tokens and wide layers; a CPU has nothing for it."
        )
    return f"{text} See docs/time.md, Zeros that pay."


def _weights(model: nn.Module, kind: type[nn.Module]) -> list[Tensor]:
    """Those that are tensors; a parametrisation computes them, and may keep them as something else than a parameter."""
    weights = [getattr(module, "weight", None) for module in model.modules() if isinstance(module, kind)]
    return [weight.detach() for weight in weights if isinstance(weight, Tensor)]


def _share(weights: Sequence[Tensor]) -> float:
    """Of zeros in all of them together."""
    total = sum(weight.numel() for weight in weights)
    return 1 - sum(int(weight.count_nonzero()) for weight in weights) / total if total else 0.0


def _is_two_of_four(weight: Tensor) -> bool:
    """Whether at most 2 of every 4 neighbouring inputs count."""
    return weight.shape[1] % 4 == 0 and int((weight.unflatten(1, (-1, 4)) != 0).sum(-1).max()) <= 2
