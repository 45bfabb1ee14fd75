"""Figures as table cells, and links that lead from the report to a run's folder."""

import os
from pathlib import Path
from urllib.parse import quote

from pruning_bootcamp.reporting.document import Cell
from pruning_bootcamp.reporting.values import Spread, unsigned

UNKNOWN = Cell("–")


def rate(value: float | None, form: str = "{:.2f}") -> Cell:
    """A figure of one run."""
    return UNKNOWN if value is None else Cell(unsigned(form.format(value)), value)


def amount(figure: Spread | None, form: str = "{:.2f}") -> Cell:
    """Mean ± standard deviation; sorts by the mean."""
    return UNKNOWN if figure is None else Cell(figure.shown(form), figure.mean)


def link(folder: Path, target: Path) -> str:
    """From the folder that the report is written to; every letter that means something in an address is quoted."""
    return quote(Path(os.path.relpath(folder.resolve(), target.resolve())).as_posix()) + "/"


def beaten_by_none(n: int) -> str:
    return "One of them is beaten by none" if n == 1 else f"{n} of them are beaten by none (the dotted line)"


def threads_said(threads: object) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
