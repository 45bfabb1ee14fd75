"""What else to time on a device, and where the time was that of starting kernels: decisions without a clock."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pruning_bootcamp.backends.base import BACKENDS, lacking, title_of
from pruning_bootcamp.backends.eager import SMALL_BATCHES
from pruning_bootcamp.tools.latency.advice import launch_bound_batches


@dataclass(frozen=True)
class Way:
    """One way to run the pair: the backend, and on how many images at a time."""

    backend: str
    batch: int

    def __str__(self) -> str:
        return f"{title_of(self.backend)}, batch {self.batch}"

    def smaller(self) -> "Way | None":
        """Half the images, for a device whose memory is too small; None where that is another way's batch already."""
        return Way(self.backend, self.batch // 2) if self.batch // 2 > max(SMALL_BATCHES) else None


def ways_to_time(device_type: str, model: nn.Module | None = None) -> list[Way]:
    """Every way worth timing on such a device: the small batches first, the eager backends first among them.

    With backends for special networks where the model is one.
    """
    profiled = [entry for entry in BACKENDS.entries() if "profiled" in entry.facts and not lacking(entry)]
    profiled = [entry for entry in profiled if "wants" not in entry.facts or (model and entry.facts["wants"](model))]
    ways = [Way(entry.name, batch) for entry in profiled for batch in entry.facts["profiled"](device_type)]
    return sorted(ways, key=lambda way: (way.batch, not _is_eager(way.backend), title_of(way.backend)))


def launch_bound_ways(milliseconds: Mapping[Way, float], device_type: str) -> list[Way]:
    """The eager ways on a GPU whose time is spent on launching kernels; elsewhere none."""
    if device_type != "cuda":
        return []
    found = []
    for backend in sorted({way.backend for way in milliseconds if _is_eager(way.backend)}, key=title_of):
        by_batch = {way.batch: time for way, time in milliseconds.items() if way.backend == backend}
        found += [Way(backend, batch) for batch in launch_bound_batches(by_batch)]
    return found


def _is_eager(backend: str) -> bool:
    return bool(BACKENDS[backend].facts.get("eager"))
