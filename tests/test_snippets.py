"""Every Python block of docs/library.md runs, in order, and prints what the block after it says."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from pruning_bootcamp.logs import LOGGER

LIBRARY = Path(__file__).resolve().parent.parent / "docs" / "library.md"
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", LIBRARY.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def session() -> dict[str, Any]:
    """The names that the blocks before have made."""
    return {"__name__": "library"}


def test_every_block_has_its_output() -> None:
    assert len(BLOCKS) >= 12
    assert len(BLOCKS) == LIBRARY.read_text().count("```python")
    assert all(output.strip() for _, output in BLOCKS)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_prints_what_the_document_says(
    number: int, session: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, expected = BLOCKS[number]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LOGGER, "handlers", [])  # a test before may have started the screen, as a command does
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"{LIBRARY.name}, block {number + 1}", "exec"), session)
    assert printed.getvalue() == expected
