"""The images of a data set as three splits: train, validation, test."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


class Split:
    """Labelled images that can be fetched by index; `TensorSplit` holds whatever else a network may be given.

    `shape` is what a network is given. Images may be stored with a margin around that, for random crops to use:
    `fetch` gives the middle, `fetch_stored` the whole.
    """

    ahead = 0  # batches worth decoding before they are asked for; 0 where fetching is only indexing
    as_stored = False  # True: a network is given what is stored, neither augmented nor normalised
    dtype = torch.float32  # of what a network is given

    def __init__(self, labels: Tensor, shape: tuple[int, ...]) -> None:
        self.labels = labels
        self.shape = shape

    def __len__(self) -> int:
        return len(self.labels)

    def fetch_stored(self, indices: Tensor) -> Tensor:
        """uint8 [b, c, H, W] with H and W at least those of `shape`."""
        raise NotImplementedError

    def subset(self, indices: Tensor) -> "Split":
        """Only these images, in this order."""
        raise NotImplementedError

    def to(self, device: torch.device | str) -> "Split":
        """The split with its images in the device's memory, or itself when they stay in files."""
        raise NotImplementedError

    def fetch(self, indices: Tensor) -> Tensor:
        """uint8 [b, c, h, w] of `shape`."""
        return self.middle(self.fetch_stored(indices))

    def middle(self, stored: Tensor) -> Tensor:
        """What of stored images a network is given."""
        _, height, width = self.shape
        return centre(stored, (height, width))

    def content_hash(self) -> str:
        """The same for the same images in the same order, in whatever folder they lie; no file is decoded for it."""
        digest = hashlib.sha256(bytes(str(self.shape), "ascii") + self.labels.cpu().numpy().tobytes())
        self._add_images(digest)
        return digest.hexdigest()[:16]

    def _add_images(self, digest: "hashlib._Hash") -> None:
        raise NotImplementedError


class ImageSplit(Split):
    """Images in memory: uint8 [n, c, H, W]. `size` is (h, w) of what a network is given, where that is smaller."""

    def __init__(self, images: Tensor, labels: Tensor, size: tuple[int, int] | None = None) -> None:
        assert images.dtype == torch.uint8, images.dtype
        assert images.dim() == 4, images.shape
        assert len(images) == len(labels)
        self.size = size or (images.shape[2], images.shape[3])
        super().__init__(labels.long(), (images.shape[1], *self.size))
        self.images = images

    def fetch_stored(self, indices: Tensor) -> Tensor:
        """A copy, uint8 [b, c, H, W], on the device where the images are."""
        return self.images[moved(indices, self.images.device)]

    def subset(self, indices: Tensor) -> "ImageSplit":
        """A copy of these images."""
        indices = indices.to(self.images.device)
        return ImageSplit(self.images[indices], self.labels[indices], self.size)

    def _add_images(self, digest: "hashlib._Hash") -> None:
        digest.update(self.images.cpu().contiguous().numpy().data)

    def to(self, device: torch.device | str) -> "ImageSplit":
        """The images and labels on the device; nothing is copied where they are there."""
        return ImageSplit(self.images.to(device), self.labels.to(device), self.size)


class TensorSplit(Split):
    """Inputs of any kind in memory, given to a network as they are: [n, ...], whole numbers (tokens) or fractions.

    Targets are what the task compares with, a row a sample.
    """

    as_stored = True

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        assert len(inputs) == len(targets)
        super().__init__(targets, tuple(inputs.shape[1:]))
        self.inputs, self.dtype = inputs, inputs.dtype

    def fetch_stored(self, indices: Tensor) -> Tensor:
        """A copy, [b, ...], on the device where the inputs are."""
        return self.inputs[moved(indices, self.inputs.device)]

    def middle(self, stored: Tensor) -> Tensor:
        """All of it: there is nothing around an input to cut off."""
        return stored

    def subset(self, indices: Tensor) -> "TensorSplit":
        """A copy of these inputs."""
        indices = indices.to(self.inputs.device)
        return TensorSplit(self.inputs[indices], self.labels[indices])

    def _add_images(self, digest: "hashlib._Hash") -> None:
        digest.update(self.inputs.cpu().contiguous().numpy().data)

    def to(self, device: torch.device | str) -> "TensorSplit":
        """The inputs and labels on the device; nothing is copied where they are there."""
        return TensorSplit(self.inputs.to(device), self.labels.to(device))


HELD_OUT = "held out of train"


@dataclass(frozen=True)
class Splits:
    """A data set ready for use. `val` is for every choice; `test` is read once, at the end."""

    name: str
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    """of what a network is given; of images channels, height, width"""
    mean: tuple[float, ...] = ()
    """per channel, of pixels scaled to [0, 1]; empty where a network is given what is stored"""
    std: tuple[float, ...] = ()
    augment: tuple[str, ...] = ()
    """names of the augmentations that suit these images"""
    val_from: str = HELD_OUT
    """where the validation images come from, as a user would say it"""
    test_from: str = "the data set's own"

    @property
    def channels(self) -> int:
        """Of the inputs; 1 where they have none (a row of tokens)."""
        return self.shape[0] if len(self.shape) > 1 and self.train.dtype.is_floating_point else 1


def centre(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle (h, w) of images [b, c, H, W]."""
    top, left = (images.shape[2] - size[0]) // 2, (images.shape[3] - size[1]) // 2
    return images[:, :, top : top + size[0], left : left + size[1]]


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; a copy to a GPU does not make the program wait for the work already queued there."""
    return tensor.to(device, non_blocking=device.type == "cuda")
