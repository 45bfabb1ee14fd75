"""Batches for training, evaluation and calibration: a function of (seed, epoch, step), whatever was drawn before."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.datasets.augment import Augmenter, Target
from pruning_bootcamp.tools.datasets.selection import evenly_spaced
from pruning_bootcamp.tools.datasets.splits import Split, moved

Augment = Sequence[str | tuple[str, Mapping[str, Any]]]
_ORDER, _AUGMENT = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class Batch:
    """One process's part of a training batch."""

    images: Tensor
    """as a network is given them, on the device: images float32 [b, c, h, w], normalised"""
    labels: Tensor
    indices: Tensor
    """of the images in the split"""
    global_size: int
    """images of the batch over all processes"""


class TrainBatches:
    """Shuffled, augmented, normalised training batches.

    Order and augmentation depend on (seed, epoch, step) only: an epoch can be entered at any step and goes on as if it
    had been run from its start, and torch's global random state is neither read nor changed. Each batch of `batch_size`
    images (over all processes) is drawn whole and then dealt out, image i to process i % world: together the processes
    see exactly what one process would.

    The last, smaller batch of an epoch is kept, unless a process would get fewer than two of its images: batch
    normalisation can't be trained on one. The images left out are other ones in each epoch.
    Images in memory are moved to the device once, here.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        augment: Augment,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
        rank: int = 0,
        world: int = 1,
        channels_last: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.split = split.to(self.device)
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self._augmenter = None if split.as_stored else Augmenter(augment, Target(_size(split), tuple(mean)))
        self._normalise = _preparation(split, mean, std, self.device, channels_last)
        if augment and (split.as_stored or split.labels.ndim > 1):
            raise BootcampError("augment: only images with one label each can be augmented. Set train.augment=[].")
        if batch_size < world:
            raise BootcampError(f"batch_size: {batch_size} images can't be dealt to {world} processes.")
        whole, rest = divmod(len(split), batch_size)
        self.steps_per_epoch = whole + (rest >= min(batch_size, 2 * world))
        if self.steps_per_epoch == 0:
            raise BootcampError(f"{len(split)} training images are too few for one batch over {world} processes.")

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from `start_step` on."""
        order = torch.randperm(len(self.split), generator=_generator(self.seed, _ORDER, epoch))
        steps = range(start_step, self.steps_per_epoch)
        everyones = [order[step * self.batch_size : (step + 1) * self.batch_size] for step in steps]
        part = slice(self.rank, None, self.world)
        fetched = _fetched(self.split.fetch_stored, (indices[part] for indices in everyones), self.split.ahead)
        for step, all_indices, (indices, stored) in zip(steps, everyones, fetched, strict=True):
            generator = _generator(self.seed, _AUGMENT, epoch, step)
            images = moved(stored, self.device)
            if self._augmenter is not None:
                images = self._augmenter(images, generator=generator, count=len(all_indices), part=part)
            images = self._normalise(self.split.middle(images))
            labels = self.split.labels[moved(indices, self.split.labels.device)]
            yield Batch(images, moved(labels, self.device), indices, len(all_indices))


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    limit: int | None = None,
    channels_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) in the split's order, each once; with a limit, that many, evenly spaced over the split."""
    device = torch.device(device)
    normalise = _preparation(split, mean, std, device, channels_last)
    indices = evenly_spaced(len(split), limit)
    for chosen, images in _fetched(split.fetch, indices.split(batch_size) if len(indices) else (), split.ahead):
        labels = split.labels[moved(chosen, split.labels.device)]
        yield normalise(moved(images, device)), moved(labels, device)


def calibration_batches(
    split: Split,
    *,
    images: int,
    batch_size: int,
    seed: int,
    augment: Augment,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
) -> Iterator[Tensor]:
    """`images` random training images without labels, augmented; beyond the size of the split in further epochs.

    One left-over image is not given alone: its batch-norm statistics would mean nothing.
    """
    data = TrainBatches(split, batch_size=batch_size, seed=seed, augment=augment, mean=mean, std=std, device=device)
    left, epoch = images, 0
    while True:
        for batch in data.epoch(epoch):
            if left == 0 or (left == 1 and batch_size > 1):
                return
            given = batch.images[:left]
            left -= len(given)
            yield given
        epoch += 1


def _preparation(
    split: Split, mean: Sequence[float], std: Sequence[float], device: torch.device, channels_last: bool
) -> Callable[[Tensor], Tensor]:
    """What makes of fetched inputs those that a network is given."""
    return (lambda inputs: inputs) if split.as_stored else Normalise(mean, std, device, channels_last)


def _size(split: Split) -> tuple[int, int]:
    _, height, width = split.shape
    return height, width


class Normalise:
    """uint8 [0, 255] -> float32, (x / 255 - mean) / std per channel."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device, channels_last: bool = False
    ) -> None:
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        shift = torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self.scale, self.shift = (values.float()[:, None, None].to(device) for values in (scale, shift))
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, memory_format=self.layout).mul_(self.scale).sub_(self.shift)


def _generator(*key: int) -> Generator:
    """Random numbers of their own for a key such as (seed, stream, epoch, step)."""
    words = np.random.SeedSequence([number % 2**64 for number in key]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]) % 2**63)


def _fetched(
    fetch: Callable[[Tensor], Tensor], batches: Iterable[Tensor], ahead: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(indices, images) of each batch; `ahead` batches are decoded before they are asked for."""
    if ahead == 0:
        for indices in batches:
            yield indices, fetch(indices)
        return
    worker = ThreadPoolExecutor(1)  # one batch at a time; a file split's fetch decodes its images in parallel
    waiting: deque[tuple[Tensor, Future[Tensor]]] = deque()
    try:
        for indices in batches:
            waiting.append((indices, worker.submit(fetch, indices)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:  # also when the reader stops early
        worker.shutdown(cancel_futures=True)
