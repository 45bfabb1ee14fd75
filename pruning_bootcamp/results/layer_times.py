"""layer_times.yaml: how long layers take at other widths, what that foresaw of a whole network, and what was chosen."""

from collections.abc import Mapping
from dataclasses import dataclass

from pruning_bootcamp.plain import Part


def time_at(times: Mapping[int, float], width: int) -> float:
    """Of the width, or of the next that was measured: a staircase is flat up to its steps. 0 of no width."""
    return times[min((known for known in times if known >= width), default=max(times))] if width > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Forecast(Part):
    """What the layers' times foresaw of a cut network's time on one way to run it, and what that was measured to be.

    In percent of the dense network's.
    """

    way: str
    foreseen_pct: float
    taken_pct: float
    dense_ms: float
    taken_ms: float

    @property
    def error_points(self) -> float:
        """By how much more it takes than was foreseen; negative: less."""
        return self.taken_pct - self.foreseen_pct

    @property
    def foreseen_ms(self) -> float:
        """Of the dense network's milliseconds."""
        return self.foreseen_pct / 100 * self.dense_ms

    def __str__(self) -> str:
        off = abs(self.error_points)
        error = f"{off:.1f} points {'more' if self.error_points > 0 else 'less'}" if off >= 0.05 else "as foreseen"
        return (
            f"The layers' times foresaw {self.foreseen_pct:.1f}% of the time ({self.foreseen_ms:.3f} ms), the whole "
            f"network takes {self.taken_pct:.1f}% ({self.taken_ms:.3f} ms): {error} ({self.way})"
        )


@dataclass(frozen=True, kw_only=True)
class LayerStairs(Part):
    """Layers alike: microseconds of one of them at widths of one side, the other side whole."""

    layer: str
    """its kind, its widths and what it is given: `convolution 3x3 64 -> 64 at 8x8`"""
    widths: tuple[int, int]
    """whole: what goes in, what comes out"""
    inputs: dict[int, float]
    outputs: dict[int, float]
    chosen: dict[str, tuple[int, int]]
    """name of each layer -> the widths that were chosen for it"""

    @property
    def whole_us(self) -> float:
        """Of one of them, uncut."""
        return self.outputs[self.widths[1]]

    @property
    def all_us(self) -> float:
        """Of all of them, uncut."""
        return self.whole_us * len(self.chosen)


@dataclass(frozen=True, kw_only=True)
class WayStairs(Part):
    """The layers on one way to run them, those that take longest first."""

    way: str
    version: str
    """of the backend"""
    processor: str
    threads: int
    layers: tuple[LayerStairs, ...]


@dataclass(frozen=True, kw_only=True)
class Stairs(Part):
    """layer_times.yaml."""

    ways: tuple[WayStairs, ...]
