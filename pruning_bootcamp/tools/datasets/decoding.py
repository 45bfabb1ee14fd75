"""Image files -> uint8 tensors, with a message that names the file when one can't be read."""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.tools.datasets.splits import Split

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
# By what stands in the file, not by its name: PIL would hand a .png that holds PostScript to Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
MOST_PIXELS = 2**26  # of one image; PIL's own limit is nearly three times as many
MODES = {1: "L", 3: "RGB"}
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
CHUNK = 256  # files a thread decodes before it asks for more


@dataclass(frozen=True)
class Decoder:
    """How a file becomes a square uint8 array [channels, side, side].

    `exact`: the file must have that size and number of channels already. Otherwise the shorter side is resized to
    `side` (bilinear, antialiased), the middle is taken, and colours are converted.
    """

    channels: int
    side: int
    exact: bool = False

    @property
    def bytes_each(self) -> int:
        """Of one decoded image."""
        return self.channels * self.side * self.side

    def __call__(self, path: str) -> np.ndarray:
        """Raises BootcampError that names the file."""
        try:
            with Image.open(path, formats=FORMATS) as image:
                self._check(image)
                return self._pixels(image)
        except UNREADABLE as error:
            raise BootcampError(f"{path}: can't be read as an image ({_reason(error)}). Mend or remove it.") from None

    def _check(self, image: Image.Image) -> None:
        if image.width * image.height > MOST_PIXELS:  # nothing is decoded yet
            raise ValueError(f"{image.width}x{image.height} pixels, and {MOST_PIXELS:,} are the most")
        if image.mode not in EIGHT_BITS:
            raise ValueError(f"mode {image.mode}, where 8 bits a channel are needed")
        if self.exact and image.size != (self.side, self.side):
            raise ValueError(f"{image.width}x{image.height} pixels, not {self.side}x{self.side}")
        channels = len(Image.Image.getbands(image)) if image.mode != "P" else 3
        if self.exact and channels != self.channels:
            raise ValueError(f"{channels} channels ({image.mode}), not {self.channels}")

    def _pixels(self, image: Image.Image) -> np.ndarray:
        image = image.convert(MODES[self.channels]) if image.mode != MODES[self.channels] else image
        if image.size != (self.side, self.side):
            # lengths and corners as torchvision rounds them, so that published accuracies come out the same
            width, height = (int(self.side * length / min(image.size)) for length in image.size)
            left, top = (round((length - self.side) / 2) for length in (width, height))
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            image = image.crop((left, top, left + self.side, top + self.side))
        pixels = np.asarray(image)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or a damaged one"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def decode_files(paths: Sequence[str], decoder: Decoder, title: str = "") -> Tensor:
    """uint8 [n, c, side, side]; a progress bar with a title. All unreadable files are named at once."""
    images = np.empty((len(paths), decoder.channels, decoder.side, decoder.side), np.uint8)

    def decode(start: int) -> list[Problem]:
        problems = []
        for index in range(start, min(start + CHUNK, len(paths))):
            try:
                images[index] = decoder(paths[index])
            except BootcampError as error:
                problems += error.problems
        return problems

    hidden = None if title and os.environ.get("RANK", "0") == "0" else True  # None: shown on a terminal only
    bar = tqdm(total=len(paths), desc=title, unit=" images", unit_scale=True, leave=False, disable=hidden)
    problems: list[Problem] = []
    with bar, ThreadPoolExecutor(_workers()) as pool:
        for start, found in zip(
            range(0, len(paths), CHUNK), pool.map(decode, range(0, len(paths), CHUNK)), strict=True
        ):
            problems += found
            bar.update(min(CHUNK, len(paths) - start))
    if problems:
        more = [f"and {len(problems) - 10} more images."] if len(problems) > 10 else []
        raise BootcampError(*problems[:10], *more)
    return torch.from_numpy(images)


def _workers() -> int:
    return min(os.cpu_count() or 1, 16)


class FileSplit(Split):
    """Images that stay in their files and are decoded when fetched, by a pool of threads (PIL frees the lock)."""

    ahead = 3

    def __init__(self, paths: Iterable[str | Path], labels: Tensor, decoder: Decoder, size: tuple[int, int]) -> None:
        super().__init__(labels.long(), (decoder.channels, *size))
        self.size = size
        self.paths = [str(path) for path in paths]
        self.decoder = decoder
        assert len(self.paths) == len(labels)

    def fetch_stored(self, indices: Tensor) -> Tensor:
        """uint8 [b, channels, side, side], decoded anew each time. Raises BootcampError for a file that is no image."""
        paths = [self.paths[index] for index in indices.tolist()]
        with ThreadPoolExecutor(_workers()) as pool:
            images = list(pool.map(self.decoder, paths))
        return torch.from_numpy(np.stack(images))

    def subset(self, indices: Tensor) -> "FileSplit":
        """The same files, unread."""
        paths = [self.paths[index] for index in indices.tolist()]
        return FileSplit(paths, self.labels[indices], self.decoder, self.size)

    def _add_images(self, digest: "hashlib._Hash") -> None:
        for path in self.paths:
            digest.update(f"{'/'.join(path.split(os.sep)[-2:])}\0{os.path.getsize(path)}\n".encode())

    def to(self, device: torch.device | str) -> "FileSplit":
        """The split itself: images stay in their files."""
        return self
