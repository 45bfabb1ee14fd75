"""IterativePruningTrainer's loops with accuracy beside perplexity, and with a teacher (Hinton et al., 2015)."""

from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.training.iterative import IterativePruningTrainer, Loader
from pruning_bootcamp.training.losses import distillation


class TaughtTrainer(IterativePruningTrainer):
    """Its loops, with accuracy beside perplexity, and a teacher where there is one."""

    teacher: nn.Module | None = None
    distill_weight = 0.5
    temperature = 4.0
    _right, _targets = 0, 0

    def judge(self, loader: Loader) -> dict[str, float]:
        self._right, self._targets = 0, 0
        perplexity = self.perplexity(loader)
        return {"accuracy": 100 * self._right / self._targets, "perplexity": perplexity}

    def learn(self, loader: Loader, epochs: int, learning_rate: float) -> list[float]:
        """The mean training loss of each epoch; pruned weights stay zero."""
        with preserved_rng():
            torch.manual_seed(self.seed)
            return self._retrain(loader, epochs, learning_rate)

    def _loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        seen: list[Tensor] = []
        handle = self.model.register_forward_hook(lambda module, given, output: seen.append(_logits(output)))
        try:
            loss, count = super()._loss(inputs, targets)
        finally:
            handle.remove()
        targets = targets.to(self.device)
        logits = seen[0][targets != -100]
        self._right += int((logits.detach().argmax(-1) == targets[targets != -100]).sum())
        self._targets += count
        if self.teacher is not None and self.model.training:
            with torch.no_grad():
                taught = _logits(self.teacher(inputs.to(self.device)))[targets != -100]
            distilled = distillation(logits, taught, self.temperature)
            loss = (1 - self.distill_weight) * loss + self.distill_weight * distilled
        return loss, count


def _logits(output: Any) -> Tensor:
    logits: Tensor = output[0] if isinstance(output, tuple) else getattr(output, "logits", output)
    return logits
