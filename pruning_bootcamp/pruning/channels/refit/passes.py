"""Two networks over the same images, stopped at one operation after the other; what they hold meanwhile is bounded."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruning_bootcamp.pruning.channels.refit.program import Program, State
from pruning_bootcamp.pruning.channels.refit.sites import find_sites

Images = Callable[[], Iterable[Tensor]]
"""batches of one size, each time anew: large images are not held in memory between two looks"""

# Half-way results of so many bytes are kept between two passes; batches beyond are computed from the images again.
KEPT_BYTES = 2**30


@dataclass
class _Halted:
    """Both networks on one batch, where they stopped; None: it was not kept."""

    dense: State
    cut: State


class Passes:
    """Both networks' forward passes, which go on from where they were last told to wait."""

    def __init__(self, dense: Program, cut: Program, images: Images, kept_bytes: int = KEPT_BYTES) -> None:
        self.dense, self.cut, self._images, self.limit = dense, cut, images, kept_bytes
        self.at, self._count = 0, -1
        self._products = [site.operation for site in find_sites(cut)[0]]
        self._halted: dict[int, _Halted] = {}

    @torch.no_grad()
    def visit(
        self, stop: int, of_dense: Collection[int], of_cut: Collection[int]
    ) -> Iterator[tuple[dict[int, Any], dict[int, Any]]]:
        """For each batch, the values of these operations when both networks have run to before `stop`."""
        for halted in self._resumed():
            _, theirs = self.dense.run(halted.dense, stop, of_dense)
            _, ours = self.cut.run(halted.cut, stop, of_cut)
            yield theirs, ours

    @torch.no_grad()
    def halfway(self, at: int, target: int) -> Iterator[tuple[State, Tensor]]:
        """For each batch, the cut network's state before the operation `at`, and the dense one's value at `target`."""
        for halted in self._resumed():
            _, theirs = self.dense.run(halted.dense, target + 1, {target})
            state, _ = self.cut.run(halted.cut, at)
            device = next(iter(state.values.values())).device
            yield state, theirs[target].to(device)

    @torch.no_grad()
    def go_on(self, limit: int) -> None:
        """Wait before a later operation from now on, at most `limit`: near it where the least is to be held.

        Nothing before it may change from now on.
        """
        if limit <= self.at:
            return
        # one product may have to be computed again each time, where less is held before it: a block's beginning
        nearest = max((number for number in self._products if number < limit), default=limit)
        places = range(max(self.at, nearest, 1), limit + 1)
        sizes = {at: self.dense.live_bytes(at) + self.cut.live_bytes(at) for at in places}
        least = min(sizes.values())
        at = max(place for place, size in sizes.items() if size == least)
        if at <= self.at:
            return
        kept: dict[int, _Halted] = {}
        held = 0
        for number, halted in enumerate(self._resumed()):
            # a batch's old state is let go before the new one is held
            self._halted.pop(number, None)
            moved = _Halted(self.dense.run(halted.dense, at)[0], self.cut.run(halted.cut, at)[0])
            size = moved.dense.size + moved.cut.size
            if held + size <= self.limit:
                kept[number] = moved
                held += size
        self.at, self._halted = at, kept

    def _resumed(self) -> Iterator[_Halted]:
        if self._halted and len(self._halted) == self._count:
            yield from (self._halted[number] for number in range(self._count))
            return
        number = -1
        for number, batch in enumerate(self._images()):
            halted = self._halted.get(number)
            yield halted if halted is not None else _Halted(self.dense.start(batch), self.cut.start(batch))
        self._count = number + 1
