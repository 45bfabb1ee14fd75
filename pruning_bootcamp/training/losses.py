"""What a training step minimises: cross-entropy, smoothed, over mixed pairs, and after a teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.training.features import FeatureMatch


@dataclass
class Objective:
    """Called with a batch: the loss summed over its images (with gradient), and how many were right."""

    classes: int
    label_smoothing: float = 0.0
    mixup: float = 0.0
    seed: int = 0
    teacher: nn.Module | None = None
    distill_weight: float = 0.5
    distill_temperature: float = 4.0
    features: FeatureMatch | None = None
    feature_weight: float = 0.0

    def __call__(
        self, forward: Callable[[Tensor], Any], images: Tensor, labels: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        share = 1.0
        if self.mixup > 0:
            share = mixup_share(self.mixup, self.seed, step)
            # batches are in random order, so the reversed batch is as good a partner as a shuffled one
            images = share * images + (1 - share) * images.flip(0)
        logits = logits_of(forward(images))
        if logits.shape[1] != self.classes:
            raise BootcampError(f"model: gives scores for {logits.shape[1]} classes, and the data has {self.classes}.")
        right = _right(logits, labels)
        loss = self._cross_entropy(logits, labels)
        if self.mixup > 0:
            partners = labels.flip(0)
            loss = share * loss + (1 - share) * self._cross_entropy(logits, partners)
            right = share * right + (1 - share) * _right(logits, partners)
        if self.teacher is not None:
            with torch.no_grad():
                taught = logits_of(self.teacher(images))
            if taught.shape != logits.shape:
                raise BootcampError(f"teacher: knows {taught.shape[1]} classes, and the network {self.classes}.")
            distilled = distillation(logits, taught, self.distill_temperature)
            loss = (1 - self.distill_weight) * loss + self.distill_weight * distilled
            if self.features is not None:
                loss = loss + self.feature_weight * self.features.distance(len(images))
        return loss, right

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=self.label_smoothing)


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Divergence from the teacher's softened outputs, summed over images (Hinton et al., 2015).

    Times temperature squared, so that its gradients keep their size whatever the temperature (their section 2).
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    teacher = F.log_softmax(taught.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="sum", log_target=True)


def mixup_share(alpha: float, seed: int, step: int) -> float:
    """What the first image of a pair counts (Zhang et al., 2018): Beta(alpha, alpha), a function of (seed, step)."""
    return float(np.random.default_rng((seed, step)).beta(alpha, alpha))


def logits_of(output: Any) -> Tensor:
    """[images, classes]; of a network with auxiliary heads (GoogLeNet, Inception) the main output."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise BootcampError(f"model: gives {found}, not one row of class scores for each image.")
    return logits


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(1) == labels).sum().float()
