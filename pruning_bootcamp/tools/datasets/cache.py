"""Decoded images kept between runs: one safetensors file per folder of images, rebuilt when the folder changes."""

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.runs import atomic_path, cache_folder, remove_leftovers

FORMAT = "1"


def cached_images(source: Path, fingerprint: str, settings: str, build: Callable[[], Tensor]) -> Tensor:
    """`build()`, or what it gave the last time for the same source folder, settings and fingerprint.

    The file is named after folder and settings, so a changed folder (another fingerprint) replaces its old file.
    A cache that can't be read is built again; one that can't be written costs a line of warning.
    """
    key = hashlib.sha256(f"{source.resolve()}\n{settings}".encode()).hexdigest()[:16]
    named = f"{source.parent.name[:40]}-{source.name[:40]}-{key}"
    path = cache_folder() / "images" / f"{named}.safetensors"
    images = _read(path, fingerprint)
    if images is None:
        images = build()
        _write(path, fingerprint, images)
    return images


def _read(path: Path, fingerprint: str) -> Tensor | None:
    """The images, or None when there are none for this fingerprint or the file is damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            if notes.get("fingerprint") != fingerprint or notes.get("format") != FORMAT:
                return None
            # a copy, not the mapped file: a file cut short by somebody else would kill the process, not raise
            images = file.get_tensor("images").clone()
    except (SafetensorError, OSError, KeyError) as error:
        LOGGER.info("%s: unreadable cache (%s); the images are decoded again", path, error)
        return None
    if images.dtype != torch.uint8 or images.dim() != 4 or notes.get("crc32") != _checksum(images):
        LOGGER.info("%s: damaged cache (wrong checksum); the images are decoded again", path)
        return None
    return images


def _write(path: Path, fingerprint: str, images: Tensor) -> None:
    notes = {"fingerprint": fingerprint, "format": FORMAT, "crc32": _checksum(images)}
    try:
        if path.parent.is_dir():
            remove_leftovers(path.parent)
        with atomic_path(path) as temporary:
            save_file({"images": images}, temporary, metadata=notes)
    except (BootcampError, SafetensorError, OSError) as error:
        reason = error.__cause__ or error
        LOGGER.warning(
            "decoded images not kept (%s: %s): the next run decodes them again. "
            "Set PRUNING_BOOTCAMP_CACHE to a folder that can be written.",
            path.parent,
            reason,
        )


def _checksum(images: Tensor) -> str:
    assert images.dtype == torch.uint8
    return f"{zlib.crc32(images.contiguous().numpy().data):08x}"
