"""What to time on a device, and what its timings say: decisions without a clock and without a GPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LANES = 8  # channels that a vector register or a tensor core takes at a time
# A GPU that needs hardly longer for many images than for one spent the time on being started, not on images.
LAUNCH_BOUND_RATIO = 1.5
SMALL_BATCHES = (1, 16)  # one image at a time, and a server's small batch
FULL_BATCH = 256  # enough images for a GPU to have something to do

Runtime = Literal["torch", "torch channels_last", "torch CUDA graph", "onnxruntime on cpu"]
EAGER: tuple[Runtime, ...] = ("torch", "torch channels_last")


@dataclass(frozen=True)
class Way:
    """One way to run the pair: what runs it, and on how many images at a time."""

    runtime: Runtime
    batch: int

    def __str__(self) -> str:
        return f"{self.runtime}, batch {self.batch}"

    def smaller(self) -> "Way | None":
        """Half the images, for a device whose memory is too small; None where that is another way's batch already."""
        return Way(self.runtime, self.batch // 2) if self.batch // 2 > max(SMALL_BATCHES) else None


def ways_to_time(device_type: str) -> list[Way]:
    """Every way worth timing on such a device; on CUDA also a full batch, and a batch of 1 without launch overhead."""
    ways = [
        Way(runtime, batch)
        for batch in SMALL_BATCHES
        for runtime in (*EAGER, "onnxruntime on cpu")  # type: ignore[arg-type]  # mypy widens the joined tuple
    ]
    if device_type == "cuda":
        ways.insert(len(EAGER), Way("torch CUDA graph", 1))
        ways += [Way(runtime, FULL_BATCH) for runtime in EAGER]
    return ways


def launch_bound_batches(milliseconds: Mapping[int, float]) -> list[int]:
    """Batch sizes (of batch size -> time of a pass) whose time is that of a single image: 1 among them, or none."""
    single = milliseconds.get(1)
    if single is None:
        return []
    bound = [b for b, time in sorted(milliseconds.items()) if b > 1 and time <= LAUNCH_BOUND_RATIO * single]
    return [1, *bound] if bound else []


def launch_bound_ways(milliseconds: Mapping[Way, float], device_type: str) -> list[Way]:
    """The eager ways on a GPU whose time is spent on launching kernels; elsewhere none."""
    if device_type != "cuda":
        return []
    found = []
    for runtime in EAGER:
        by_batch = {way.batch: time for way, time in milliseconds.items() if way.runtime == runtime}
        found += [Way(runtime, batch) for batch in launch_bound_batches(by_batch)]
    return found


@dataclass(frozen=True)
class CutWidths:
    """Layers whose width the pruning changed, and how many of those widths are no multiple of LANES."""

    cut: int
    uneven: int

    @property
    def advice(self) -> str | None:
        """What widths in multiples could do for this network; None where all that were cut are some."""
        if not self.uneven:
            return None
        return (
            f"{self.uneven} of the {self.cut} layers that were cut have a width that is no multiple of {LANES}: widths "
            f"in multiples of {LANES} may help (prune-structured --round-to {LANES})"
        )


def cut_widths(before: Mapping[str, int | None], after: Mapping[str, int | None]) -> CutWidths:
    """Of layer -> output width in both networks. What was not cut (a classifier of 10 classes) no rounding changes."""
    cut = [width for name, width in after.items() if width is not None and before.get(name) not in (None, width)]
    return CutWidths(len(cut), sum(width % LANES != 0 for width in cut))
