"""What the course says comes out, as tests over result files: a value in a range, or one above another."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_bootcamp.runs import read_yaml

# A reason that many claims share. What no count or proof says is stated only where it came out so every time; which
# times those were is published.
REASONS = {
    "measured": "so in each run of benchmarks/course_claims.py so far; "
    "results/published/course_claims says which those are"
}


@dataclass(frozen=True)
class MetricPath:
    """Where a measured metric stands: `FILE KEY`."""

    text: str
    """the key's parts are joined by /; a number is an index of a list, `name=value` the entry whose `name` is that"""

    @property
    def file(self) -> str:
        """Below results/, whichever folder stands for it."""
        return self.text.partition(" ")[0]

    @property
    def key(self) -> str:
        """The key in that file, empty where the text has none."""
        return self.text.partition(" ")[2]

    def read(self, results: Path) -> float | None:
        """What the file holds under the key; None where there is no such file, key or finite number."""
        path = results / self.file.removeprefix("results/")
        if not path.exists():
            return None
        try:
            value = float(look_up(read_yaml(path), self.key))
        except (KeyError, TypeError, ValueError):
            return None
        return value if math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class Range:
    """A measured value lies in a range, or on one side of a limit."""

    metric: str
    """its MetricPath"""
    about: float | None = None
    """what was measured; another machine may be `within` of it"""
    within: float = 0.0
    at_least: float | None = None
    at_most: float | None = None

    @property
    def paths(self) -> tuple[MetricPath, ...]:
        """The one path that it is about: what a claim reads, of whichever kind it is."""
        return (MetricPath(self.metric),)

    def __str__(self) -> str:
        if self.about is not None:
            return f"{self.metric} {self.about:g} +- {self.within:g}"
        return f"{self.metric} {f'<= {self.at_most:g}' if self.at_least is None else f'>= {self.at_least:g}'}"

    def holds(self, measured: float) -> bool:
        """Whether the value lies within, ends included; nan never does."""
        if self.about is not None:
            return abs(measured - self.about) <= self.within + 1e-9
        return (self.at_least is None or measured >= self.at_least) and (
            self.at_most is None or measured <= self.at_most
        )


@dataclass(frozen=True, kw_only=True)
class Order:
    """Each of `higher` lies above each of `lower`, by `margin` or more: a best or worst of several too."""

    higher: tuple[str, ...]
    """MetricPaths"""
    lower: tuple[str, ...]
    margin: float
    """what the course states as certain, less than was measured anywhere; in the metrics' unit"""

    @property
    def paths(self) -> tuple[MetricPath, ...]:
        """The paths of `higher`, then those of `lower`."""
        return tuple(MetricPath(text) for text in self.higher + self.lower)

    def __str__(self) -> str:
        files, keys = {path.file for path in self.paths}, {path.key for path in self.paths}
        # what is the same on both sides is said once
        if len(keys) == 1:
            start, names = f"{keys.pop()} of ", [path.file for path in self.paths]
        elif len(files) == 1:
            start, names = f"{files.pop()} ", [path.key for path in self.paths]
        else:
            start, names = "", [path.text for path in self.paths]
        count = len(self.higher)
        return f"{start}{' and '.join(names[:count])} >= {' and '.join(names[count:])} + {self.margin:g}"


@dataclass(frozen=True)
class Claim:
    """What may be said of any machine, under a name by which the text refers to it."""

    name: str
    test: Range | Order
    because: str
    """why it holds elsewhere too: a count, a proof, an error of so many images, or how often it was measured"""


@dataclass(frozen=True)
class Verdict:
    """A claim held against what was measured here."""

    holds: bool | None
    """None: a file or a metric of it is not there"""
    value: float
    """the metric; of an order, by how much it holds (below 0: the other way round); nan where it is not there"""
    measured: str
    said: str
    """what came out instead, where it does not hold"""


def judge(claim: Claim, results: Path) -> Verdict:
    """Whether the claim holds for the files under `results`, the folder that stands for the course's results/."""
    values = [path.read(results) for path in claim.test.paths]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Verdict(None, math.nan, "not there", "not measured here yet")
    if isinstance(claim.test, Range):
        return _judge_range(claim.test, known[0])
    count = len(claim.test.higher)
    return _judge_order(claim.test, known[:count], known[count:])


def _judge_range(range_: Range, value: float) -> Verdict:
    holds = range_.holds(value)
    return Verdict(holds, value, f"{value:.5g}", "" if holds else f"here it was {value:.5g}")


def _judge_order(order: Order, higher: list[float], lower: list[float]) -> Verdict:
    gap = min(higher) - max(lower)
    measured = f"{_list(higher)} against {_list(lower)}"
    if gap >= order.margin:
        return Verdict(True, gap, measured, "")
    if gap < 0:
        return Verdict(False, gap, measured, f"here it was the other way round: {measured}")
    return Verdict(False, gap, measured, f"here only {gap:.2g} apart, not {order.margin:g}: {measured}")


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.5g}" for value in values)


def look_up(content: Any, key: str) -> Any:
    """The value at a key of `/`-joined parts; KeyError, with the part that is not there, when there is none."""
    for part in key.split("/"):
        name, equals, wanted = part.partition("=")
        if equals and isinstance(content, list):
            found = [entry for entry in content if isinstance(entry, Mapping) and str(entry.get(name)) == wanted]
            if not found:
                raise KeyError(part)
            content = found[0]
        elif isinstance(content, list) and part.isdigit() and int(part) < len(content):
            content = content[int(part)]
        elif isinstance(content, Mapping) and part in content:
            content = content[part]
        else:
            raise KeyError(part)
    return content
