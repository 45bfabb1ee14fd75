"""README and pages are true: their commands and options exist, their links lead somewhere."""

import ast
import pkgutil
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((REPOSITORY / "docs").glob("*.md"))} | {"README.md": README}
ALL = "\n".join(PAGES.values())


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_every_command_shown_exists() -> None:
    from pruning_bootcamp.cli import app

    names = {entry.name or entry.callback.__name__.replace("_", "-") for entry in app.registered_commands}
    names |= {group.typer_instance.info.name for group in app.registered_groups}
    shown = re.findall(r"pruning-bootcamp ([a-z][a-z-]+)", ALL)
    assert len(shown) > 50
    assert set(shown) <= names
    table = README.partition("What each command does")[2].partition("##")[0]
    assert set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)) == names


def test_every_option_shown_exists() -> None:
    from pruning_bootcamp import cli

    source = "".join(path.read_text() for path in Path(cli.__file__).parent.glob("*.py"))
    shown = re.findall(r"pruning-bootcamp [a-z-]+[^`\n]*", ALL)
    options = {option for line in shown for option in re.findall(r"(?<= )--[a-z-]+", line)}
    assert len(options) > 8
    for option in options - {"--help"}:
        assert f'"{option}' in source or f"/{option}" in source, option


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_linked_or_named_exist(name: str) -> None:
    text, folder = PAGES[name], REPOSITORY if name == "README.md" else REPOSITORY / "docs"
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        assert "://" in link or (folder / link).exists(), link
    for path in re.findall(r"\b((?:cfgs|scripts|tests|benchmarks|notebooks)/[\w/.-]+\.(?:yaml|sh|py|ipynb))\b", text):
        assert (REPOSITORY / path).exists(), path


@pytest.mark.parametrize("script", sorted((REPOSITORY / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_executable_and_say_what_they_do(script: Path) -> None:
    text = script.read_text()
    if script.name == "lib.sh":  # sourced by the others
        assert text.startswith("# ")
        return
    assert script.stat().st_mode & 0o111
    assert text.splitlines()[1].startswith(f"# ./scripts/{script.name}")


def test_every_name_of_the_reference_exists() -> None:
    names = re.findall(r"^::: (\S+)", ALL, re.MULTILINE)
    assert len(names) > 20
    for name in names:
        found: object = pkgutil.resolve_name(name)
        assert getattr(found, "__doc__", None), name


def undocumented(text: str) -> list[str]:
    """Public functions of a module, and public methods of its public classes, that don't say what they give."""
    found = []
    for node in ast.parse(text).body:
        is_public_class = isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        for inner in node.body if is_public_class else [node]:
            if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_") and not ast.get_docstring(inner):
                found.append(f"{node.name}.{inner.name}" if is_public_class else inner.name)
    return found


def test_a_function_without_a_docstring_is_found() -> None:
    text = """
def said():
    "Something."
def bare(): ...
def _private(): ...
class A:
    def method(self): ...
class _B:
    def method(self): ...
"""
    assert undocumented(text) == ["bare", "A.method"]


def test_every_public_function_is_documented() -> None:
    modules = sorted((REPOSITORY / "pruning_bootcamp").rglob("*.py"))
    assert len(modules) > 100
    missing = [
        f"{module.relative_to(REPOSITORY)}: {name}"
        for module in modules
        for name in undocumented(module.read_text(encoding="utf-8"))
    ]
    assert not missing, "without a docstring:\n" + "\n".join(missing)
