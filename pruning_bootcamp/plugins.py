"""What users bring: `module:function` or `path/name.py:function` where a name can stand, and packages' entry points."""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from pruning_bootcamp.errors import BootcampError, nearest, unknown
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.runs import content_hash, siblings
from pruning_bootcamp.shorthand import comma_separated

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

F = TypeVar("F", bound=Callable[..., Any])

GROUPS = "pruning_bootcamp."
"""Entry points of `pruning_bootcamp.scores` are scores, and so on"""

GIVEN = "given"
_offered: dict[str, Callable[..., Any]] = {}
_FORM = re.compile(r"[\w./\\~-]+:[A-Za-z_]\w*")
_NAMED_BY = ("name", "format", "backend")  # the keys of a config under which a name can stand


def facts(**said: Any) -> Callable[[F], F]:
    """Decorator: what the engine must know of a function of yours, as `@facts(needs=("grad",))` of a score."""

    def add(function: F) -> F:
        function.facts = said  # type: ignore[attr-defined]
        return function

    return add


def is_plugin(name: object) -> bool:
    """Whether a name is of the form module:function (nothing is imported to see that)."""
    return isinstance(name, str) and ":" in name


def short_name(name: str) -> str:
    """`function` of path/name.py:function: what a folder can be named by; other names as they are."""
    return name.rpartition(":")[2]


def source_of(function: Callable[..., Any]) -> Path:
    """The file that a function stands in: what a result depends on beside the function's settings."""
    return Path(inspect.getsourcefile(inspect.unwrap(function)) or __file__)


def with_sources(settings: Any) -> Any:
    """Settings for a fingerprint: behind each name of a user's own function, the hash of the file that it stands in."""
    if isinstance(settings, Mapping):
        return {
            key: _with_hashes(value) if key in _NAMED_BY else with_sources(value) for key, value in settings.items()
        }
    return [_with_hashes(value) for value in settings] if isinstance(settings, list | tuple) else settings


def _with_hashes(names: Any) -> Any:
    """One name, or several with commas; what is no name, or can't be found, as it is."""
    if not isinstance(names, str):
        return with_sources(names)
    found = []
    for name in comma_separated(names):
        with contextlib.suppress(BootcampError):  # said by the check of the config
            functions = [find(name)] if _FORM.fullmatch(name) else []
            functions += [load(point) for point in installed() if point.name == name]
            found += [f" {content_hash(source_of(function))}" for function in functions]
    return names + "".join(found)


def beside(folder: Path, settings: Any) -> Any:
    """Settings of a config in `folder`: names of files that lie there, and not in the current folder, with the path."""
    if isinstance(settings, Mapping):
        return {key: beside(folder, value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [beside(folder, value) for value in settings]
    if not isinstance(settings, str) or not _FORM.fullmatch(settings):
        return settings
    source, _, attribute = settings.rpartition(":")
    file = Path(source if source.endswith(".py") else f"{source.replace('.', '/')}.py")
    return f"{folder / file}:{attribute}" if not file.is_file() and (folder / file).is_file() else settings


def installed(group: str | None = None) -> list["EntryPoint"]:
    """Entry points of one of our groups, or of all of them; none is loaded."""
    points = _installed(tuple(sys.path))
    return [point for point in points if group is None or point.group == f"{GROUPS}{group}"]


@functools.cache
def _installed(path: tuple[str, ...]) -> list["EntryPoint"]:
    from importlib.metadata import entry_points  # --help must be quick

    points = entry_points()
    return [point for group in points.groups if group.startswith(GROUPS) for point in points.select(group=group)]


def load(point: "EntryPoint") -> Callable[..., Any]:
    """The function of an entry point. BootcampError when its package can't be imported, or has no such function."""
    origin = f"{point.name} of {point.dist.name if point.dist else point.group} ({point.value})"
    with _import_errors(origin):
        function = point.load()
    if not callable(function):
        raise BootcampError(f"{origin}: is {type(function).__name__}, not a function.")
    return function  # type: ignore[no-any-return]


@contextlib.contextmanager
def offered(**functions: Callable[..., Any]) -> Iterator[None]:
    """Inside, `given:NAME` names each of these functions wherever a name can stand: objects of a notebook's own."""
    names = {f"{GIVEN}:{name}": function for name, function in functions.items()}
    if taken := names.keys() & _offered.keys():
        raise BootcampError(f"{min(taken)}: another call is using this name. One after the other.")
    _offered.update(names)
    try:
        yield
    finally:
        for name in names:
            del _offered[name]


def is_offered(name: str) -> bool:
    """Whether a name is that of an object of this process, which no other process can find."""
    return name.partition(":")[0] == GIVEN


def find(name: str, kind: str | None = None, word: str = "function") -> Callable[..., Any]:
    """The function or class that `module:function` or `path/name.py:function` names, its module imported.

    With a `kind` (score, model) it is said that code of the user's runs; `word` (factory) is what messages call it.
    """
    if name in _offered:
        return _offered[name]
    source, _, attribute = name.rpartition(":")
    if source == GIVEN:
        raise BootcampError(f"{name}: was an object in Python, and can only be opened where it is given again.")
    if not source or not attribute.isidentifier():
        raise BootcampError(f"'{name}' is not module:{word}. Write mynet:build or nets/mynet.py:build.")
    if source.partition(".")[0] in sys.stdlib_module_names:  # os:system builds no network
        raise BootcampError(f"{name}: {source} is Python's own. A file of yours is named {source}.py:{attribute}.")
    module = _import_file(Path(source), name) if source.endswith(".py") else _import_module(source, name, word)
    function = getattr(module, attribute, None)
    if function is None:
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise BootcampError(f"{source}: {unknown(word, attribute, own)}")
    if not callable(function):
        raise BootcampError(f"{name}: is {type(function).__name__}, not a function.")
    if kind is not None:
        _announce(kind, name, getattr(module, "__file__", "?"))
    return function  # type: ignore[no-any-return]


def described(error: BaseException) -> str:
    """`ZeroDivisionError: division by zero (mynet.py, line 3)`: where the user's code went wrong."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parent)
    own = [frame for frame in frames if not frame.filename.startswith((ours, "<frozen"))]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


def folder_of(name: str) -> Path:
    """Where the imports of a user's function are looked for first."""
    source = name.rpartition(":")[0]
    return Path(source).parent if source.endswith(".py") else Path.cwd()


@contextlib.contextmanager
def importable_from(folder: Path) -> Iterator[None]:
    """Inside, modules in `folder` come first, as when Python runs a script there."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def _import_module(source: str, name: str, word: str) -> ModuleType:
    if source in sys.modules:
        return sys.modules[source]
    with importable_from(Path.cwd()), _import_errors(name):
        try:
            module = importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{source}.".startswith(f"{error.name}."):
                raise  # found, and something that it imports is missing
            close = nearest(source, [path.stem for path in Path.cwd().glob("*.py")])
            hint = f" Did you mean '{close}:{name.rpartition(':')[2]}'?" if close else ""
            raise BootcampError(
                f"{name}: there is no module '{error.name}', neither in {Path.cwd()} nor installed.{hint} "
                f"A file elsewhere is named path/to/file.py:{word}."
            ) from None
    return module


def _import_file(path: Path, name: str) -> ModuleType:
    if not path.is_file():
        raise BootcampError(f"{name}: there is no file {path}. {siblings(path)}")
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]
    key = f"{path.stem}_{digest}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        with importable_from(path.parent), _import_errors(name):
            spec.loader.exec_module(module)
    except BootcampError:
        del sys.modules[key]
        raise
    return module


@contextlib.contextmanager
def _import_errors(name: str) -> Iterator[None]:
    try:
        yield
    except BootcampError:
        raise
    except (Exception, SystemExit) as error:
        raise BootcampError(f"{name}: the import failed with {described(error)}.") from error


@functools.cache
def _announce(kind: str, name: str, file: str) -> None:
    """Said once, also of a module that something else had imported already."""
    LOGGER.warning("%s: running your own code, %s from %s", kind.capitalize(), name, file)
