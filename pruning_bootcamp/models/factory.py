"""`module:factory` of the user's own: `mynet:build` (importable from the current folder) or `nets/mynet.py:build`."""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from pruning_bootcamp.errors import BootcampError, Problem, nearest, unknown
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.runs import siblings
from pruning_bootcamp.schema import accepts_anything

_GIVEN = ("classes", "in_channels")


def is_factory(name: str) -> bool:
    return ":" in name


def factory_file(name: str) -> Path:
    """The source file of the user's factory: what a network depends on beside its arguments."""
    return Path(inspect.getsourcefile(inspect.unwrap(_find(name))) or __file__)


def check_factory(name: str, args: Mapping[str, Any], where: str) -> list[Problem]:
    """Problems with the user's factory or its arguments. Imports the user's module, calls nothing."""
    try:
        factory = _find(name)
    except BootcampError as error:
        return [problem.under(f"{where}.name") for problem in error.problems]
    if accepts_anything(factory):
        return []
    parameters = inspect.signature(factory).parameters
    settings = [key for key in parameters if key not in _GIVEN]
    problems = []
    for key in args:
        if key in _GIVEN:
            problems.append(Problem(f"{where}.args.{key}", "can't be set here, it comes from the data."))
        elif key not in settings:
            problems.append(Problem(f"{where}.args.{key}", f"{unknown(f'setting of {name}', key, settings)}"))
    for key in settings:
        if parameters[key].default is inspect.Parameter.empty and key not in args:
            kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            if parameters[key].kind not in kinds:
                problems.append(
                    Problem(f"{where}.args.{key}", f"needed by {name} and not given. Add {where}.args.{key}=VALUE.")
                )
    return problems


def build_factory(name: str, *, classes: int, in_channels: int, args: Mapping[str, Any]) -> nn.Module:
    """What the user's factory returns; `classes` and `in_channels` are passed when its signature takes them."""
    factory = _find(name)
    offered = {"classes": classes, "in_channels": in_channels}
    takes = inspect.signature(factory).parameters
    given = {key: value for key, value in offered.items() if key in takes or accepts_anything(factory)}
    with _importable_from(_folder(name)):
        try:
            model = factory(**given, **args)
        except Exception as error:
            raise BootcampError(f"model {name}: the factory failed with {_described(error)}.") from error
    if not isinstance(model, nn.Module):
        raise BootcampError(f"model {name}: returned {type(model).__name__}, and a torch.nn.Module is needed.")
    return model


def _find(name: str) -> Callable[..., Any]:
    """The function or class that `name` names, its module imported."""
    source, _, attribute = name.rpartition(":")
    if not source or not attribute.isidentifier():
        raise BootcampError(f"'{name}' is not module:factory. Write mynet:build or nets/mynet.py:build.")
    if source.partition(".")[0] in sys.stdlib_module_names:  # os:system builds no network
        raise BootcampError(f"{name}: {source} is Python's own. A file of yours is named {source}.py:{attribute}.")
    module = _import_file(Path(source), name) if source.endswith(".py") else _import_module(source, name)
    factory = getattr(module, attribute, None)
    if factory is None:
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise BootcampError(f"{source}: {unknown('factory', attribute, own)}")
    if isinstance(factory, nn.Module) or not callable(factory):
        what = "a network" if isinstance(factory, nn.Module) else type(factory).__name__
        raise BootcampError(f"{name}: is {what}, not a function that returns one. Write def build(classes): ...")
    _announce(name, getattr(module, "__file__", "?"))
    return factory


def _import_module(source: str, name: str) -> ModuleType:
    if source in sys.modules:
        return sys.modules[source]
    with _importable_from(Path.cwd()), _import_errors(name):
        try:
            module = importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{source}.".startswith(f"{error.name}."):
                raise  # found, and something that it imports is missing
            close = nearest(source, [path.stem for path in Path.cwd().glob("*.py")])
            hint = f" Did you mean '{close}:{name.rpartition(':')[2]}'?" if close else ""
            raise BootcampError(
                f"{name}: there is no module '{error.name}', neither in {Path.cwd()} nor installed.{hint} "
                "A file elsewhere is named path/to/file.py:factory."
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
        with _importable_from(path.parent), _import_errors(name):
            spec.loader.exec_module(module)
    except BootcampError:
        del sys.modules[key]
        raise
    return module


def _folder(name: str) -> Path:
    source = name.rpartition(":")[0]
    return Path(source).parent if source.endswith(".py") else Path.cwd()


@contextlib.contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    """Inside, modules in `folder` come first, as when Python runs a script there."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


@contextlib.contextmanager
def _import_errors(name: str) -> Iterator[None]:
    try:
        yield
    except BootcampError:
        raise
    except (Exception, SystemExit) as error:
        raise BootcampError(f"{name}: the import failed with {_described(error)}.") from error


def _described(error: BaseException) -> str:
    """`ZeroDivisionError: division by zero (mynet.py, line 3)`: where the user's code went wrong."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


@functools.cache
def _announce(name: str, file: str) -> None:
    """Said once, also of a module that something else had imported already."""
    LOGGER.warning("Model: running your own code, %s from %s", name, file)
