"""A document as Markdown: a plot becomes its table; nothing that comes from a file is taken for markup."""

import re

from pruning_bootcamp.reporting.document import Bullets, Cell, Command, Document, Heading, Items, Plot, Table, Text
from pruning_bootcamp.reporting.run import markdown_table


def markdown(document: Document) -> str:
    parts = [f"# {plain(document.title)}", *(plain(line) for line in document.lead)]
    for section in document.sections:
        parts.append(f"## {plain(section.title)}")
        for block in section.blocks:
            match block:
                case Text(text):
                    parts.append(plain(text))
                case Heading(text):
                    parts.append(f"### {plain(text)}")
                case Bullets(lines):
                    parts.append("\n".join(f"- {plain(line)}" for line in lines))
                case Command(lines):
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
