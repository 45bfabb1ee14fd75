"""`sweep.space` of a config -> dimensions: lists of values, and ranges of numbers; what is wrong with them."""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruning_bootcamp.errors import Problem, unknown
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.schema import shown

RANGE_KEYS = ("low", "high", "step", "log")
MOST_POINTS = 100_000  # of a grid


@dataclass(frozen=True)
class Dimension:
    """One key of the config and what it may be: `values`, or else numbers from `low` to `high`."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """A range of whole numbers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 0))

    @property
    def ordered(self) -> bool:
        """Values of which one can be between two others, so that a sampler may learn from neighbours."""
        return len(self.values) > 1 and all(_is_number(value) for value in self.values)

    def points(self) -> tuple[Any, ...] | None:
        """Every value; None for a range without end."""
        if self.values:
            return self.values
        step = self.step or (1 if self.whole else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return tuple(_tidy(self.low + number * step) for number in range(min(count, MOST_POINTS + 1)))

    def probes(self) -> tuple[Any, ...]:
        """Values that show whether the config takes this dimension: all of a list, both ends of a range."""
        return self.values or (self.low, self.high)


def parse_space(raw: Mapping[str, Plain], where: str = "sweep.space") -> tuple[list[Dimension], list[Problem]]:
    """The dimensions, in the order of their keys' text, and every problem with how they are written."""
    found: list[Dimension] = []
    problems: list[Problem] = []
    _parse(raw, "", where, found, problems)
    if not found and not problems:
        problems.append(
            Problem(where, 'is empty. Add keys with the values to try: {"structured.score": [l1, bn_scale]}.')
        )
    return sorted(found, key=lambda dimension: dimension.key), problems


def grid_size(dimensions: list[Dimension]) -> int | None:
    """How many combinations there are; None where a range has no end of values."""
    counts = [dimension.points() for dimension in dimensions]
    return None if any(points is None for points in counts) else math.prod(len(points or ()) for points in counts)


def grid(dimensions: list[Dimension]) -> list[dict[str, Plain]]:
    """Every combination of a space that has an end."""
    points = [dimension.points() or () for dimension in dimensions]
    keys = [dimension.key for dimension in dimensions]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*points)]


def text_of(value: Any) -> str:
    """A value as one word of a table and of the database."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def shown_setting(value: Any) -> str:
    """A value for the eye: four digits of a number that was drawn from a range."""
    return f"{value:.4g}" if isinstance(value, float) else text_of(value)


def _parse(raw: Mapping[str, Plain], prefix: str, where: str, found: list[Dimension], problems: list[Problem]) -> None:
    for name, entry in raw.items():
        key = f"{prefix}{name}"
        place = f"{where}.{key}"
        if isinstance(entry, list | tuple):
            if not entry:
                problems.append(Problem(place, "has no value to try."))
            elif len({text_of(value) for value in entry}) < len(entry):
                problems.append(Problem(place, f"{shown(list(entry))} names a value twice."))
            else:
                found.append(Dimension(key, tuple(entry)))
        elif isinstance(entry, Mapping) and (entry.keys() & {"low", "high"}):
            _range(entry, key, place, found, problems)
        elif isinstance(entry, Mapping) and entry:
            _parse(entry, f"{key}.", where, found, problems)  # sweep.space.structured.score=[...] on the command line
        else:
            problems.append(Problem(place, f"{shown(entry)} is neither a list of values nor {{low, high, step, log}}."))


def _range(entry: Mapping[str, Any], key: str, place: str, found: list[Dimension], problems: list[Problem]) -> None:
    before = len(problems)
    problems += [
        Problem(f"{place}.{name}", unknown("setting", name, RANGE_KEYS)) for name in entry if name not in RANGE_KEYS
    ]
    for name in ("low", "high"):
        if name not in entry:
            problems.append(Problem(f"{place}.{name}", "needed and not given."))
    for name in ("low", "high", "step"):
        value = entry.get(name)
        if value is not None and not _is_number(value):
            problems.append(Problem(f"{place}.{name}", f"{shown(value)} is not a number."))
    if not isinstance(entry.get("log", False), bool):
        problems.append(Problem(f"{place}.log", f"{shown(entry['log'])} is not true or false."))
    if len(problems) > before:
        return
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    if low >= high:
        problems.append(Problem(place, f"low {low:g} is not below high {high:g}."))
    if step is not None and step <= 0:
        problems.append(Problem(f"{place}.step", f"{step:g} is not above 0."))
    if log and step is not None:
        problems.append(Problem(place, "log and step can't be had together. Leave one out, or list the values."))
    if log and low <= 0:
        problems.append(Problem(f"{place}.low", f"{low:g} has no logarithm. Take one above 0."))
    if len(problems) == before:
        found.append(Dimension(key, (), low, high, step, log))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _tidy(value: float) -> float:
    """0.1 + 2 * 0.1 is 0.3."""
    return value if isinstance(value, int) else round(value, 12)
