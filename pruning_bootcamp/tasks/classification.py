"""One of several classes, for each sample or for each of its places: pixels of an image, tokens of a text."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pruning_bootcamp.results import ACCURACY
from pruning_bootcamp.tasks.base import Task

IGNORED = -100  # a place with this target counts nowhere (torch's own default)


class Classification(Task):
    """Scores of classes along dimension `dim` of the outputs; targets are classes, in the outputs' shape without it."""

    metric = ACCURACY
    dim = 1

    def misfit(self, outputs: Tensor, classes: int) -> str | None:
        """Another number of classes along `dim` than the data has."""
        found = outputs.shape[self.dim]
        return None if found == classes else f"gives scores for {found} classes, and the data has {classes}"

    def describe(self, classes: Sequence[str]) -> str:
        """One score a class, in the data's order."""
        return f"one score a class, in this order: {', '.join(classes)}"

    def mismatch(self, outputs: Tensor, targets: Tensor) -> str | None:
        """Labels that are no class of the outputs, or other shapes; targets of -100 are not looked at."""
        classes, counted = outputs.shape[self.dim], targets[targets != IGNORED]
        low, high = (int(counted.min()), int(counted.max())) if counted.numel() else (0, 0)
        if outputs.movedim(self.dim, -1).shape[:-1] == targets.shape and low >= 0 and high < classes:
            return None
        shape = tuple(outputs.shape)
        return f"labels {low} to {high} don't fit outputs of shape {shape} (targets of shape {tuple(targets.shape)})"

    def losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy; of a sample with many places their mean."""
        scores = outputs.float().movedim(self.dim, 1)
        losses = F.cross_entropy(scores, targets, reduction="none", label_smoothing=label_smoothing)
        return losses if losses.ndim == 1 else _mean_of_places(losses, targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many are right; a sample with many places counts by the share of them."""
        right = self.decisions(outputs.detach()) == targets
        return (right if right.ndim == 1 else _mean_of_places(right.float(), targets)).sum().float()[None]

    def score(self, sums: Sequence[float], samples: int) -> float:
        """Percent right."""
        return 100 * sums[0] / samples

    def distance(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """Divergence from the teacher's softened outputs (Hinton et al., 2015).

        Times temperature squared, so that its gradients keep their size whatever the temperature (their section 2).
        """
        student = F.log_softmax(outputs.float() / temperature, dim=self.dim)
        teacher = F.log_softmax(teacher_outputs.float() / temperature, dim=self.dim)
        total = temperature**2 * F.kl_div(student, teacher, reduction="sum", log_target=True)
        places = self._places(outputs)
        return total if places == 1 else total / places

    def decisions(self, outputs: Tensor) -> Tensor:
        """The class with the highest score, at each place."""
        return outputs.argmax(self.dim)

    def class_scores(self, outputs: Tensor) -> Tensor:
        """The outputs themselves: logits are logarithms of probabilities but for a constant."""
        return outputs.movedim(self.dim, -1).reshape(len(outputs), -1, outputs.shape[self.dim])

    def agreement(self, outputs: Tensor, wanted: Tensor) -> tuple[float, float]:
        """Samples put into the same class, and the Kullback-Leibler divergence of the probabilities, nats."""
        ours, theirs = (scores.float().log_softmax(self.dim) for scores in (outputs, wanted))
        whole = ours.isfinite().all(self.dim)  # an output that is no number agrees with nothing
        alike = int(((ours.argmax(self.dim) == theirs.argmax(self.dim)) & whole).sum())
        all_whole = bool(whole.all())
        apart = float(F.kl_div(ours, theirs, reduction="sum", log_target=True)) if all_whole else float("inf")
        places = self._places(outputs)
        return alike / places, apart / places

    def _places(self, outputs: Tensor) -> int:
        """Of one sample."""
        return max(1, outputs[0].numel() // outputs.shape[self.dim]) if len(outputs) else 1


def _mean_of_places(values: Tensor, targets: Tensor) -> Tensor:
    """[n]: mean over the places of a sample that count; 0 where none does."""
    counted = (targets != IGNORED).flatten(1)
    total = torch.where(counted, values.flatten(1), 0.0).sum(1)
    return total / counted.sum(1).clamp(min=1)
