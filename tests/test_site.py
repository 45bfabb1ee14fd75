"""The documentation site: the tree is the package's, days and commands are there, a broken link or a fetch ends it."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from pruning_bootcamp.course.reading import days

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "pruning_bootcamp"
needs_generator = pytest.mark.skipif(
    importlib.util.find_spec("zensical") is None, reason="the extra docs is not installed"
)


@pytest.fixture
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_build", REPOSITORY / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tree_names_every_module_with_its_first_line(site: ModuleType) -> None:
    lines = list(site.tree())
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert len(files) > 50
    assert sum(".py`" in line for line in lines) == len(files)
    shown = {line.strip() for line in lines}
    for path in files:
        said = site.first_line(path)
        assert said, f"{path} does not say what it is"
        assert f"- `{path.name}`: {said}" in shown, path


def test_the_tree_is_nested_as_the_folders_are(site: ModuleType, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    (inner / "data").mkdir(parents=True)
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "a.py").write_text('"""A.\n\nMore."""\n')
    (inner / "__init__.py").write_text('"""Inside."""\n')
    (inner / "b.py").write_text("")
    assert list(site.tree(tmp_path)) == ["- `inner/`: Inside.", "    - `b.py`", "- `a.py`: A."]


def test_pages_are_made_of_what_is_written_elsewhere(site: ModuleType, tmp_path: Path) -> None:
    site.compose(tmp_path / "docs")
    pages = {path.relative_to(tmp_path / "docs").as_posix(): path.read_text() for path in tmp_path.rglob("*.md")}
    for day in days():
        assert f"# Day {day.number}: {day.title}" in pages[f"course/day{day.number:02}.md"]
        assert f"[{day.title}](course/day{day.number:02}.md)" in pages["course.md"]
    for command in ("## train", "## pipeline run", "## curriculum day", "`--target-flops-reduction <float>`"):
        assert command in pages["commands.md"]
    assert "`reading.py`" in pages["architecture.md"]
    for beside in ("cfgs/digits.yaml", "scripts/quickstart.sh", "benchmarks/kills.py"):
        assert f"- `{beside}`: " in pages["architecture.md"]
    assert not any(mark in page for page in pages.values() for mark in site.MADE)


def small(folder: Path, page: str) -> Path:
    """A repository whose site is this page."""
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "index.md").write_text(page)
    (folder / "docs" / "site.yml").write_text(
        "site_name: small\ndocs_dir: docs\ntheme: {name: material, font: false}\n"
        "plugins:\n- mkdocstrings: {handlers: {python: {}}}\nnav:\n- Home: index.md\n"
    )
    shutil.copy2(REPOSITORY / "LICENSE", folder / "CHANGELOG.md")
    return folder


@needs_generator
@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("# Good\n\n[here](#good)", None),
        ("# Bad\n\n[nowhere](nowhere.md)", "page does not exist"),
        ("# Bad\n\n::: pruning_bootcamp.nothing.at_all", "Could not collect 'pruning_bootcamp.nothing.at_all'"),
        ("# Bad\n\n<img src=https://example.org/a.png>", "would fetch\n  index.html: https://example.org/a.png"),
    ],
)
def test_a_site_that_is_not_whole_is_not_built(
    page: str,
    said: str | None,
    site: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(site, "ROOT", small(tmp_path, page))
    monkeypatch.setenv("NO_COLOR", "1")
    code = site.build(tmp_path / "out")
    told = capfd.readouterr()
    assert (code != 0) == (said is not None), told
    assert (tmp_path / "out" / "index.html").exists() == (said is None)
    assert said is None or said in told.out + told.err
