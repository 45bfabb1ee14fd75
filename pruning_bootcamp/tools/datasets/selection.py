"""Which images: pure choices by label and seed. The same seed gives the same choice on every machine."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """All indices in a random order whose every beginning holds the classes in their true shares, within one image.

    An image's place in its (shuffled) class, as a fraction of the class, is its place in the order. The last image of
    each class comes at the very end, so that whoever takes a beginning leaves at least one image of each class.
    """
    generator = np.random.default_rng(seed)
    classes = labels.cpu().numpy()
    place = np.empty(len(classes))
    for label in np.unique(classes):
        members = generator.permutation(np.flatnonzero(classes == label))
        place[members] = (np.arange(len(members)) + generator.random()) / len(members)
        place[members[-1]] = 1 + generator.random()
    return torch.from_numpy(np.argsort(place, kind="stable"))


def take(labels: Tensor, count: int, seed: int) -> Tensor:
    """Sorted indices of `count` images in the classes' true shares. A smaller count takes a part of a larger one's."""
    return stratified_order(labels, seed)[:count].sort().values


def hold_out(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted indices of the images that stay and of those held out: at least one of either, `fraction` as a rule."""
    count = min(max(round(len(labels) * fraction), 1), len(labels) - 1)
    order = stratified_order(labels, seed)
    return order[count:].sort().values, order[:count].sort().values


def halve(labels: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Sorted indices of two halves of every class, within one image; the spare images go to either in turn.

    An image's half is decided by a hash of its name: the order in which files are listed does not matter, and where
    images are added, no more than one of those that were there changes sides.
    """
    keys = [hashlib.sha256(name.encode()).digest() for name in names]
    classes = labels.cpu().numpy()
    halves: tuple[list[int], list[int]] = ([], [])
    spares = 0
    for label in np.unique(classes):
        members = sorted(np.flatnonzero(classes == label).tolist(), key=keys.__getitem__)
        middle = len(members) // 2
        if len(members) % 2:
            middle += spares % 2  # the first spare image to the second half
            spares += 1
        halves[0].extend(members[:middle])
        halves[1].extend(members[middle:])
    first, second = (torch.tensor(sorted(half), dtype=torch.long) for half in halves)
    return first, second


def evenly_spaced(count: int, limit: int | None) -> Tensor:
    """`limit` indices, evenly spaced over range(count), all of them without a limit.

    Not the first ones: class folders are listed class by class, and their first images are all of one class.
    """
    if limit is None or limit >= count:
        return torch.arange(count)
    return torch.arange(limit) * count // limit
