"""Whole networks timed in turn with the uncut one, on every way to run them that counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends import BACKENDS, Runner, Way, prepare
from pruning_bootcamp.tools.latency import compare_latencies

_RUNS, _MIN_SECONDS, _MOST_SECONDS = 40, 0.6, 6.0


@dataclass(frozen=True)
class Lap:
    """A cut network beside the uncut one, on one way to run them: the ratio of their times, and milliseconds.

    `low` and `high` bound the ratio with 95% confidence, by so many `pairs`.
    """

    way: Way
    share: float
    uncut_ms: float
    cut_ms: float
    low: float = 0.0
    high: float = float("inf")
    pairs: int = 0

    def __str__(self) -> str:
        return f"{self.cut_ms:.3f} ms, {100 * self.share:.1f}% of {self.uncut_ms:.3f} ms ({self.way})"


@dataclass(frozen=True)
class Race:
    """How a cut network does on every way: the one on which it saves least counts."""

    laps: tuple[Lap, ...]

    @property
    def slowest(self) -> Lap:
        """The way on which it saves least."""
        return max(self.laps, key=lambda lap: lap.share)

    @property
    def share(self) -> float:
        """Of the uncut network's time, on that way."""
        return self.slowest.share

    def __str__(self) -> str:
        return "; ".join(map(str, self.laps))


class RaceTrack:
    """The uncut network, ready on every way, for cut ones to run beside it."""

    def __init__(
        self,
        uncut: nn.Module,
        example: Tensor,
        ways: Sequence[Way],
        threads: int,
        device: torch.device,
        whole: Callable[[nn.Module, Tensor], nn.Module] = lambda model, batch: model,
    ) -> None:
        """`example`: one input. `whole` makes of a network and a batch one that gives a tensor."""
        self.ways, self.threads, self.device, self._whole = tuple(ways), threads, device, whole
        self._batches = {way: example[:1].expand(way.batch, *example.shape[1:]).contiguous() for way in ways}
        self._uncut = self._ready(uncut)

    def _ready(self, model: nn.Module) -> dict[Way, Runner]:
        """Its runner on each way; what runs batches of any size is made once a backend."""
        made: dict[tuple[str, int | None], Runner] = {}
        found = {}
        for way in self.ways:
            batch = self._batches[way].to(self.device)
            which = way.backend, way.batch if BACKENDS[way.backend].facts.get("one_shape") else None
            if which not in made:
                made[which] = prepare(way.backend, self._whole(model.to(self.device), batch), batch, self.threads)
            found[way] = made[which]
        return found

    def __call__(self, cut: nn.Module) -> Race:
        """The two in turn, way after way."""
        ready = self._ready(cut)
        return Race(tuple(self._lap(ready[way], way) for way in self.ways))

    def _lap(self, cut: Runner, way: Way) -> Lap:
        batch = self._batches[way]
        pair = {"uncut": (self._uncut[way], batch), "cut": (cut, batch)}
        found = compare_latencies(pair, runs=_RUNS, min_seconds=_MIN_SECONDS, max_seconds=_MOST_SECONDS)
        ratio = found["cut"].ratio_to(found["uncut"])
        assert ratio is not None, "they were timed in the same rounds"
        milliseconds = found["uncut"].median_ms, found["cut"].median_ms
        return Lap(way, ratio.median, *milliseconds, low=ratio.low, high=ratio.high, pairs=ratio.n)

    def uncut_ms(self) -> dict[Way, float]:
        """Milliseconds of the uncut network on each way."""
        batches = self._batches
        return {
            way: compare_latencies({"uncut": (runner, batches[way])}, runs=_RUNS)["uncut"].median_ms
            for way, runner in self._uncut.items()
        }
