"""Numbers that are numbers, tables that are tables; means with their spread; numbers as cells, and links to folders."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from urllib.parse import quote

from pruning_bootcamp.pages import Cell
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.results import Environment, Latency

UNKNOWN = Cell("–")


def number(value: object) -> float | None:
    """A finite number, or None for everything else (true is not 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) else None


def table(value: object) -> dict[str, Plain]:
    """The table, or an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def text(value: object) -> str | None:
    """The text, or None for everything else and for an empty one."""
    return value if isinstance(value, str) and value else None


def unsigned(shown: str) -> str:
    """`0.00` for `-0.00`, which rounding makes."""
    return shown.removeprefix("-") if not shown.strip("-0.") else shown


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of n numbers."""

    mean: float
    std: float | None
    n: int

    def shown(self, form: str = "{:.2f}") -> str:
        """`98.44 ± 0.12`, or only the mean of one."""
        return unsigned(form.format(self.mean)) + (f" ± {form.format(self.std)}" if self.std is not None else "")


def spread(values: Sequence[float | None]) -> Spread | None:
    """None unless every value is known: a mean over some of the seeds would be another number."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    # exact: the mean of equal numbers is that number, so that it ties with the same number of one run
    return Spread(float(mean(known)), stdev(known) if len(known) > 1 else None, len(known))


def counted(n: int, what: str) -> str:
    """`1 sweep`, `2 sweeps`, `no sweeps`."""
    return f"{n or 'no'} {what}{'' if n == 1 else 's'}"


def rate(value: float | None, form: str = "{:.2f}") -> Cell:
    """A value of one run."""
    return UNKNOWN if value is None else Cell(unsigned(form.format(value)), value)


def amount(value: Spread | None, form: str = "{:.2f}") -> Cell:
    """Mean ± standard deviation; sorts by the mean."""
    return UNKNOWN if value is None else Cell(value.shown(form), value.mean)


def link(folder: Path, target: Path) -> str:
    """From the folder that the report is written to; every letter that means something in an address is quoted."""
    return quote(Path(os.path.relpath(folder.resolve(), target.resolve())).as_posix()) + "/"


def beaten_by_none(n: int) -> str:
    """The sentence below a plot of `n` points on the front."""
    return "One of them is beaten by none" if n == 1 else f"{n} of them are beaten by none (the dotted line)"


def measured_on(environment: Environment | None, stats: Latency | None) -> str:
    """How a latency was measured; a file that does not name the processor by itself has it in its environment."""
    device = environment and environment.device
    if stats is None:
        return device or "machine not recorded"
    if stats.processor is not None:
        return stats.noted_way
    return replace(stats, device=device or "a machine that was not recorded").noted_way
