"""Gradients of the loss over labelled batches: signed, and in size."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.stats.base import STATISTICS, Batches, check_totals, device_of, pairs_in
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task


@STATISTICS.register("grad", labels=True, task=True)
def mean_gradient(
    model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches, task: Task = IMAGE_CLASSIFICATION
) -> dict[str, Tensor]:
    """d loss / d weight, mean over all images."""
    return _mean_gradient(model, targets, batches, task, absolute=False)


@STATISTICS.register("abs_grad", labels=True, task=True)
def mean_absolute_gradient(
    model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches, task: Task = IMAGE_CLASSIFICATION
) -> dict[str, Tensor]:
    """|d loss / d weight| of each batch, mean over the batches: near a minimum the signed mean is close to nothing."""
    return _mean_gradient(model, targets, batches, task, absolute=True)


def _mean_gradient(
    model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches, task: Task, *, absolute: bool
) -> dict[str, Tensor]:
    """Gradients of the task's mean loss, batch norm and dropout at rest; a batch counts by its samples."""
    sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in targets.items()}
    images_seen = 0
    for images, labels in pairs_in(batches, device_of(targets)):
        for name, grad in batch_gradients(model, targets, images, labels, task).items():
            sums[name].add_(grad.abs() if absolute else grad, alpha=len(images))
        check_totals(model, images, sums, "gradients")
        images_seen += len(images)
    return {name: total / images_seen for name, total in sums.items()}


def batch_gradients(
    model: nn.Module, targets: Mapping[str, nn.Parameter], images: Tensor, labels: Tensor, task: Task
) -> dict[str, Tensor]:
    """d loss / d weight of the task's mean loss over one batch; zero for weights that did not run."""
    weights = list(targets.values())
    with all_trainable(weights), torch.enable_grad():
        loss = losses_of(model, images, labels, task).mean()
        grads = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return dict(zip(targets, grads, strict=True))


def losses_of(model: nn.Module, images: Tensor, labels: Tensor, task: Task) -> Tensor:
    """[n]: the task's loss of each sample."""
    outputs = task.outputs(model(images))
    if problem := task.mismatch(outputs, labels):
        raise BootcampError(f"{problem}: there are no gradients of such a loss.")
    return task.losses(outputs, labels)


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


@contextlib.contextmanager
def recurrent_gradients(model: nn.Module) -> Iterator[None]:
    """Inside, recurrent layers have gradients in eval mode too, which cuDNN refuses them."""
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before
