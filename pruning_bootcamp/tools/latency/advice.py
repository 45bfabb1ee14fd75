"""What timings and widths say: decisions without a clock and without a GPU."""

from collections.abc import Mapping
from dataclasses import dataclass

LANES = 8  # channels that a vector register or a tensor core takes at a time
# A GPU that needs hardly longer for many images than for one spent the time on being started, not on images.
LAUNCH_BOUND_RATIO = 1.5


def launch_bound_batches(milliseconds: Mapping[int, float]) -> list[int]:
    """Batch sizes (of batch size -> time of a pass) whose time is that of a single image: 1 among them, or none."""
    single = milliseconds.get(1)
    if single is None:
        return []
    bound = [b for b, time in sorted(milliseconds.items()) if b > 1 and time <= LAUNCH_BOUND_RATIO * single]
    return [1, *bound] if bound else []


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
            f"in multiples of {LANES} may help (prune-structured --round-to {LANES}, or export --pad-to auto)"
        )


def cut_widths(before: Mapping[str, int | None], after: Mapping[str, int | None]) -> CutWidths:
    """Of layer -> output width in both networks. What was not cut (a classifier of 10 classes) no rounding changes."""
    cut = [width for name, width in after.items() if width is not None and before.get(name) not in (None, width)]
    return CutWidths(len(cut), sum(width % LANES != 0 for width in cut))
