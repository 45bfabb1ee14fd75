"""A report as data, for any format: sections of text, lists, tables, plots and commands; as Markdown and as a page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pruning_bootcamp.pages import Cell, Column, Filter, Row, escape, page, plot
from pruning_bootcamp.pages import table as html_table
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.reporting.run import markdown_table

__all__ = [
    "Bullets",
    "Cell",
    "Column",
    "CommandLines",
    "Document",
    "Filter",
    "Item",
    "Items",
    "Plot",
    "Row",
    "Section",
    "Subheading",
    "Table",
    "Text",
    "columns",
    "html",
    "markdown",
]


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Subheading:
    """Inside a section."""

    text: str


@dataclass(frozen=True)
class Bullets:
    lines: Sequence[str]


@dataclass(frozen=True)
class CommandLines:
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


def columns(titles: str) -> list[Column]:
    """Of `Name | # Seconds`; a `#` says that the column holds numbers."""
    return [Column(title.removeprefix("# "), title.startswith("# ")) for title in titles.split(" | ")]


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
    """A plotly figure; its table says the same in numbers, and stands for it where there are no plots."""

    identifier: str
    caption: str
    description: str
    figure: Mapping[str, Plain]
    table: Table
    height_px: int = 420


Block = Text | Subheading | Bullets | CommandLines | Items | Table | Plot


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


def markdown(document: Document) -> str:
    """The document as Markdown: text of files is made harmless, tables are whole, and a plot's table stands for it."""
    parts = [f"# {plain(document.title)}", *(plain(line) for line in document.lead)]
    for section in document.sections:
        parts.append(f"## {plain(section.title)}")
        for block in section.blocks:
            match block:
                case Text(text):
                    parts.append(plain(text))
                case Subheading(text):
                    parts.append(f"### {plain(text)}")
                case Bullets(lines):
                    parts.append("\n".join(f"- {plain(line)}" for line in lines))
                case CommandLines(lines):
                    parts.append("\n".join(f"    {_one_line(line)}" for line in lines))
                case Items(items):
                    for place, item in enumerate(items, start=1):
                        lines = f"{place}. **{plain(item.title)}** {plain(item.text)}\n   *{plain(item.note)}*"
                        parts.append(lines + (f"\n\n       {_one_line(item.command)}" if item.command else ""))
                case Table():
                    parts.append(_table(block))
                case Plot():
                    parts += [f"**{plain(block.caption)}.** {plain(block.description)}", _table(block.table)]
    parts.append(plain(document.made))
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    header = [plain(column.title) for column in table.columns]
    rows = [[plain(cell.text if isinstance(cell, Cell) else cell) for cell in row.cells] for row in table.rows]
    return f"*{plain(table.caption)}*\n\n{markdown_table(header, rows)}"


def plain(text: str) -> str:
    """The text with the letters that Markdown or HTML would act on made harmless, on one line."""
    line = re.sub(r"([\\`*|\[\]#])", r"\\\1", _one_line(text))
    line = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", line)  # inside a word it means nothing
    return re.sub(r"&(?=#?\w+;)", "&amp;", line).replace("<", "&lt;")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def html(document: Document) -> str:
    """BootcampError without plotly, when the document has plots."""
    figures: dict[str, Mapping[str, Plain]] = {}
    sections = "".join(_section(section, figures) for section in document.sections)
    links = "".join(f'<li><a href="#{escape(s.identifier)}">{escape(s.title)}</a></li>' for s in document.sections)
    lead = "".join(f"<p>{escape(line)}</p>\n" for line in document.lead)
    body = (
        f"<header>\n<h1>{escape(document.title)}</h1>\n{lead}</header>\n"
        f'<nav class="contents" aria-label="Contents"><ul>{links}</ul></nav>\n'
        f'<main id="main" tabindex="-1">\n{sections}</main>\n<footer><p>{escape(document.made)}</p></footer>'
    )
    return page(document.title, body, figures)


def _section(section: Section, figures: dict[str, Mapping[str, Plain]]) -> str:
    name = escape(section.identifier)
    blocks = "".join(_block(block, figures) for block in section.blocks)
    head = f'<section id="{name}" aria-labelledby="{name}-h">\n<h2 id="{name}-h">{escape(section.title)}</h2>\n'
    return f"{head}{blocks}</section>\n"


def _block(block: Block, figures: dict[str, Mapping[str, Plain]]) -> str:
    match block:
        case Text(text):
            return f"<p>{escape(text)}</p>\n"
        case Subheading(text):
            return f"<h3>{escape(text)}</h3>\n"
        case Bullets(lines):
            return "<ul>\n" + "".join(f"<li>{escape(line)}</li>\n" for line in lines) + "</ul>\n"
        case CommandLines(lines):
            return f'<pre tabindex="0"><code>{escape(chr(10).join(lines))}</code></pre>\n'
        case Items(items):
            return '<ol class="items">\n' + "".join(_item(item) for item in items) + "</ol>\n"
        case Table():
            return _html_table(block)
        case Plot():
            figures[block.identifier] = block.figure
            return plot(block.identifier, block.caption, block.description, _html_table(block.table), block.height_px)


def _item(item: Item) -> str:
    command = f'<pre tabindex="0"><code>{escape(item.command)}</code></pre>' if item.command else ""
    return (
        f"<li><strong>{escape(item.title)}</strong><p>{escape(item.text)}</p>"
        f'<p class="note">{escape(item.note)}</p>{command}</li>\n'
    )


def _html_table(table: Table) -> str:
    return html_table(
        table.caption,
        table.columns,
        table.rows,
        identifier=table.identifier,
        filters=table.filters,
        search=table.search,
    )
