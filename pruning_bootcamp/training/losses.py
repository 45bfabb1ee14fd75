"""What a training step minimises: the task's loss, smoothed, over mixed pairs, and after a teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.training.features import FeatureMatch
from pruning_bootcamp.training.mixing import Mixing


@dataclass
class TrainingLoss:
    """Called with a batch: the loss summed over its samples (with gradient), and what the task measures of them."""

    classes: int
    task: Task = IMAGE_CLASSIFICATION
    label_smoothing: float = 0.0
    mixing: Mixing = Mixing()
    teacher: nn.Module | None = None
    distill_weight: float = 0.5
    distill_temperature: float = 4.0
    features: FeatureMatch | None = None
    feature_weight: float = 0.0

    def __call__(
        self, forward: Callable[[Tensor], Any], inputs: Tensor, targets: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        share = 1.0
        if self.mixing:
            inputs, share = self.mixing(inputs, step)
        task = self.task
        outputs = task.outputs(forward(inputs))
        if problem := task.misfit(outputs, self.classes):
            raise BootcampError(f"model: {problem}.")
        measured = task.measure(outputs, targets)
        loss = self._loss(outputs, targets)
        if self.mixing:
            partners = targets.flip(0)
            loss = share * loss + (1 - share) * self._loss(outputs, partners)
            measured = share * measured + (1 - share) * task.measure(outputs, partners)
        if self.teacher is not None:
            with torch.no_grad():
                teacher_outputs = task.outputs(self.teacher(inputs))
            if teacher_outputs.shape != outputs.shape:
                shapes = f"{tuple(teacher_outputs.shape)}, and the network {tuple(outputs.shape)}"
                raise BootcampError(
                    f"teacher: {task.misfit(teacher_outputs, self.classes) or f'gives shape {shapes}'}."
                )
            distilled = task.distance(outputs, teacher_outputs, self.distill_temperature)
            loss = (1 - self.distill_weight) * loss + self.distill_weight * distilled
            if self.features is not None:
                loss = loss + self.feature_weight * self.features.distance(len(inputs))
        return loss, measured

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.task.losses(outputs, targets, self.label_smoothing).sum()
