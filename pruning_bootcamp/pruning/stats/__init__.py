"""What some scores need to know beside the weights, measured on batches of images, and only when asked for."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.stats.base import STATISTICS, Batches, LayerStats, unmeasured
from pruning_bootcamp.pruning.stats.fisher import fisher
from pruning_bootcamp.pruning.stats.gradients import (
    batch_gradients,
    losses_of,
    mean_absolute_gradient,
    mean_gradient,
    recurrent_gradients,
)
from pruning_bootcamp.pruning.stats.inputs import input_norm
from pruning_bootcamp.pruning.stats.removal import removal_cost
from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.tools.modes import evaluation_mode

__all__ = [
    "STATISTICS",
    "Batches",
    "LayerStats",
    "batch_gradients",
    "fisher",
    "gather",
    "input_norm",
    "losses_of",
    "mean_absolute_gradient",
    "mean_gradient",
    "recurrent_gradients",
    "removal_cost",
    "unmeasured",
    "wants_labels",
]


def wants_labels(needs: Sequence[str]) -> bool:
    """Whether any of these statistics is measured against labels."""
    return any(STATISTICS[need].facts["labels"] for need in needs)


def gather(
    model: nn.Module,
    targets: Mapping[str, nn.Parameter],
    needs: Sequence[str],
    batches: Batches | None,
    seed: int = 0,
    task: Task = IMAGE_CLASSIFICATION,
) -> dict[str, dict[str, Tensor]]:
    """Statistic -> weight name -> tensor. The model's mode, gradients and random state are left as they were."""
    needs = tuple(dict.fromkeys(needs))
    if not needs:
        return {}
    if batches is None:
        kind = "labelled batches (images, labels)" if wants_labels(needs) else "batches of images"
        raise BootcampError(f"{', '.join(needs)} can't be measured without {kind}.")
    if len(needs) > 1 and isinstance(batches, Iterator):  # each statistic goes over the data once
        batches = list(batches)
    found = {}
    for need in needs:
        with evaluation_mode(model), preserved_rng(), recurrent_gradients(model):
            torch.manual_seed(seed)
            asked = {"task": task} if STATISTICS[need].facts.get("task") else {}
            found[need] = STATISTICS[need](model, targets, batches, **asked)
    return found
