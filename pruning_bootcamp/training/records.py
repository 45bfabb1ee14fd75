"""What a training keeps account of: the best epoch, the running epoch's sums, the losses of the last steps."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Part
from pruning_bootcamp.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Epoch(Part):
    """What an epoch came to: means over its images, percent right, and the learning rate of its last step."""

    epoch: int
    steps: int
    """since the beginning"""
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float


@dataclass
class Best:
    """The epoch with the best validation score since the masks last changed; ties go to the lower loss."""

    epoch: int = 0  # with no weights: the epoch that the search began after
    score: float = math.nan
    loss: float = math.inf
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Sums:
    """Over the running epoch, all processes together."""

    loss: float = 0.0
    measured: list[float] = field(default_factory=list)
    """what the task measures"""
    images: int = 0
    seconds: float = 0.0

    @property
    def mean_loss(self) -> float:
        """Per image; 0 before the first."""
        return self.loss / self.images if self.images else 0.0

    def score(self, task: Task) -> float:
        """The task's metric over the images so far; 0 before the first."""
        return task.score(self.measured, self.images) if self.images else 0.0

    @property
    def images_per_second(self) -> float:
        """Of all processes together; 0 before the first step."""
        return self.images / self.seconds if self.seconds else 0.0


@dataclass
class StepReport:
    """Mean losses and learning rates of the steps since the report before."""

    losses: list[float]
    rates: list[float]


def check_loss(report: StepReport, last_step: int, amp: str | None) -> None:
    """BootcampError for the first step whose loss is not a number."""
    first = last_step - len(report.losses) + 1
    for step, (loss, rate) in enumerate(zip(report.losses, report.rates, strict=True), start=first):
        if not math.isfinite(loss):
            other = " amp=bf16 or amp=null (fp16 overflows)," if amp == "fp16" else ""
            raise BootcampError(
                f"step {step}: the loss is {loss} at learning rate {rate:.4g}: the training has diverged. "
                f"Try{other} a lower learning rate (lr={rate / 3:.2g}), warm-up (warmup=1ep) or clip_grad_norm=1."
            )
