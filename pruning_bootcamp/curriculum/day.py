"""What a day of the course is made of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# How most commands begin. With DATASET=cifar10 the scripts put that config in the place of the digits'.
TRAIN = "pruning-bootcamp train -c cfgs/digits.yaml"
EVAL = "pruning-bootcamp eval -c cfgs/digits.yaml"
WEIGHTS = "pruning-bootcamp prune-unstructured -c cfgs/digits.yaml"
CUT = "pruning-bootcamp prune-structured -c cfgs/digits.yaml"
# Labels alone bring half the network back to within the goal or just outside, by the number of threads.
DISTILLED = "fine_tune.epochs=30ep fine_tune.lr=0.02 fine_tune.distill=0.9"
EXPORT = "pruning-bootcamp export -c cfgs/digits.yaml"
PROFILE = "pruning-bootcamp profile -c cfgs/digits.yaml"

DENSE = "results/baseline/best_model.pth"


@dataclass(frozen=True)
class Step:
    """One command of a day, and why it is run. Words as one types them after `.venv/bin/`."""

    why: str
    command: str
    may_miss: bool = False
    """whether a goal not met (exit 3) is part of the lesson"""

    @property
    def program(self) -> str:
        return self.command.split()[0]


@dataclass(frozen=True)
class Question:
    ask: str
    answer: str


@dataclass(frozen=True)
class Figure:
    """A figure that the course states, where it is written, and how far from it another machine may be."""

    file: str
    key: str
    """parts joined by /; a number is a place in a list, `name=value` the entry of a list whose `name` is that"""
    sign: Literal["+-", ">=", "<="]
    value: float
    """what was measured, or for >= and <= the limit"""
    tolerance: float = 0.0

    def __str__(self) -> str:
        if self.sign == "+-":
            return f"{self.file} {self.key} {self.value:g} +- {self.tolerance:g}"
        return f"{self.file} {self.key} {self.sign} {self.value:g}"

    def holds(self, measured: float) -> bool:
        if not math.isfinite(measured):
            return False
        if self.sign == "+-":
            return abs(measured - self.value) <= self.tolerance + 1e-9
        return measured >= self.value if self.sign == ">=" else measured <= self.value


def about(file: str, key: str, value: float, tolerance: float) -> Figure:
    """What was measured, and how far from it another machine may be."""
    return Figure(file, key, "+-", value, tolerance)


def at_least(file: str, key: str, value: float) -> Figure:
    return Figure(file, key, ">=", value)


def at_most(file: str, key: str, value: float) -> Figure:
    return Figure(file, key, "<=", value)


def metrics_of(folder: str) -> str:
    return f"results/{folder}/metrics.yaml"


@dataclass(frozen=True)
class Day:
    """One lesson: what it teaches, what is typed, what is seen, what must exist afterwards."""

    number: int
    topic: str
    """names the script: dayNN_<topic>.sh"""
    title: str
    learn: tuple[str, ...]
    why: str
    idea: str
    """Markdown: the method with its formula and paper"""
    steps: tuple[Step, ...]
    see: str
    figures: tuple[Figure, ...]
    questions: tuple[Question, ...]
    makes: tuple[str, ...]
    """files that exist when the day is done"""
    needs: Mapping[str, int]
    """file -> the day that makes it"""
    seconds: int
    """measured on two cores that others use too"""

    @property
    def week(self) -> int:
        return (self.number - 1) // 7 + 1

    @property
    def script(self) -> str:
        return f"scripts/day{self.number:02}_{self.topic}.sh"

    @property
    def page(self) -> str:
        return f"docs/course/day{self.number:02}.md"

    def missing(self, root: Path) -> list[str]:
        """What this day makes and is not there yet, seen from `root`, the folder that holds results/."""
        return [path for path in self.makes if not (root / path).exists()]


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
