"""The README is true: its tree names every module, its commands exist, its links lead somewhere, its example runs."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
PACKAGE = REPOSITORY / "pruning_bootcamp"


def test_the_tree_names_every_module_and_nothing_else() -> None:
    tree = README.partition("How the code is laid out")[2].partition("```\n")[2].partition("```")[0]
    named = set(re.findall(r"[\w/]*?(\w+\.py)\b", tree))
    files = {path.name for path in PACKAGE.rglob("*.py")} - {"__init__.py"}
    assert len(files) > 50
    assert named == files


def test_every_command_shown_exists() -> None:
    from pruning_bootcamp.cli import app

    names = {entry.name or entry.callback.__name__.replace("_", "-") for entry in app.registered_commands}
    names |= {group.typer_instance.info.name for group in app.registered_groups}
    shown = re.findall(r"pruning-bootcamp ([a-z][a-z-]+)", README)
    assert len(shown) > 5
    assert set(shown) <= names
    table = README.partition("What each command does")[2].partition("##")[0]
    assert set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)) == names


def test_every_option_shown_exists() -> None:
    from pruning_bootcamp import cli

    source = "".join(path.read_text() for path in Path(cli.__file__).parent.glob("*.py"))
    shown = re.findall(r"pruning-bootcamp [a-z-]+[^`\n]*", README)
    options = {option for line in shown for option in re.findall(r"(?<= )--[a-z-]+", line)}
    assert len(options) > 8
    for option in options - {"--help"}:
        assert f'"{option}' in source or f"/{option}" in source, option


def test_files_that_are_linked_or_named_exist() -> None:
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    named = re.findall(r"\b((?:cfgs|scripts|tests)/[\w/.-]+\.(?:yaml|sh|py))\b", README)
    assert linked
    assert named
    for path in [*linked, *named]:
        assert (REPOSITORY / path).exists(), path


def test_the_example_of_how_to_add_a_score_works() -> None:
    diff = README.partition("```diff\n")[2].partition("```")[0]
    code = "\n".join(line[1:] for line in diff.splitlines() if line.startswith("+"))
    from torch import Tensor, randn

    from pruning_bootcamp.pruning import scores as module
    from pruning_bootcamp.registry import Registry

    space = {"SCORES": Registry("score"), "Tensor": Tensor, "LayerStats": module.LayerStats}
    exec(code, space)
    entry = space["SCORES"]["centered"]
    assert list(entry.settings) == ["power"]
    weight = randn(4, 3)
    assert entry(weight, None, power=2).shape == weight.shape


@pytest.mark.parametrize("script", sorted((REPOSITORY / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_executable_and_say_what_they_do(script: Path) -> None:
    text = script.read_text()
    if script.name == "lib.sh":  # sourced by the others
        assert text.startswith("# ")
        return
    assert script.stat().st_mode & 0o111
    assert text.splitlines()[1].startswith(f"# ./scripts/{script.name}")
