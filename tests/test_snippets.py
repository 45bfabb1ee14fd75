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
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each block prints when all are run in order, in one process."""
    names: dict[str, Any] = {"__name__": "library"}
    outputs = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(LOGGER, "handlers", [])  # a test before may have started the screen, as a command does
        for number, (code, _) in enumerate(BLOCKS):
            monkeypatch.chdir(tmp_path_factory.mktemp(f"block{number}"))
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(code, f"{LIBRARY.name}, block {number + 1}", "exec"), names)
            outputs.append(said.getvalue())
    return outputs


def test_every_block_has_its_output() -> None:
    assert len(BLOCKS) >= 12
    assert len(BLOCKS) == LIBRARY.read_text().count("```python")
    assert all(output.strip() for _, output in BLOCKS)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_prints_what_the_document_says(number: int, printed: list[str]) -> None:
    assert printed[number] == BLOCKS[number][1]
