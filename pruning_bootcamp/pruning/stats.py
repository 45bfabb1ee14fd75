"""What some scores need to know beside the weights: gradients over labelled batches, gathered only when asked for."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.tools.modes import evaluation_mode

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LayerStats:
    """What is known about one layer's weight: its name, a seed of its own, and the statistics that were asked for."""

    name: str
    seed: int = 0
    values: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, statistic: str) -> Tensor:
        return self.values[statistic]


# f(model, targets, batches) -> {weight name: Tensor}. A score asks for it by name: needs=("grad",).
STATISTICS: Registry = Registry("statistic")


@STATISTICS.register("grad")
def mean_gradient(model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches) -> dict[str, Tensor]:
    """d loss / d weight, mean over all images."""
    return _mean_gradient(model, targets, batches, absolute=False)


@STATISTICS.register("abs_grad")
def mean_absolute_gradient(
    model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches
) -> dict[str, Tensor]:
    """|d loss / d weight| of each batch, mean over the batches: near a minimum the signed mean is close to nothing."""
    return _mean_gradient(model, targets, batches, absolute=True)


def gather(
    model: nn.Module, targets: Mapping[str, nn.Parameter], needs: Sequence[str], batches: Batches | None
) -> dict[str, dict[str, Tensor]]:
    """Statistic -> weight name -> tensor. The model's mode, gradients and random state are left as they were."""
    if not needs:
        return {}
    if batches is None:
        raise BootcampError(f"{', '.join(needs)} can't be measured without labelled batches (images, labels).")
    # each statistic goes over the data once, and a generator could be gone over only once
    once = batches if len(needs) == 1 else list(batches)
    return {need: STATISTICS[need](model, targets, once) for need in needs}


def _mean_gradient(
    model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches, *, absolute: bool
) -> dict[str, Tensor]:
    """Gradients of the mean cross-entropy, batch norm and dropout at rest; a batch counts by its images."""
    weights = list(targets.values())
    sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    images_seen = 0
    with evaluation_mode(model), _all_trainable(weights), preserved_rng(), torch.enable_grad():
        for images, labels in batches:
            loss = _cross_entropy(model(images.to(weights[0].device)), labels)
            grads = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            for total, grad in zip(sums, grads, strict=True):
                total.add_(grad.abs() if absolute else grad, alpha=len(images))
            images_seen += len(images)
    if images_seen == 0:
        raise BootcampError("stats_batches holds no batch: gradients need at least one labelled image.")
    return {name: total / images_seen for name, total in zip(targets, sums, strict=True)}


def _cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    low, high = int(labels.min()), int(labels.max())
    if outputs.ndim != 2 or low < 0 or high >= outputs.shape[1]:
        raise BootcampError(
            f"labels {low} to {high} don't fit outputs of shape {tuple(outputs.shape)}: "
            "gradients need class scores [batch, classes] and labels below `classes`."
        )
    return F.cross_entropy(outputs, labels.to(outputs.device))


@contextlib.contextmanager
def _all_trainable(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
