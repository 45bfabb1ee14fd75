"""Options that set a key of the config, made from its field; and those that several commands share."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from pruning_bootcamp.config import Choice, Config
from pruning_bootcamp.schema import field_docs


def setting(key: str, *names: str, metavar: str | None = None, more: str = "") -> Any:
    """The option that sets `key`: what it does, its range and its words are the field's.

    A wrong value is left to the config's own check, which says the nearest right one, and every other problem too.
    """
    section, name = _field(key)
    kind = _types(section)[name]
    limits = section.__dataclass_fields__[name].metadata.get("range")
    text = field_docs(section)[name]
    if text.split(" ", 1)[0].isalpha():  # not `auto, cpu, ...`
        text = f"{text[0].upper()}{text[1:]}"
    help_text = f"{text}{_range_text(limits)}.{' ' + more if more else ''}"
    option = typer.Option(*names, metavar=metavar or _words(kind), help=help_text)
    option.key = key
    return option


def given(command: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """key -> value of the options of a command that were given; `values` are its arguments, by name."""
    found = {}
    for name, hint in get_type_hints(command, include_extras=True).items():
        kind, option = get_args(hint)[:2] if get_origin(hint) is Annotated else (None, None)
        key, value = getattr(option, "key", None), values.get(name)
        if key is not None and value is not None and not (kind is bool and not value):  # no flag: the config decides
            found[key] = value
    return found


def number_or_word(text: str) -> int | str:
    """`8` as YAML would read it; null is another word for none."""
    if text.lstrip("-").isdecimal():
        return int(text)
    return "none" if text == "null" else text


def _field(key: str) -> tuple[Any, str]:
    *path, name = key.split(".")
    section: Any = Config
    for part in path:
        section = _types(section)[part]
    return section, name


@functools.cache
def _types(section: Any) -> dict[str, Any]:
    return get_type_hints(section)


def _range_text(limits: tuple[float | None, float | None, str] | None) -> str:
    if limits is None or limits[:2] == (None, None):
        return ""
    low, high, bounds = limits
    if high is None:
        return f"; {'above' if bounds[0] == '(' else 'at least'} {low}"
    return f"; in {bounds[0]}{low}, {high}{bounds[1]}"


def _words(kind: Any) -> str | None:
    """What stands for the value in --help; None: what Typer writes for the type."""
    kinds = [kind, *get_args(kind)]
    if Choice in kinds:
        return "NAME"
    words = [word for part in kinds if get_origin(part) is Literal for word in get_args(part)]
    return f"[{'|'.join(words)}]" if words and int not in kinds else None


ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE", help="YAML of the run.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to override, e.g. train.epochs=3.")
]
SaveDir = Annotated[str | None, setting("save_dir", "--save-dir", metavar="DIR")]
Device = Annotated[str | None, setting("device", "--device")]
Seed = Annotated[int | None, setting("seed", "--seed")]
Debug = Annotated[bool, typer.Option("--debug", help="Show more, and a traceback with every error.")]
Backend = Annotated[str | None, setting("profile.backend", "--backend", metavar="NAME[,NAME]")]
BatchSize = Annotated[int | None, setting("profile.batch_size", "--batch-size")]
Threads = Annotated[int | None, setting("threads", "--threads")]
Checkpoint = Annotated[str | None, setting("checkpoint", "--checkpoint", metavar="FILE")]
Resume = Annotated[
    bool | None,
    typer.Option("--resume/--no-resume", help="Go on with an unfinished run (the default), or begin again."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, step by step, and change nothing.")]
FineTune = Annotated[bool | None, setting("fine_tune.enabled", "--fine-tune/--no-fine-tune")]
