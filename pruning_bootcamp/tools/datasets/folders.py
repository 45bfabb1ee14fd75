"""Class-folder trees: root/train/<class>/*.png with root/val or root/test, decoded once or left in their files."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.tools.datasets.cache import cached_images
from pruning_bootcamp.tools.datasets.decoding import SUFFIXES, Decoder, FileSplit, decode_files
from pruning_bootcamp.tools.datasets.selection import halve
from pruning_bootcamp.tools.datasets.splits import HELD_OUT, ImageSplit, Split


@dataclass(frozen=True)
class Tree:
    """The folders of a tree: train, and one of the others or both.

    Without `val`, validation has to be held out of train; without `test`, `val` is both, a half of it each.
    """

    train: Path
    test: Path | None
    val: Path | None
    class_names: tuple[str, ...]

    @property
    def parts(self) -> dict[str, Path]:
        """The folders that are there, by name."""
        named = {"train": self.train, "test": self.test, "val": self.val}
        return {name: part for name, part in named.items() if part is not None}

    @property
    def sources(self) -> dict[str, str]:
        """{"val_from", "test_from"}: which images are validation and test, in words."""
        halved = self.test is None
        return {
            "val_from": HELD_OUT if self.val is None else "one half of val/" if halved else "val/",
            "test_from": "the other half of val/, as there is no test/" if halved else "test/",
        }


def is_tree(folder: Path) -> bool:
    """A train folder and one to judge on."""
    return (folder / "train").is_dir() and ((folder / "test").is_dir() or (folder / "val").is_dir())


def find_tree(folders: Sequence[Path]) -> Tree:
    """The first of `folders` that is a tree, checked; no image is read.

    With train, val and test, each is used as named. With train and test only, validation is held out of train. With
    train and val only (as ImageNet comes), val is halved into validation and test, class by class: a network trained
    elsewhere has seen all of train, so nothing held out of it says what such a network loses; and choices must not be
    made on the images that judge the result.
    """
    folder = next((folder for folder in folders if is_tree(folder)), None)
    if folder is None:
        looked_for = [f"{folder}/train with {folder}/test or {folder}/val" for folder in folders]
        raise BootcampError(missing("class folders", looked_for, folders[-1]))
    test, val = (part if part.is_dir() else None for part in (folder / "test", folder / "val"))
    tree = Tree(folder / "train", test, val, class_folders(folder / "train"))
    problems = [*_class_problems(tree), *_empty_problems(tree)]
    if problems:
        raise BootcampError(*problems)
    return tree


def missing(what: str, looked_for: Sequence[str], root: Path) -> str:
    """What was looked for and what is there instead."""
    looked = f"Looked for {'; '.join(looked_for)}."
    if not root.exists():
        return f"the folder {root} does not exist. {looked} Set data.root=DIR."
    if not root.is_dir():
        return f"{root} is a file, not a folder. Set data.root=DIR."
    found = class_folders(root)
    holds = f"the folders {listed(found, 8)}" if found else "no folder"
    return f"no {what} in {root}. {looked} {root} holds {holds}. Set data.root=DIR."


def class_folders(part: Path) -> tuple[str, ...]:
    """Names of the folders in it, sorted: the order of the labels."""
    return tuple(sorted(entry.name for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _class_problems(tree: Tree) -> list[str]:
    problems = []
    if len(tree.class_names) < 2:
        found = f"only the class folder {tree.class_names[0]}" if tree.class_names else "no class folder"
        problems.append(f"{tree.train} holds {found}. Put the images into {tree.train}/<class>/, two classes or more.")
    for part in list(tree.parts.values())[1:]:
        names = class_folders(part)
        for word, differing in (
            ("lacks", set(tree.class_names) - set(names)),
            ("has, beyond them,", set(names) - set(tree.class_names)),
        ):
            if differing:
                problems.append(
                    f"{part} must have the class folders of {tree.train}; it {word} {listed(differing, 8)}."
                )
    return problems


def _empty_problems(tree: Tree) -> list[str]:
    """Class folders without an image; looks at each until the first one."""
    folders = [part / name for part in tree.parts.values() for name in class_folders(part)]
    empty = [str(folder) for folder in folders if next(_images(folder), None) is None]
    suffixes = ", ".join(sorted(SUFFIXES))
    return [f"no images ({suffixes}) in {listed(empty, 8)}. Remove the folder or fill it."] if empty else []


def _images(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Image files in the folder and below, in no order; hidden ones are left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                if entry.is_file():
                    yield entry
            elif entry.is_dir(follow_symlinks=False):
                yield from _images(entry.path)


@dataclass(frozen=True)
class Listing:
    """The image files of one part, class by class in the order of their paths, and what tells whether they changed."""

    folder: Path
    paths: list[str]
    labels: list[int]
    fingerprint: str


def list_images(part: Path, class_names: Sequence[str]) -> Listing:
    """Every image of the part. The fingerprint covers paths, sizes and times of change, not what the files hold."""
    paths, labels, digest = [], [], hashlib.sha256()
    for label, name in enumerate(class_names):
        for entry in sorted(_images(part / name), key=lambda entry: entry.path):
            facts = entry.stat()
            digest.update(f"{os.path.relpath(entry.path, part)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
            paths.append(entry.path)
            labels.append(label)
    return Listing(part, paths, labels, digest.hexdigest())


def open_tree(tree: Tree, decoder: Decoder, size: int, cache_mb: float) -> dict[str, Any]:
    """What `make_splits` is given of a tree: "train", "test", "val" where it has one, and where they are from.

    For a network that is given size x size images. In memory when all of it takes no more than `cache_mb` decoded, else
    decoded from the files batch by batch.
    """
    listings = {name: list_images(part, tree.class_names) for name, part in tree.parts.items()}
    needed_mb = sum(len(listing.paths) for listing in listings.values()) * decoder.bytes_each / 2**20
    in_memory = needed_mb <= cache_mb
    if not in_memory:
        LOGGER.info(
            "%s: %.0f MB decoded, more than data.args.cache_mb=%g: decoded batch by batch",
            tree.train.parent,
            needed_mb,
            cache_mb,
        )
    parts: dict[str, Split] = {}
    for name, listing in listings.items():
        labels = torch.tensor(listing.labels)
        if in_memory:
            parts[name] = ImageSplit(_decoded(listing, decoder), labels, (size, size))
        else:
            parts[name] = FileSplit(listing.paths, labels, decoder, (size, size))
    if tree.test is None:
        parts["val"], parts["test"] = _halves(parts["val"], listings["val"])
    return {**parts, **tree.sources}


def _halves(split: Split, listing: Listing) -> tuple[Split, Split]:
    """Validation and test, where there is one folder for both, by file name; with two classes neither is empty."""
    names = [os.path.relpath(path, listing.folder) for path in listing.paths]
    first, second = halve(split.labels, names)
    return split.subset(first), split.subset(second)


def _decoded(listing: Listing, decoder: Decoder) -> Tensor:
    def build() -> Tensor:
        start = time.perf_counter()
        images = decode_files(listing.paths, decoder, title=f"decoding {listing.folder}")
        seconds = time.perf_counter() - start
        LOGGER.info("%s: %s images decoded in %.1f s", listing.folder, f"{len(images):,}", seconds)
        return images

    return cached_images(listing.folder, listing.fingerprint, repr(decoder), build)
