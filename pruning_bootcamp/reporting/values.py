"""Values from files that anybody may have written: numbers that are numbers, tables that are tables, text from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any


def number(value: Any) -> float | None:
    """A finite number, or None for everything else (true is not 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) else None


def table(value: Any) -> dict[str, Any]:
    """The table, or an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def rows(value: Any) -> list[dict[str, Any]]:
    """The tables in a list; what is no table is left out."""
    return [dict(entry) for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def unsigned(shown: str) -> str:
    """`0.00` for `-0.00`, which rounding makes."""
    return shown.removeprefix("-") if not shown.strip("-0.") else shown


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of n figures."""

    mean: float
    std: float | None
    n: int

    def shown(self, form: str = "{:.2f}") -> str:
        """`98.44 ± 0.12`, or only the mean of one."""
        return unsigned(form.format(self.mean)) + (f" ± {form.format(self.std)}" if self.std is not None else "")

    def said(self, form: str = "{:.2f}", unit: str = "") -> str:
        """With its n, for a sentence: `98.44% ± 0.12 (3 seeds)`, `98.44% (one seed)`."""
        spread = f" ± {form.format(self.std)}" if self.std is not None else ""
        return f"{unsigned(form.format(self.mean))}{unit}{spread} ({seeds_said(self.n)})"


def counted(n: int, what: str) -> str:
    """`1 sweep`, `2 sweeps`, `no sweeps`."""
    return f"{n or 'no'} {what}{'' if n == 1 else 's'}"


def seeds_said(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds"


def spread(values: Sequence[float | None]) -> Spread | None:
    """None unless every value is known: a mean over some of the seeds would be another figure."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    # exact: the mean of equal figures is that figure, so that it ties with the same figure of one run
    return Spread(float(mean(known)), stdev(known) if len(known) > 1 else None, len(known))
