"""A network judged by its task, over batches: the score and the mean loss."""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tasks.base import Task
from pruning_bootcamp.tools.modes import evaluation_mode

Amp = Literal["bf16", "fp16"]
_AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Measurement:
    """The task's metric and the mean loss, over `n` samples."""

    score: float
    loss: float
    n: int


@dataclass(frozen=True)
class Totals:
    """Sums over samples, to be added up: of the losses, and of what the task measures."""

    loss: float
    sums: tuple[float, ...]
    n: int

    def measured(self, task: Task) -> Measurement:
        """BootcampError when there is no sample, or when the outputs were NaN."""
        title, noun = task.metric.title, task.noun
        if self.n == 0:
            one = noun.removesuffix("s")
            raise BootcampError(f"{title}: there is no {one} to evaluate on. Check the dataset's split and data.limit.")
        loss = self.loss / self.n
        if not math.isfinite(loss):
            raise BootcampError(
                f"{title}: the loss over {self.n} {noun} is {loss}: the network gives NaN or infinite outputs. "
                "Its weights are broken, training diverged (lower the learning rate), or fp16 overflowed (use bf16)."
            )
        return Measurement(task.score(self.sums, self.n), loss, self.n)


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    task: Task,
    *,
    amp: Amp | None = None,
) -> Measurement:
    """How good the model is at the task, over every sample of `batches` (inputs, targets).

    The model runs in eval mode without gradients, and has its modes back afterwards. Sums are kept in float64, so the
    metrics do not depend on the batch size. Raises BootcampError when there is no sample, or when the outputs are NaN.
    """
    return total(model, batches, task, amp=amp).measured(task)


def total(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    task: Task,
    *,
    amp: Amp | None = None,
) -> Totals:
    """`evaluate`'s sums, for whoever adds those of several processes."""
    losses: list[Tensor] = []
    measured: list[Tensor] = []
    count = 0
    with evaluation_mode(model):
        for inputs, targets in batches:
            with torch.inference_mode(), _autocast(inputs.device, amp):
                outputs = task.outputs(model(inputs))
            with torch.inference_mode():
                # on the device, read at the end: a number read after every batch would make a GPU wait
                losses.append(_sum(task.losses(outputs, targets)))
                measured.append(task.measure(outputs, targets))
            count += len(targets)
    rows = [row.tolist() for row in measured]
    sums = tuple(math.fsum(column) for column in zip(*rows, strict=True))
    return Totals(math.fsum(value.item() for value in losses), sums, count)


def _sum(values: Tensor) -> Tensor:
    """The sum in float64; in float32 on Apple's GPU, which has no float64."""
    return values.sum() if values.device.type == "mps" else values.sum(dtype=torch.float64)


def _autocast(device: torch.device, amp: str | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if amp is None else torch.autocast(device.type, dtype=_AMP_DTYPES[amp])
