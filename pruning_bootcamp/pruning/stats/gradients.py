"""Gradients of the loss over labelled batches: signed, and in size."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.stats.base import (
    STATISTICS,
    Batches,
    check_class_scores,
    check_totals,
    device_of,
    pairs_in,
)


@STATISTICS.register("grad", labels=True)
def mean_gradient(model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches) -> dict[str, Tensor]:
    """d loss / d weight, mean over all images."""
    return _mean_gradient(model, targets, batches, absolute=False)


@STATISTICS.register("abs_grad", labels=True)
def mean_absolute_gradient(
    model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches
) -> dict[str, Tensor]:
    """|d loss / d weight| of each batch, mean over the batches: near a minimum the signed mean is close to nothing."""
    return _mean_gradient(model, targets, batches, absolute=True)


def _mean_gradient(
    model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches, *, absolute: bool
) -> dict[str, Tensor]:
    """Gradients of the mean cross-entropy, batch norm and dropout at rest; a batch counts by its images."""
    weights = list(targets.values())
    sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in targets.items()}
    images_seen = 0
    with all_trainable(weights), torch.enable_grad():
        for images, labels in pairs_in(batches, device_of(targets)):
            loss = _cross_entropy(check_class_scores(model(images)), labels)
            grads = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            for total, grad in zip(sums.values(), grads, strict=True):
                total.add_(grad.abs() if absolute else grad, alpha=len(images))
            check_totals(model, images, sums, "gradients")
            images_seen += len(images)
    return {name: total / images_seen for name, total in sums.items()}


def _cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= outputs.shape[1]:
        raise BootcampError(
            f"labels {low} to {high} don't fit outputs of shape {tuple(outputs.shape)}: "
            "gradients need class scores [batch, classes] and labels below `classes`."
        )
    return F.cross_entropy(outputs, labels)


@contextlib.contextmanager
def all_trainable(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside, each of the weights has a gradient, frozen ones too."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
