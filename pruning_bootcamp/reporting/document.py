"""A report as data, for any format: sections of text, lists, tables, plots and commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pruning_bootcamp.pages import Cell, Column, Filter, Row

__all__ = [
    "Bullets",
    "Cell",
    "Column",
    "Command",
    "Document",
    "Filter",
    "Heading",
    "Item",
    "Items",
    "Plot",
    "Row",
    "Section",
    "Table",
    "Text",
]


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Heading:
    """Inside a section."""

    text: str


@dataclass(frozen=True)
class Bullets:
    lines: Sequence[str]


@dataclass(frozen=True)
class Command:
    """To be typed; several lines are several commands."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Item:
    title: str
    text: str
    note: str
    command: str | None = None


@dataclass(frozen=True)
class Items:
    """A numbered list: what, in which words, why, and the command that does it."""

    items: Sequence[Item]


@dataclass(frozen=True)
class Table:
    identifier: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    filters: Sequence[Filter] = ()
    search: bool = False


@dataclass(frozen=True)
class Plot:
    """A plotly figure; its table says the same in figures, and stands for it where there are no plots."""

    identifier: str
    caption: str
    description: str
    figure: Mapping[str, Any]
    table: Table
    height_px: int = 420


Block = Text | Heading | Bullets | Command | Items | Table | Plot


@dataclass
class Section:
    identifier: str
    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Document:
    title: str
    lead: Sequence[str]
    sections: list[Section]
    made: str
    """the command and when"""
