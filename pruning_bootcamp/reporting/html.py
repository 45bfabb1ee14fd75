"""A document as one HTML page."""

from collections.abc import Mapping
from typing import Any

from pruning_bootcamp.pages import escape, page, plot
from pruning_bootcamp.pages import table as html_table
from pruning_bootcamp.reporting.document import (
    Block,
    Bullets,
    Command,
    Document,
    Heading,
    Item,
    Items,
    Plot,
    Section,
    Table,
    Text,
)


def html(document: Document) -> str:
    """BootcampError without plotly, when the document has plots."""
    figures: dict[str, Mapping[str, Any]] = {}
    sections = "".join(_section(section, figures) for section in document.sections)
    links = "".join(f'<li><a href="#{escape(s.identifier)}">{escape(s.title)}</a></li>' for s in document.sections)
    lead = "".join(f"<p>{escape(line)}</p>\n" for line in document.lead)
    body = (
        f"<header>\n<h1>{escape(document.title)}</h1>\n{lead}</header>\n"
        f'<nav class="contents" aria-label="Contents"><ul>{links}</ul></nav>\n'
        f'<main id="main" tabindex="-1">\n{sections}</main>\n<footer><p>{escape(document.made)}</p></footer>'
    )
    return page(document.title, body, figures)


def _section(section: Section, figures: dict[str, Mapping[str, Any]]) -> str:
    name = escape(section.identifier)
    blocks = "".join(_block(block, figures) for block in section.blocks)
    head = f'<section id="{name}" aria-labelledby="{name}-h">\n<h2 id="{name}-h">{escape(section.title)}</h2>\n'
    return f"{head}{blocks}</section>\n"


def _block(block: Block, figures: dict[str, Mapping[str, Any]]) -> str:
    match block:
        case Text(text):
            return f"<p>{escape(text)}</p>\n"
        case Heading(text):
            return f"<h3>{escape(text)}</h3>\n"
        case Bullets(lines):
            return "<ul>\n" + "".join(f"<li>{escape(line)}</li>\n" for line in lines) + "</ul>\n"
        case Command(lines):
            return f'<pre tabindex="0"><code>{escape(chr(10).join(lines))}</code></pre>\n'
        case Items(items):
            return '<ol class="items">\n' + "".join(_item(item) for item in items) + "</ol>\n"
        case Table():
            return _table(block)
        case Plot():
            figures[block.identifier] = block.figure
            return plot(block.identifier, block.caption, block.description, _table(block.table), block.height_px)


def _item(item: Item) -> str:
    command = f'<pre tabindex="0"><code>{escape(item.command)}</code></pre>' if item.command else ""
    return (
        f"<li><strong>{escape(item.title)}</strong><p>{escape(item.text)}</p>"
        f'<p class="note">{escape(item.note)}</p>{command}</li>\n'
    )


def _table(table: Table) -> str:
    return html_table(
        table.caption,
        table.columns,
        table.rows,
        identifier=table.identifier,
        filters=table.filters,
        search=table.search,
    )
