"""How often a classifier is right, and its loss, over batches of images."""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.modes import evaluation_mode

_AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Accuracy:
    """Percent right and mean cross-entropy, over `n` images."""

    accuracy: float
    loss: float
    n: int


def classification_metrics(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, amp: Literal["bf16", "fp16"] | None = None
) -> Accuracy:
    """How often the model is right, and its loss, over every image of `batches`.

    The model runs in eval mode without gradients, and has its modes back afterwards. Sums are kept in float64, so the
    figures do not depend on the batch size. Raises BootcampError when there is no image, or when the outputs are NaN.
    """
    losses: list[Tensor] = []
    rights: list[Tensor] = []
    count = 0
    with evaluation_mode(model):
        for images, labels in batches:
            with torch.inference_mode(), _autocast(images.device, amp):
                logits = model(images)
            with torch.inference_mode():
                # on the device, read at the end: a number read after every batch would make a GPU wait
                losses.append(_sum(F.cross_entropy(logits.float(), labels, reduction="none")))
                rights.append((logits.argmax(1) == labels).sum())
            count += len(labels)
    if count == 0:
        raise BootcampError("accuracy: there is no image to evaluate on. Check the dataset's split and data.limit.")
    loss = math.fsum(value.item() for value in losses) / count
    if not math.isfinite(loss):
        raise BootcampError(
            f"accuracy: the loss over {count} images is {loss}: the network gives NaN or infinite outputs. "
            "Its weights are broken, the training diverged (lower the learning rate), or fp16 overflowed (use bf16)."
        )
    right = sum(int(value.item()) for value in rights)
    return Accuracy(100.0 * right / count, loss, count)


def _sum(values: Tensor) -> Tensor:
    """The sum in float64; in float32 on Apple's GPU, which has no float64."""
    return values.sum() if values.device.type == "mps" else values.sum(dtype=torch.float64)


def _autocast(device: torch.device, amp: str | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if amp is None else torch.autocast(device.type, dtype=_AMP_DTYPES[amp])
