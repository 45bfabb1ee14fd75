"""torch as it comes: one kernel after the other."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.base import BACKENDS
from pruning_bootcamp.runtime import float32_on
from pruning_bootcamp.tools.latency.graphs import TOLERANCE
from pruning_bootcamp.tools.latency.runner import Runner

SMALL_BATCHES = (1, 16)  # one image at a time, and a server's small batch
FULL_BATCH = 256  # enough images for a GPU to have something to do


def small_and_full(device_type: str) -> tuple[int, ...]:
    """Batch sizes worth timing on a device that may want many images."""
    return (*SMALL_BATCHES, FULL_BATCH) if device_type == "cuda" else SMALL_BATCHES


@BACKENDS.register("torch", tolerance=1e-4, profiled=small_and_full, eager=True, by_layer=True)
def eager(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """torch, eager: the network as it is trained, on its device."""
    return torch_runner("torch", model, example, threads)


@BACKENDS.register(
    "channels_last",
    title="torch channels_last",
    tolerance=TOLERANCE,
    profiled=small_and_full,
    eager=True,
    pointless=lambda example: None if example.ndim == 4 else "its inputs are no images",
)
def channels_last(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """torch, eager, with the channels of a pixel side by side in memory, which many convolution kernels want."""
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def side_by_side(batch: Tensor) -> Tensor:
        return batch.to(memory_format=torch.channels_last) if batch.ndim == 4 else batch

    return torch_runner("channels_last", model, example, threads, side_by_side)


def torch_runner(
    backend: str,
    run: Callable[[Tensor], Any],
    example: Tensor,
    threads: int,
    lay: Callable[[Tensor], Tensor] | None = None,
) -> Runner:
    """What torch runs where the example lies, in float32."""
    device = example.device
    return Runner(backend, run, device, threads, lay, str(torch.__version__), float32_on(device))
