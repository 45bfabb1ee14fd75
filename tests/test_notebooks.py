"""Every notebook runs from top to bottom, and its stored outputs say what a run of today says."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
DEMO = REPOSITORY / "notebooks" / "magnitude_pruning_demo.ipynb"
SPREAD = re.compile(r"(-?\d+\.\d) \+- (\d+\.\d)")
RATE = re.compile(r"lr (\d\.\d+)")
AHEAD = re.compile(r"(\w+) is ahead of (\w+) in (\d) of (\d) seeds, by (-?\d+\.\d) \+- (\d+\.\d) points")
MOVED = re.compile(r"(\w+) by (\d+) points")


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook: Any) -> str:
    return "".join(output.text for output in outputs_of(notebook) if output.output_type == "stream")


def pictures(notebook: Any) -> list[str]:
    return [output.data["image/svg+xml"] for output in outputs_of(notebook) if "data" in output]


def stored() -> Any:
    return nbformat.read(DEMO, as_version=4)


def run(place: Path) -> Any:
    """The demo, run now."""
    from nbclient import NotebookClient

    notebook = stored()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(place)}}).execute()
    return notebook


def test_there_are_notebooks() -> None:
    assert DEMO in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_as_it_was_run_without_traces_of_the_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 4
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "from top to bottom, once"
    assert all(cell.outputs for cell in cells)
    assert all(not cell.metadata for cell in cells), "no timings"
    assert notebook.metadata.language_info == {"name": "python"}
    assert {output.output_type for output in outputs_of(notebook)} <= {"stream", "execute_result", "display_data"}
    assert all(output.get("name", "stdout") == "stdout" for output in outputs_of(notebook)), "no warnings"
    assert not re.search(r"/(home|root|tmp|work|usr|opt)/|0x[0-9a-f]{6}", str(outputs_of(notebook)))
    assert path.stat().st_size < 100_000


def test_what_the_notebook_says_in_words_holds_in_its_stored_figures() -> None:
    check_words(printed(stored()))
    check_equal_terms(printed(stored()))


@pytest.mark.slow
def test_a_run_says_what_is_stored(tmp_path: Path) -> None:
    """One test, as one worker is to run it. Counts exactly; accuracies as far as their spread over seeds allows."""
    now = run(tmp_path)
    theirs, mine = printed(stored()), printed(now)
    assert len(SPREAD.findall(theirs)) >= 14
    for line, line_now in zip(theirs.splitlines(), mine.splitlines(), strict=True):
        assert _without_figures(line) == _without_figures(line_now)
        for (mean, std), (mean_now, std_now) in zip(SPREAD.findall(line), SPREAD.findall(line_now), strict=True):
            far = 1.5 + 2 * max(float(std), float(std_now))  # processors round differently
            assert abs(float(mean) - float(mean_now)) <= far, (line, line_now)
    assert len(pictures(now)) == len(pictures(stored())) == 2
    check_words(mine)
    check_equal_terms(mine)


def _without_figures(line: str) -> str:
    """The words, and the counts that no processor changes; not accuracies, nor which rate or how many seeds."""
    if "zeros" in line:
        return line if "stay" in line else re.sub(r"[\d.]+", "N", line)
    return re.sub(r"\d+(\.\d+)?", "N", SPREAD.sub("M", line)).replace(" ", "")


def check_words(text: str) -> None:
    """The sentences between the figures."""
    ahead = {(one, other): list(map(float, rest)) for one, other, *rest in AHEAD.findall(text)}
    assert set(ahead) == {("one_shot", "at_random"), ("one_shot", "in_rounds")}
    for seeds, of, gap, std in ahead.values():
        assert seeds >= of - 1
        assert gap > std / of**0.5 * 2, "more than two standard errors of the mean"
    moved = {name: int(points) for name, points in MOVED.findall(text)}
    between = ahead["one_shot", "at_random"][2]
    assert min(moved["at_random"], moved["in_rounds"]) > between
    after = re.search(r"zeros: (\d+) after pruning; an epoch later (\d+) without masks, (\d+) with them", text)
    assert after is not None
    before, without, with_masks = map(int, after.groups())
    assert with_masks == before > 5 * without


def check_equal_terms(text: str) -> None:
    """One table of rates for all methods, and each takes the one that is best on the validation images."""
    rows = [line for line in text.splitlines() if line.count("lr ") == 3]
    assert len(rows) == 3
    rates = [RATE.findall(row) for row in rows]
    assert rates[0] == rates[1] == rates[2]
    taken = re.findall(r"(\w+): \d+\.\d \+- \d+\.\d  \(lr (\d\.\d+)\)", text)
    assert len(taken) == 3
    for row, (name, rate) in zip(rows, taken, strict=True):
        assert row.split()[0] == name
        means = {found: float(mean) for found, (mean, _) in zip(RATE.findall(row), SPREAD.findall(row), strict=True)}
        assert means[rate] == max(means.values())
