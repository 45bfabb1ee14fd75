"""One HTML file that opens offline: tables that sort and filter, interactive plots, light and dark."""

import base64
import hashlib
import html
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources, util
from pathlib import Path

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain

_LONG = 48  # letters: a cell with more is given room
INSTALL = "Install it: pip install 'pruning-bootcamp[report]' (or pip install 'plotly>=6.3')."


@dataclass(frozen=True)
class Cell:
    """What a table shows, and what it is sorted by."""

    text: str
    value: float | None = None
    href: str | None = None


@dataclass(frozen=True)
class Column:
    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Filter:
    """A choice among the values of one attribute of the rows."""

    key: str
    label: str
    options: Sequence[str]


@dataclass(frozen=True)
class Row:
    cells: Sequence[Cell | str]
    attributes: Mapping[str, str] = field(default_factory=dict)
    """what filters look at: {"dataset": "digits"}"""


def page(title: str, body_html: str, figures: Mapping[str, Mapping[str, Plain]] | None = None) -> str:
    """The whole page. `body_html` has a `plot` for every id of `figures`, each a plotly figure as JSON.

    Nothing is fetched, and only the page's own two scripts can run: their hashes are in its security policy, so that
    a script smuggled in by a file's name would be dead even if it were not escaped. plotly.js travels deflated and is
    unpacked when the first plot is near the screen.
    """
    figures = figures or {}
    style, script = _asset("page.css"), _asset("page.js")
    allowed = [_hash(script)]
    blocks = ""
    if figures:
        library = _plotly()
        allowed.append(library.hash)
        data = json.dumps(figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        blocks = (
            f'<script type="application/json" id="figures">{data}</script>\n'
            f'<script type="text/plain" id="plotly">{library.packed}</script>\n'
        )
    policy = (
        f"default-src 'none'; script-src {' '.join(allowed)}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n'
        '<a class="skip" href="#main">Skip to the content</a>\n'
        f"{body_html}\n{blocks}<script>{script}</script>\n</body>\n</html>\n"
    )


def escape(text: object) -> str:
    """Text from anywhere as text in the page, in an attribute too."""
    return html.escape(str(text), quote=True)


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Row],
    *,
    identifier: str,
    filters: Sequence[Filter] = (),
    search: bool = False,
) -> str:
    """A table whose columns sort by click or key; with `filters` or `search`, controls and a live count above it."""
    name = escape(identifier)
    head = "".join(
        f'<th scope="col"{_kind(column)}><button type="button" class="sort">{escape(column.title)}'
        '<span class="arrow" aria-hidden="true"></span></button></th>'
        for column in columns
    )
    body = "\n".join(_row(row, columns) for row in rows)
    controls = _controls(name, filters, search, len(rows)) if filters or search else ""
    return (
        f'{controls}<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}-caption">\n'
        f'<table id="{name}"><caption id="{name}-caption">{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>\n</div>\n"
    )


def plot(identifier: str, caption: str, description: str, table_html: str, height_px: int = 420) -> str:
    """The place of a plot, what it shows in words, and its numbers as a table for those who can't see it."""
    name = escape(identifier)
    return (
        f'<figure class="plot-frame"><div class="plot" id="{name}" data-figure="{name}" role="img" '
        f'aria-label="{escape(f"{caption}. {description}")}" style="height:{height_px}px">'
        "<noscript>The plot needs JavaScript; its numbers are in the table below.</noscript></div>\n"
        f"<figcaption><strong>{escape(caption)}.</strong> {escape(description)}</figcaption>\n"
        f"<details><summary>The numbers of this plot as a table</summary>\n{table_html}</details></figure>\n"
    )


def _row(row: Row, columns: Sequence[Column]) -> str:
    attributes = "".join(f' data-{escape(key)}="{escape(value)}"' for key, value in row.attributes.items())
    cells = []
    for position, (cell, column) in enumerate(zip(row.cells, columns, strict=True)):
        cell = cell if isinstance(cell, Cell) else Cell(cell)
        text = escape(cell.text)
        if cell.href is not None:
            text = f'<a href="{escape(cell.href)}">{text}</a>'
        value = "" if cell.value is None else f' data-value="{cell.value!r}"'
        tag, scope = ("th", ' scope="row"') if position == 0 else ("td", "")
        cells.append(f"<{tag}{scope}{_kind(column, cell.text)}{value}>{text}</{tag}>")
    return f"<tr{attributes}>{''.join(cells)}</tr>"


def _controls(name: str, filters: Sequence[Filter], search: bool, count: int) -> str:
    parts = []
    if search:
        parts.append(f'<label>Search <input type="search" data-search aria-controls="{name}"></label>')
    for chosen in filters:
        options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in chosen.options)
        parts.append(
            f'<label>{escape(chosen.label)} <select data-key="{escape(chosen.key)}" aria-controls="{name}">'
            f'<option value="">all</option>{options}</select></label>'
        )
    parts.append('<button type="button" class="clear">Show all</button>')
    return (
        f'<div class="filters" role="group" aria-label="Filter the table" data-for="{name}" hidden>{"".join(parts)}'
        f'<p class="count" role="status" aria-live="polite">{count} of {count} rows</p></div>\n'
    )


def _kind(column: Column, text: str = "") -> str:
    return ' class="number"' if column.numeric else ' class="long"' if len(text) > _LONG else ""


def _asset(name: str) -> str:
    return (resources.files("pruning_bootcamp") / "assets" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@dataclass(frozen=True)
class _Library:
    packed: str
    hash: str


@cache
def _plotly() -> _Library:
    """The installed plotly.js, deflated, in base64: 1.96 MB instead of 4.8. BootcampError when plotly is missing."""
    source = (_plotly_folder() / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    packed = zlib.compress(source.encode("utf-8"), 9)
    return _Library(base64.b64encode(packed).decode(), _hash(source))


def has_plotly() -> bool:
    """Whether plots can be made here; without plotly everything but them is."""
    return util.find_spec("plotly") is not None


def check_plotly(what: str) -> None:
    """BootcampError, before any work, when the plots of `what` can't be made."""
    _plotly_folder(what)


def _plotly_folder(what: str = "an HTML page") -> Path:
    found = util.find_spec("plotly")
    if found is None or not found.submodule_search_locations:
        raise BootcampError(f"{what}: its plots need plotly, which is not installed. {INSTALL}")
    return Path(found.submodule_search_locations[0])
