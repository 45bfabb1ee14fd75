"""Training on mixed pairs of images: blended (mixup) or one pasted into the other (CutMix)."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pruning_bootcamp.errors import Problem
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.training.settings import RecoverSettings, TrainSettings


@dataclass(frozen=True)
class Mixing:
    """Batch and step in; the batch of mixed pairs out, and what the first image of each pair counts.

    `mixup` and `cutmix` are the alphas of Beta(alpha, alpha), 0 = off; where both are on, each step takes either, at
    even odds. Partners are those of the batch in reverse: batches are in random order. A function of (seed, step).
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    seed: int = 0

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, inputs: Tensor, step: int) -> tuple[Tensor, float]:
        """Inputs [n, ...] (CutMix: [n, c, h, w]); those that `unmixable` says nothing against."""
        if self.cutmix > 0 and (self.mixup == 0 or _coin(self.seed, step)):
            return self._pasted(inputs, step)
        share = mixup_share(self.mixup, self.seed, step)
        return share * inputs + (1 - share) * inputs.flip(0), share

    def _pasted(self, inputs: Tensor, step: int) -> tuple[Tensor, float]:
        height, width = inputs.shape[2:]
        top, bottom, left, right = cutmix_window(self.cutmix, (height, width), self.seed, step)
        mixed = inputs.clone()
        mixed[:, :, top:bottom, left:right] = inputs.flip(0)[:, :, top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def unmixable(settings: TrainSettings | RecoverSettings, splits: Splits, where: str) -> list[Problem]:
    """What is wrong where inputs are to be mixed that can't be, as the numbers of words."""
    split = splits.train
    fractions = split.dtype.is_floating_point
    asked = {
        "mixup": settings.mixup > 0 and not fractions,
        "cutmix": settings.cutmix > 0 and not (fractions and len(split.shape) == 3),
    }
    text = f"inputs of {split.dtype} {split.shape} are no images that could be mixed. Set it to 0."
    return [Problem(f"{where}.{name}", text) for name, wrong in asked.items() if wrong]


def mixup_share(alpha: float, seed: int, step: int) -> float:
    """What the first image of a pair counts (Zhang et al., 2018): Beta(alpha, alpha), a function of (seed, step)."""
    return float(np.random.default_rng((seed, step)).beta(alpha, alpha))


def cutmix_window(alpha: float, size: tuple[int, int], seed: int, step: int) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what the second image of a pair covers (Yun et al., 2019, eq. 2).

    The sides are sqrt(1 - Beta(alpha, alpha)) of the image's, around a centre anywhere in it, cut off at its edges.
    """
    random = np.random.default_rng((seed, step))
    side = math.sqrt(1 - random.beta(alpha, alpha))
    spans = []
    for length in size:
        centre, half = int(random.integers(length)), round(side * length) // 2
        spans += [max(0, centre - half), min(length, centre + half)]
    top, bottom, left, right = spans
    return top, bottom, left, right


def _coin(seed: int, step: int) -> bool:
    return bool(np.random.default_rng((seed, step, 1)).integers(2))
