"""Data written down by its names, and read again: the way of every result into a file and back.

What a file holds that its class does not know (another version wrote it) is kept in `more` and written again.
"""

import dataclasses
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.schema import Mismatch, coerce, shown

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
"""what a YAML file may hold"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a file of results. A figure that is None is not known, and is not written.

    But a figure without a default is always written, as null where it is None; and so is one that stands `beside`
    another, where that is known.
    """

    more: dict[str, Plain] = field(default_factory=dict, repr=False)
    """what else stands in the file"""


def beside(name: str) -> Any:
    """A figure that is written, as null if need be, wherever the figure `name` is."""
    return field(default=None, metadata={"beside": name})


Kind = TypeVar("Kind", bound=Part)


def to_plain(part: Part) -> dict[str, Plain]:
    """The names and values that a file holds, in the order of the fields; `more` comes last."""
    written = {}
    for one in _fields(type(part)):
        value = getattr(part, one.name)
        if value is not None or _is_always_written(one, part):
            written[one.name] = _plain(value)
    return written | part.more


def from_plain(kind: type[Kind], content: object, where: str | None = None) -> Kind:
    """The part that a file's table holds; a BootcampError names every value that is none of its kind, at `where`."""
    problems: list[str] = []
    part = _read_part(kind, content, "", problems)
    if part is None or problems:
        raise BootcampError(*problems, where=where)
    return part


def _fields(kind: type[Part]) -> Iterator[Any]:
    return (one for one in dataclasses.fields(kind) if one.name != "more")


def _is_always_written(one: Any, part: Part) -> bool:
    if "beside" in one.metadata:
        return getattr(part, one.metadata["beside"]) is not None
    return _has_no_default(one)


def _has_no_default(one: Any) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Plain:
    if isinstance(value, Part):
        return to_plain(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value  # type: ignore[no-any-return]


def _read_part(kind: type[Kind], content: object, where: str, problems: list[str]) -> Kind | None:
    if not isinstance(content, Mapping):
        problems.append(f"{where or 'the file'}: {shown(content)} is not a table of names and values")
        return None
    before, prefix, hints = len(problems), f"{where}." if where else "", get_type_hints(kind)
    more = {str(key): value for key, value in content.items()}
    known: dict[str, Any] = {}
    for one in _fields(kind):
        name, hint = one.name, hints[one.name]
        if more.get(name) is not None:
            known[name] = _read(more.pop(name), hint, prefix + name, problems)
        elif _has_no_default(one):
            more.pop(name, None)
            known[name] = None
            if type(None) not in get_args(hint):
                problems.append(f"{prefix}{name}: is missing")
        elif content.get(one.metadata.get("beside")) is not None:
            more.pop(name, None)
        # a null that the class itself would not write stays in `more`
    return kind(**known, more=more) if len(problems) == before else None


def _read(value: Any, hint: Any, where: str, problems: list[str]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if any(get_origin(option) is dict for option in arguments) and type(None) in arguments and len(arguments) > 2:
            return value  # Plain: whatever a file may hold
        options = [option for option in arguments if option is not type(None)]
        if len(options) == 1:
            return _read(value, options[0], where, problems)
    if isinstance(hint, type) and issubclass(hint, Part):
        return _read_part(hint, value, where, problems)
    if origin is tuple and arguments[-1] is Ellipsis and isinstance(value, list | tuple):
        return tuple(_read(inner, arguments[0], f"{where}[{n}]", problems) for n, inner in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {
            _read(key, arguments[0], f"{where}: the name {key}", problems): _read(
                inner, arguments[1], f"{where}.{key}", problems
            )
            for key, inner in value.items()
        }
    try:
        found = coerce(value, hint)
    except Mismatch as mismatch:
        problems.append(f"{where}: {mismatch}")
        return None
    if isinstance(found, float) and not math.isfinite(found):
        problems.append(f"{where}: {found} is not a finite number")
    return found
