"""layer_times.yaml: how long layers take at other widths, what that foresaw of a whole network, and what was chosen."""

from dataclasses import dataclass

from pruning_bootcamp.plain import Part


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
