"""The moving average of a network's weights, which is often better than the last weights."""

import torch
from torch import nn

from pruning_bootcamp.tools.modes import detached_clone


class MovingAverage:
    """`model` holds the average of everything that a network holds: parameters and batch-norm statistics.

    Step n uses min(decay, (1 + n) / (10 + n)) (as TensorFlow's ExponentialMovingAverage): a short training would
    otherwise end in an average of its random start. Integers (counters) are copied. Zeros stay zeros. torch's
    AveragedModel would do, at four times the cost: it gathers its tensors anew at every step.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = detached_clone(source).requires_grad_(False).eval()
        theirs = [*source.parameters(), *source.buffers()]
        mine = [*self.model.parameters(), *self.model.buffers()]
        pairs = list(zip(mine, theirs, strict=True))
        self._averages = [m for m, t in pairs if t.is_floating_point()]
        self._sources = [t for _, t in pairs if t.is_floating_point()]
        self._copied = [(m, t) for m, t in pairs if not t.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the source's weights after optimiser step `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._sources, 1 - decay)
        for mine, theirs in self._copied:
            mine.copy_(theirs)
