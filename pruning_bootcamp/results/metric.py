"""The metric that networks are judged by."""

from dataclasses import dataclass

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Part


@dataclass(frozen=True)
class Metric(Part):
    """The one number that a task's networks are judged by: its name in metrics.yaml, its unit, which way is better."""

    name: str
    unit: str = "%"
    higher_is_better: bool = True
    short: str | None = None
    """in a progress line; left out: the name"""
    share_of_samples: bool = False
    """True: percent of the samples that are right, each right or wrong"""

    def __post_init__(self) -> None:
        if self.name in ("loss", "images", "sparsity") or not self.name.isidentifier():
            raise BootcampError(f"metric '{self.name}': is another metric's name, or no plain word. Rename it.")

    @property
    def title(self) -> str:
        """As a sentence says it: mean iou."""
        return self.name.replace("_", " ")

    def text(self, value: float | None) -> str:
        """The value with its unit; a dash for what was not measured."""
        return "-" if value is None else f"{value:.2f}{self.unit}"

    def goodness(self, value: float) -> float:
        """Higher = better, whichever way the metric points."""
        return value if self.higher_is_better else -value

    def lost(self, before: float, after: float) -> float:
        """How much worse it has become, in the metric's own unit; negative: better."""
        return before - after if self.higher_is_better else after - before

    @property
    def lost_name(self) -> str:
        """What a loss of it is called in metrics.yaml: accuracy_drop, perplexity_rise."""
        return f"{self.name}_{'drop' if self.higher_is_better else 'rise'}"

    @property
    def lost_title(self) -> str:
        """The same for people: `accuracy drop`."""
        return self.lost_name.replace("_", " ")


ACCURACY = Metric("accuracy", short="acc", share_of_samples=True)
