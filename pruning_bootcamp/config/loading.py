"""load(path, overrides) -> Config: short forms expanded, every key and value checked, all problems at once."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pruning_bootcamp import plugins
from pruning_bootcamp.config.fields import Config
from pruning_bootcamp.config.reading import DEEPEST, MOST_BYTES, parse_yaml, resolve_references, text_problem
from pruning_bootcamp.errors import BootcampError, Problem, unknown
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.runs import siblings
from pruning_bootcamp.schema import Choice, Mismatch, check_ranges, coerce, shown
from pruning_bootcamp.shorthand import parse_pattern

T = TypeVar("T")

# Names that stand for a registered name with settings, by the field they are used in.
SHORT_FORMS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "prune.score": {
        "l1": ("magnitude", {"p": 1}),
        "l2": ("magnitude", {"p": 2}),
        "global": ("magnitude", {"p": 1}),
    },
    "prune.allocation": {"layerwise": ("uniform", {})},
}


def load(path: Path | str | None, overrides: Iterable[str] = (), options: Mapping[str, Plain] | None = None) -> Config:
    """The checked config: defaults, then the file, then `options` (dotted key -> value), then `key=value` overrides.

    Raises BootcampError with every problem found: unknown keys, wrong types, values out of range.
    """
    where = str(path) if path is not None else "the config"
    problems: list[Problem] = []
    raw = plugins.beside(Path(path).parent, read_file(Path(path))) if path is not None else {}
    for key, value in (options or {}).items():
        _set(raw, key, value, problems)
    for override in overrides:
        key, value = _parse_override(override, problems)
        if key:
            _set(raw, key, value, problems)
    config = _build(Config, raw, "", problems)
    if problems:
        raise BootcampError(*problems, where=where)
    return config


def with_values(config: Config, values: Mapping[str, Plain]) -> Config:
    """A copy with these keys (dotted) set, as if the file had said so. Raises BootcampError as `load`."""
    problems: list[Problem] = []
    raw = as_dict(config)
    for key, value in values.items():
        _set(raw, key, value, problems)
    changed = _build(Config, raw, "", problems)
    if problems:
        raise BootcampError(*problems)
    return changed


def read_file(path: Path) -> dict[str, Any]:
    """The table in a YAML config with its `${...}` references resolved; nothing in it is run."""
    try:
        if path.is_dir():
            raise BootcampError(f"{path}: is a folder, and a config is a YAML file. {siblings(path / 'x.yaml')}")
        with open(path, "rb") as stream:
            text = stream.read(MOST_BYTES + 1).decode("utf-8")
    except FileNotFoundError:
        raise BootcampError(f"{path}: there is no such config. {siblings(path)}") from None
    except (OSError, ValueError) as error:
        raise BootcampError(f"{path}: can't be read ({error}).") from None
    try:
        content = parse_yaml(text)
        if isinstance(content, dict):
            return resolve_references(content)
    except BootcampError as error:
        raise BootcampError(f"{path}: is not a valid config: {error}") from None
    if content is None:
        return {}
    raise BootcampError(f"{path}: holds a {type(content).__name__}, not a table of names and values.")


def _parse_override(text: str, problems: list[Problem]) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        problems.append(Problem(shown(text), "is not key=value. Write for instance train.epochs=3."))
        return "", None
    if problem := text_problem(key):
        problems.append(Problem("", f"{problem}."))
        return "", None
    if re.fullmatch(r"\d+:\d+", value):  # on the command line nobody can quote 2:4 for YAML
        return key.strip(), value
    try:
        return key.strip(), parse_yaml(value)
    except BootcampError as error:
        problems.append(Problem(key, f"can't read the value {shown(value)}: {error} Put text with : or {{ in quotes."))
        return "", None


def _set(raw: dict[str, Any], dotted: str, value: Any, problems: list[Problem]) -> None:
    """Set one key. A Choice that gets another name loses the settings of the old one."""
    *path, last = dotted.split(".")
    if len(path) >= DEEPEST:
        problems.append(Problem(shown(dotted), f"nests deeper than {DEEPEST} levels."))
        return
    table = raw
    for depth, part in enumerate(path):
        inner = table.get(part)
        if isinstance(inner, str) and _is_choice(".".join(path[: depth + 1])):
            inner = {"name": inner}
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            problems.append(Problem(dotted, f"{'.'.join(path[: depth + 1])} is {shown(inner)}, not a table."))
            return
        table[part] = inner
        table = inner
    if last == "name" and _is_choice(".".join(path)) and table.get("name") not in (None, value):
        table.pop("args", None)
    table[last] = value


def _is_choice(dotted: str) -> bool:
    kind: Any = Config
    for part in dotted.split("."):
        hints = get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if part not in hints:
            return False
        kind = _dataclass_in(hints[part])
    return kind is Choice


def _dataclass_in(annotation: Any) -> Any:
    """The dataclass of `X` or `X | None`, else None."""
    options = getattr(annotation, "__args__", (annotation,))
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _build(kind: type[T], raw: Any, where: str, problems: list[Problem]) -> T:
    """A dataclass from a raw table; problems are gathered, and a field with one keeps its default."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    if not isinstance(raw, dict):
        problems.append(Problem(where, f"{shown(raw)} is not a table of names and values."))
        raw = {}
    for key, value in raw.items():
        dotted = f"{where}.{key}" if where else str(key)
        if key not in hints:
            problems.append(Problem(dotted, unknown("key", key, hints)))
            continue
        inner = _dataclass_in(hints[key])
        if inner is Choice:
            values[key] = _build_choice(value, dotted, hints[key], problems)
        elif inner is not None:
            values[key] = _build(inner, {} if value is None else value, dotted, problems)
        else:
            try:
                values[key] = coerce(value, hints[key])
            except Mismatch as mismatch:
                problems.append(Problem(dotted, f"{str(mismatch).rstrip('.')}."))
    built = kind(**{key: value for key, value in values.items() if value is not _BROKEN})
    problems += check_ranges(built, where)
    return built


_BROKEN = object()


def _build_choice(value: Any, where: str, annotation: Any, problems: list[Problem]) -> Any:
    if value is None and type(None) in getattr(annotation, "__args__", ()):
        return None
    short_args: dict[str, Any] = {}
    if where == "prune.pattern":
        try:
            value, short_args = _short_pattern(value)
        except BootcampError as error:
            problems += [problem.under(where) for problem in error.problems]
            return _BROKEN
    if isinstance(value, dict) and value.keys() <= {"name", "args"} and isinstance(value.get("name"), str):
        name, args = value["name"], value.get("args") or {}
        if not isinstance(args, dict):
            problems.append(Problem(f"{where}.args", f"{shown(args)} is not a table of names and values."))
            return _BROKEN
    elif isinstance(value, str):
        name, args = value, {}
    else:
        problems.append(Problem(where, f"{shown(value)} is neither a name nor a table with `name` and `args`."))
        return _BROKEN
    short = SHORT_FORMS.get(where, {}).get(name)
    if short:
        return Choice(short[0], {**short[1], **args})
    return Choice(name, {**short_args, **{str(key): entry for key, entry in args.items()}})


def _short_pattern(value: Any) -> tuple[Any, dict[str, Any]]:
    """ "2:4" or {name: "2:4"} with the name that it stands for, and the settings."""
    if not isinstance(value, dict):
        return parse_pattern(value)
    if "name" not in value:
        return value, {}
    name, args = parse_pattern(value["name"])
    return {**value, "name": name}, args


def as_dict(config: Any) -> dict[str, Any]:
    """The config as plain tables and lists, for config.yaml."""
    return dataclasses.asdict(config)


def fingerprint(command: str, parts: Mapping[str, Any]) -> str:
    """A short hash of what a result depends on. Equal fingerprints mean the same work.

    A function of the user's own counts with what is in its file.
    """
    text = json.dumps({"command": command, **plugins.with_sources(parts)}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
