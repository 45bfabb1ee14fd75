"""What the course says comes out, as tests over result files: a value in a range, or one above another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pruning_bootcamp.runs import read_yaml

# What no count or proof says is stated only where it came out so every time; which times those were is published.
MEASURED = "so in each run of benchmarks/course_claims.py so far; results/published/course_claims says which those are"


@dataclass(frozen=True)
class Place:
    """Where a measured figure stands."""

    file: str
    key: str
    """parts joined by /; a number is a place in a list, `name=value` the entry of a list whose `name` is that"""

    def __str__(self) -> str:
        return f"{self.file} {self.key}"

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


@dataclass(frozen=True)
class Figure:
    """A measured value lies in a range, or on one side of a limit."""

    place: Place
    sign: Literal["+-", ">=", "<="]
    value: float
    """what was measured, or for >= and <= the limit"""
    tolerance: float = 0.0

    @property
    def places(self) -> tuple[Place, ...]:
        return (self.place,)

    def __str__(self) -> str:
        end = f"{self.value:g} +- {self.tolerance:g}" if self.sign == "+-" else f"{self.sign} {self.value:g}"
        return f"{self.place} {end}"

    def holds(self, measured: float) -> bool:
        if not math.isfinite(measured):
            return False
        if self.sign == "+-":
            return abs(measured - self.value) <= self.tolerance + 1e-9
        return measured >= self.value if self.sign == ">=" else measured <= self.value


@dataclass(frozen=True)
class Order:
    """Each of `higher` lies above each of `lower`, by `margin` or more: a best or worst of several too."""

    higher: tuple[Place, ...]
    lower: tuple[Place, ...]
    margin: float
    """what the course states as certain, less than was measured anywhere; in the figures' unit"""

    @property
    def places(self) -> tuple[Place, ...]:
        return self.higher + self.lower

    def __str__(self) -> str:
        files, keys = {place.file for place in self.places}, {place.key for place in self.places}
        # what is the same on both sides is said once
        if len(keys) == 1:
            start, names = f"{keys.pop()} of ", [place.file for place in self.places]
        elif len(files) == 1:
            start, names = f"{files.pop()} ", [place.key for place in self.places]
        else:
            start, names = "", [str(place) for place in self.places]
        count = len(self.higher)
        return f"{start}{' and '.join(names[:count])} >= {' and '.join(names[count:])} + {self.margin:g}"

    def gap(self, higher: list[float], lower: list[float]) -> float:
        """By how much the least of the higher lies above the greatest of the lower; below 0 the other way round."""
        return min(higher) - max(lower)


@dataclass(frozen=True)
class Claim:
    """What may be said of any machine, under a name by which the text refers to it."""

    name: str
    test: Figure | Order
    because: str
    """why it holds elsewhere too: a count, a proof, an error of so many images, or how often it was measured"""


@dataclass(frozen=True)
class Verdict:
    """A claim held against what was measured here."""

    holds: bool | None
    """None: a file or a figure of it is not there"""
    value: float
    """the figure; of an order, by how much it holds (below 0: the other way round); nan where it is not there"""
    measured: str
    said: str
    """what came out instead, where it does not hold"""


def judge(claim: Claim, results: Path) -> Verdict:
    """Whether the claim holds for the files under `results`, the folder that stands for the course's results/."""
    values = [place.read(results) for place in claim.test.places]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Verdict(None, math.nan, "not there", "not measured here yet")
    if isinstance(claim.test, Figure):
        return _judge_figure(claim.test, known[0])
    count = len(claim.test.higher)
    return _judge_order(claim.test, known[:count], known[count:])


def _judge_figure(figure: Figure, value: float) -> Verdict:
    holds = figure.holds(value)
    return Verdict(holds, value, f"{value:.5g}", "" if holds else f"here it was {value:.5g}")


def _judge_order(order: Order, higher: list[float], lower: list[float]) -> Verdict:
    gap = order.gap(higher, lower)
    measured = f"{_list(higher)} against {_list(lower)}"
    if gap >= order.margin:
        return Verdict(True, gap, measured, "")
    if gap < 0:
        return Verdict(False, gap, measured, f"here it was the other way round: {measured}")
    return Verdict(False, gap, measured, f"here only {gap:.2g} apart, not {order.margin:g}: {measured}")


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.5g}" for value in values)


def about(name: str, file: str, key: str, value: float, tolerance: float, because: str) -> Claim:
    """What was measured, and how far from it another machine may be."""
    return Claim(name, Figure(Place(file, key), "+-", value, tolerance), because)


def at_least(name: str, file: str, key: str, value: float, because: str) -> Claim:
    return Claim(name, Figure(Place(file, key), ">=", value), because)


def at_most(name: str, file: str, key: str, value: float, because: str) -> Claim:
    return Claim(name, Figure(Place(file, key), "<=", value), because)


def above(
    name: str, higher: str | tuple[str, ...], lower: str | tuple[str, ...], key: str, margin: float, because: str
) -> Claim:
    """The figure at `key` is higher in each file of `higher` than in each of `lower`, by `margin` or more."""
    sides = [[Place(file, key) for file in ((side,) if isinstance(side, str) else side)] for side in (higher, lower)]
    return order(name, sides[0], sides[1], margin, because)


def order(name: str, higher: Sequence[Place], lower: Sequence[Place], margin: float, because: str) -> Claim:
    return Claim(name, Order(tuple(higher), tuple(lower), margin), because)


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
