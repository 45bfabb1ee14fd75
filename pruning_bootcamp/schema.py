"""What a setting is: its type, its range, its default; one checker for sections and for registered functions."""

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pruning_bootcamp.errors import BootcampError, Problem, unknown

T = TypeVar("T")

LARGEST_INT = 2**63 - 1  # what torch, NumPy and every file format take


@dataclasses.dataclass
class Choice:
    """A registered name with its settings. `score: l1` is short for `score: {name: l1, args: {}}`."""

    name: str
    args: dict[str, Any] = dataclasses.field(default_factory=dict)


def choice(name: str, **args: Any) -> Any:
    """A field of a section that holds a Choice."""
    return dataclasses.field(default_factory=lambda: Choice(name, dict(args)))


def between(default: Any, low: float | None = None, high: float | None = None, bounds: str = "[]") -> Any:
    """A field whose value, unless None, lies between low and high; `bounds` "[)" leaves the upper end out. Of a
    mapping, every value does."""
    metadata = {"range": (low, high, bounds)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def out_of_range(value: Any, limits: tuple[float | None, float | None, str]) -> str | None:
    """Why a number, or a number of a mapping, does not lie in a range; None where it does, or is no number."""
    if isinstance(value, Mapping):
        found = ((key, out_of_range(one, limits)) for key, one in value.items())
        return next((f"{key}: {reason}" for key, reason in found if reason), None)
    low, high, bounds = limits
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    above = low is None or (value > low if bounds[0] == "(" else value >= low)
    below = high is None or (value < high if bounds[1] == ")" else value <= high)
    if above and below:  # nan is neither
        return None
    if high is None:
        return f"{value} is not {'above' if bounds[0] == '(' else 'at least'} {low}."
    share = f" Write {value / 100:g} for {value:g}%." if (low, high) == (0, 1) and 2 <= value < 100 else ""
    return f"{value} is not in {bounds[0]}{low}, {high}{bounds[1]}.{share}"


def check_ranges(section: Any, where: str = "") -> list[Problem]:
    """Every field of a section (a dataclass) whose value lies outside its range."""
    found = [
        (spec.name, out_of_range(getattr(section, spec.name), spec.metadata["range"]))
        for spec in dataclasses.fields(section)
        if "range" in spec.metadata
    ]
    return [Problem(f"{where}.{name}" if where else name, reason) for name, reason in found if reason]


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """Field -> the line under it that says what it does, as one line."""
    parsed = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(parsed, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in itertools.pairwise(parsed.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def named(kind: type[T], /, **values: Any) -> T:
    """A section as Python callers write it: `score="taylor", score_args={...}` for a field that holds a Choice."""
    hints, defaults = typing.get_type_hints(kind), kind()
    choices = [name for name, hint in hints.items() if Choice in (hint, *get_args(hint))]
    known = [*hints, *(f"{name}_args" for name in choices)]
    if wrong := [key for key in values if key not in known]:
        raise BootcampError(*(Problem(key, unknown("setting", key, known)) for key in wrong))
    for name in choices:
        args, given = values.pop(f"{name}_args", None), values.get(name)
        if given is not None and not isinstance(given, Choice):
            values[name] = Choice(given, dict(args or {}))
        elif args is not None:
            chosen = given or getattr(defaults, name)
            if chosen is None:
                raise BootcampError(Problem(f"{name}_args", f"are settings of no {name}: name one with them."))
            values[name] = Choice(chosen.name, dict(args))
    return kind(**values)


class Mismatch(ValueError):
    """The value does not fit the annotation; the text says what would."""


def shown(value: Any) -> str:
    """`value` as an error quotes it: a page of it would hide what the message says."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:150]}... ({len(text):,} characters)"


def coerce(value: Any, annotation: Any) -> Any:
    """`value` as the annotated type, when that loses nothing (1 -> 1.0, "1e-3" -> 0.001, [1, 2] -> (1, 2)).

    Raises Mismatch otherwise. A bool is never an int: YAML reads `off`, `no` and `yes` as booleans.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any or annotation is inspect.Parameter.empty:
        return value
    if origin in (Union, types.UnionType):
        return _coerce_union(value, arguments)
    if origin is Literal:
        for option in arguments:  # 1 == True == 1.0, and a bool is not meant by 1
            if type(option) is type(value) and option == value:
                return option
        raise Mismatch(unknown("value", value, [str(option) for option in arguments]))
    if origin in (list, tuple, set) or annotation in (list, tuple):
        return _coerce_sequence(value, origin or annotation, arguments)
    if origin in (dict, Mapping) or annotation is dict or origin is typing.get_origin(Mapping[str, Any]):
        if not isinstance(value, Mapping):
            raise Mismatch(f"{shown(value)} is not a table of names and values")
        item = arguments[1] if arguments else Any
        return {str(key): coerce(entry, item) for key, entry in value.items()}
    return _coerce_plain(value, annotation)


def _coerce_union(value: Any, options: tuple[Any, ...]) -> Any:
    if value is None and type(None) in options:
        return None
    for option in options:  # an exact type wins over a conversion: "3ep" stays text in int | str
        if isinstance(option, type) and type(value) is option:
            return value
    reasons = []
    for option in options:
        if option is type(None):
            continue
        try:
            return coerce(value, option)
        except Mismatch as mismatch:
            reasons.append(str(mismatch))
    raise Mismatch(" and ".join(dict.fromkeys(reasons)))


def _coerce_sequence(value: Any, kind: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple | set):
        raise Mismatch(f"{shown(value)} is not a list")
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise Mismatch(f"{shown(value)} has {len(value)} entries, not {len(arguments)}")
        return tuple(coerce(entry, item) for entry, item in zip(value, arguments, strict=True))
    item = arguments[0] if arguments else Any
    return kind(coerce(entry, item) for entry in value)


def _coerce_plain(value: Any, annotation: Any) -> Any:
    if annotation is bool:
        if isinstance(value, bool):
            return value
        raise Mismatch(f"{shown(value)} is not true or false")
    if annotation is int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Mismatch(f"{shown(value)} is not a whole number")
        if not -LARGEST_INT <= value <= LARGEST_INT:
            raise Mismatch(f"{shown(value)} is a whole number of more than 64 bits")
        return value
    if annotation is float:
        return _coerce_float(value)
    if annotation is str:
        if isinstance(value, str):
            return value
        raise Mismatch(f"{shown(value)} is not text (put it in quotes)")
    if isinstance(annotation, type) and isinstance(value, annotation):
        return value
    raise Mismatch(f"{shown(value)} is not {getattr(annotation, '__name__', annotation)}")


def _coerce_float(value: Any) -> float:
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 (no point) as text
        try:
            value = float(value)
        except ValueError:
            raise Mismatch(f"{shown(value)} is not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Mismatch(f"{shown(value)} is not a number")
    try:
        value = float(value)
    except OverflowError:
        raise Mismatch(f"{shown(value)} is too large") from None
    if math.isnan(value):
        raise Mismatch("nan is not a number")
    return value


@dataclasses.dataclass(frozen=True)
class Setting:
    """One keyword-only setting of a registered function."""

    name: str
    annotation: Any
    default: Any = dataclasses.MISSING

    @property
    def required(self) -> bool:
        """Whether it must be given: it has no default."""
        return self.default is dataclasses.MISSING


def settings_of(function: Callable[..., Any], given: tuple[str, ...] = ()) -> dict[str, Setting]:
    """The keyword-only settings that a user may set, without those that the engine gives itself."""
    target = function.__init__ if inspect.isclass(function) else function
    hints = typing.get_type_hints(target)
    settings = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in given:
            default = dataclasses.MISSING if parameter.default is inspect.Parameter.empty else parameter.default
            settings[name] = Setting(name, hints.get(name, Any), default)
    return settings


def accepts_anything(function: Callable[..., Any]) -> bool:
    """True when the function has **kwargs, so that unknown settings can't be judged here."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def check_settings(
    function: Callable[..., Any], arguments: Mapping[str, Any], given: tuple[str, ...] = (), where: str = "args"
) -> tuple[dict[str, Any], list[Problem]]:
    """The arguments in their right types, and every problem with them (`where.name: ...`)."""
    settings = settings_of(function, given)
    checked: dict[str, Any] = {}
    problems = []
    for name, value in arguments.items():
        if name not in settings:
            if accepts_anything(function):
                checked[name] = value
            else:
                problems.append(Problem(f"{where}.{name}", unknown("setting", name, settings)))
            continue
        try:
            checked[name] = coerce(value, settings[name].annotation)
        except Mismatch as mismatch:
            problems.append(Problem(f"{where}.{name}", f"{str(mismatch).rstrip('.')}."))
    for name, setting in settings.items():
        if setting.required and name not in arguments:
            problems.append(Problem(f"{where}.{name}", f"needed and not given. Add {where}.{name}=VALUE."))
    return checked, problems
