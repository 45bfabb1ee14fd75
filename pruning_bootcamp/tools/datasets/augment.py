"""Augmentations of whole batches on the device: what to do to each image is drawn first, then done to all at once.

`draw` gives one row of numbers per image, on the CPU and for the whole global batch, so that every process of a
distributed run can take its own rows; `apply` is a function of images and numbers alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.tools.datasets.splits import moved

Parameters = tuple[Tensor, ...]


@dataclass(frozen=True)
class Target:
    """What the network is to be given: (h, w), and the data's mean colour in [0, 1]."""

    size: tuple[int, int]
    mean: tuple[float, ...]


class Augmentation(Protocol):
    def draw(self, count: int, stored: tuple[int, int], target: Target, generator: Generator) -> Parameters:
        """Tensors [count, ...] that say what happens to each of `count` images of (H, W) = `stored`."""
        ...

    def apply(self, images: Tensor, parameters: Parameters, target: Target) -> Tensor:
        """uint8 [b, c, H, W] -> uint8 [b, c, H', W'], new memory or the same images unchanged."""
        ...


AUGMENTATIONS: Registry[type] = Registry("augmentation", plural="augmentations")


@AUGMENTATIONS.register("crop")
@dataclass(frozen=True, kw_only=True)
class Crop:
    """Random crop after padding with `pad` black pixels on each side (He et al., 2016)."""

    pad: int = 4

    def __post_init__(self) -> None:
        _require(self.pad >= 0, f"crop: pad={self.pad} is negative.")

    def draw(self, count: int, stored: tuple[int, int], target: Target, generator: Generator) -> Parameters:
        """Tops and lefts, [count] each, of windows as large as the target in the padded image."""
        return _draw_windows(count, stored, target.size, self.pad, generator)

    def apply(self, images: Tensor, parameters: Parameters, target: Target) -> Tensor:
        """The windows, [b, c, h, w] of the target's size."""
        return _windows(images, parameters, target.size, self.pad)


@AUGMENTATIONS.register("shift")
@dataclass(frozen=True, kw_only=True)
class Shift:
    """Moves the image by up to `pixels` in each direction; black comes in. For small images such as the digits."""

    pixels: int = 1

    def __post_init__(self) -> None:
        _require(self.pixels >= 0, f"shift: pixels={self.pixels} is negative.")

    def draw(self, count: int, stored: tuple[int, int], target: Target, generator: Generator) -> Parameters:
        """Tops and lefts, [count] each, of windows as large as the stored image in the padded one."""
        return _draw_windows(count, stored, stored, self.pixels, generator)

    def apply(self, images: Tensor, parameters: Parameters, target: Target) -> Tensor:
        """The images, moved, in the size that they had."""
        return _windows(images, parameters, (images.shape[2], images.shape[3]), self.pixels)


@AUGMENTATIONS.register("flip")
@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirrors left and right, with `probability`. Not for digits or text."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        _require(0 <= self.probability <= 1, f"flip: probability={self.probability} is not in [0, 1].")

    def draw(self, count: int, stored: tuple[int, int], target: Target, generator: Generator) -> Parameters:
        """[count] booleans: which are mirrored."""
        return (torch.rand(count, generator=generator) < self.probability,)

    def apply(self, images: Tensor, parameters: Parameters, target: Target) -> Tensor:
        """The images, some of them mirrored."""
        return torch.where(parameters[0][:, None, None, None], images.flip(3), images)


@AUGMENTATIONS.register("cutout")
@dataclass(frozen=True, kw_only=True)
class Cutout:
    """Paints a square of the mean colour over each image; its centre is anywhere in it (DeVries & Taylor, 2017)."""

    size: int = 8

    def __post_init__(self) -> None:
        _require(self.size >= 1, f"cutout: size={self.size} is not at least 1.")

    def draw(self, count: int, stored: tuple[int, int], target: Target, generator: Generator) -> Parameters:
        """Rows and columns [count] of the centres, in pixels of the stored image."""
        return tuple(torch.randint(0, side, (count,), generator=generator) for side in stored)

    def apply(self, images: Tensor, parameters: Parameters, target: Target) -> Tensor:
        """The images with a square each in the data's mean colour; a part of it may lie outside."""
        rows, columns = (self._covered(centre, side) for centre, side in zip(parameters, images.shape[2:], strict=True))
        hidden = rows[:, None, :, None] & columns[:, None, None, :]
        colour = torch.tensor([round(255 * mean) for mean in target.mean], dtype=torch.uint8)
        return torch.where(hidden, moved(colour, images.device)[None, :, None, None], images)

    def _covered(self, centre: Tensor, side: int) -> Tensor:
        """bool [b, side]: from centre - size // 2, `size` pixels, as far as the image goes."""
        start = centre[:, None] - self.size // 2
        place = torch.arange(side, device=centre.device)
        return (place >= start) & (place < start + self.size)


@AUGMENTATIONS.register("resized_crop")
@dataclass(frozen=True, kw_only=True)
class ResizedCrop:
    """A random part of the image, resized to what the network is given (Szegedy et al., 2015).

    The part has `area` (from, to) of the image and a width-to-height ratio within `ratio` (log-uniform); one that would
    stick out is cut to the image. Bilinear, not antialiased: images are stored hardly larger than they are used.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _require(0 < self.area[0] <= self.area[1] <= 1, f"resized_crop: area={self.area} is not 0 < from <= to <= 1.")
        _require(0 < self.ratio[0] <= self.ratio[1], f"resized_crop: ratio={self.ratio} is not 0 < from <= to.")

    def draw(self, count: int, stored: tuple[int, int], target: Target, generator: Generator) -> Parameters:
        """Tops, lefts, heights and widths in whole pixels."""
        height, width = stored
        area = torch.empty(count).uniform_(*self.area, generator=generator) * height * width
        low, high = (math.log(bound) for bound in self.ratio)
        ratio = torch.empty(count).uniform_(low, high, generator=generator).exp()
        heights = (area / ratio).sqrt().round().clamp(1, height).long()
        widths = (area * ratio).sqrt().round().clamp(1, width).long()
        tops = (torch.rand(count, generator=generator) * (height - heights + 1)).long()
        lefts = (torch.rand(count, generator=generator) * (width - widths + 1)).long()
        return tops, lefts, heights, widths

    def apply(self, images: Tensor, parameters: Parameters, target: Target) -> Tensor:
        """The parts, resized to the target's size by bilinear interpolation."""
        tops, lefts, heights, widths = parameters
        y = _sample_points(tops, heights, target.size[0], images.shape[2])
        x = _sample_points(lefts, widths, target.size[1], images.shape[3])
        shape = (len(images), *target.size)
        grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)
        resized = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        return resized.round_().to(torch.uint8)


def _sample_points(start: Tensor, length: Tensor, points: int, side: int) -> Tensor:
    """[b, points]: where to look along one axis, in grid_sample's [-1, 1], never past the part's own edge pixels."""
    steps = (torch.arange(points, device=start.device) + 0.5) / points
    inside = (steps[None] * length[:, None] - 0.5).clamp_(min=0).minimum(length[:, None] - 1)
    return (2 * (inside + start[:, None]) + 1) / side - 1


def _draw_windows(
    count: int, stored: tuple[int, int], size: tuple[int, int], pad: int, generator: Generator
) -> Parameters:
    """Tops and lefts of windows of `size` in images padded by `pad`."""
    return tuple(
        torch.randint(0, length + 2 * pad - side + 1, (count,), generator=generator)
        for length, side in zip(stored, size, strict=True)
    )


def _windows(images: Tensor, corners: Parameters, size: tuple[int, int], pad: int) -> Tensor:
    """The window of each image, gathered in one indexing operation; outside the image it is black."""
    tops, lefts = corners
    padded = F.pad(images, (pad, pad, pad, pad))
    every_window = padded.unfold(2, size[0], 1).unfold(3, size[1], 1)  # a view [b, c, tops, lefts, h, w]
    return every_window[torch.arange(len(images), device=images.device), :, tops, lefts]


def build_augmentations(augment: Sequence[str | tuple[str, Mapping[str, Plain]]]) -> list[Augmentation]:
    """The augmentations of names, or of (name, settings), in that order. BootcampError with everything wrong."""
    built: list[Augmentation] = []
    problems = []
    for item in augment:
        name, arguments = (item, {}) if isinstance(item, str) else item
        checked, found = AUGMENTATIONS.check(name, arguments, f"augment.{name}" if name in AUGMENTATIONS else "augment")
        problems += found
        if not found:
            built.append(AUGMENTATIONS[name](**checked))
    if problems:
        raise BootcampError(*problems)
    return built


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BootcampError(message)


class Augmenter:
    """A list of augmentations applied with parameters that depend on a seed alone."""

    def __init__(self, augment: Sequence[str | tuple[str, Mapping[str, Plain]]], target: Target) -> None:
        self.augmentations = build_augmentations(augment)
        self.target = target

    def __call__(self, images: Tensor, *, generator: Generator, count: int, part: slice) -> Tensor:
        """`images` are the rows `part` of a batch of `count`; parameters are drawn for all of it."""
        for augmentation in self.augmentations:
            stored = (images.shape[2], images.shape[3])
            parameters = augmentation.draw(count, stored, self.target, generator)
            mine = tuple(moved(values[part], images.device) for values in parameters)
            images = augmentation.apply(images, mine, self.target)
        return images
