"""An option that sets a key says what the key's field says, and takes what it takes."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from pruning_bootcamp.cli import app
from pruning_bootcamp.config import Config
from pruning_bootcamp.schema import field_docs


def callbacks(group: typer.Typer = app) -> Iterator[Any]:
    yield from (command.callback for command in group.registered_commands)
    for part in group.registered_groups:
        assert part.typer_instance is not None
        yield from callbacks(part.typer_instance)


def options() -> dict[tuple[str, str], tuple[Any, Any]]:
    """(command, parameter) -> type and option, of every option that sets a key."""
    found = {}
    for callback in callbacks():
        for name, hint in get_type_hints(callback, include_extras=True).items():
            if get_origin(hint) is Annotated and hasattr(get_args(hint)[1], "key"):
                found[callback.__name__, name] = get_args(hint)[0], get_args(hint)[1]
    return found


def without_none(kind: Any) -> list[Any]:
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return [part for part in kinds if part is not type(None)]


def test_types_and_texts_are_the_fields() -> None:
    found = options()
    assert len(found) > 60
    for (command, parameter), (kind, option) in found.items():
        *path, name = option.key.split(".")
        section: Any = Config
        for part in path:
            section = get_type_hints(section)[part]
        plain = [part for part in without_none(get_type_hints(section)[name]) if get_origin(part) is not Literal]
        one = (
            len(plain) == 1 and plain[0] in (bool, int, float) and len(without_none(get_type_hints(section)[name])) == 1
        )
        assert without_none(kind) == [plain[0] if one else str], f"{command} {parameter}"
        assert field_docs(section)[name].lower() in option.help.lower()


def test_ranges_and_words_are_shown() -> None:
    found = options()
    assert "in [0, 1)" in found["prune_unstructured", "sparsity"][1].help
    assert found["sweep", "sampler"][1].metavar == "[grid|random|tpe|nsga2]"
    assert "at least 1" in found["profile", "batch_size"][1].help
