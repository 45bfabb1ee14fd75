"""`module:factory` of the user's own: `mynet:build` (importable from the current folder) or `nets/mynet.py:build`."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pruning_bootcamp import plugins
from pruning_bootcamp.errors import BootcampError, Problem, unknown
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.schema import accepts_anything

_GIVEN = ("classes", "in_channels")


def factory_file(name: str) -> Path:
    """The source file of the user's factory: what a network depends on beside its arguments."""
    return plugins.source_of(_find(name))


def check_factory(name: str, args: Mapping[str, Plain], where: str) -> list[Problem]:
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
            problems.append(Problem(f"{where}.args.{key}", unknown(f"setting of {name}", key, settings)))
    for key in settings:
        if parameters[key].default is inspect.Parameter.empty and key not in args:
            kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            if parameters[key].kind not in kinds:
                problems.append(
                    Problem(f"{where}.args.{key}", f"needed by {name} and not given. Add {where}.args.{key}=VALUE.")
                )
    return problems


def build_factory(name: str, *, classes: int, in_channels: int, args: Mapping[str, Plain]) -> nn.Module:
    """What the user's factory returns; `classes` and `in_channels` are passed when its signature takes them."""
    factory = _find(name)
    offered = {"classes": classes, "in_channels": in_channels}
    takes = inspect.signature(factory).parameters
    given = {key: value for key, value in offered.items() if key in takes or accepts_anything(factory)}
    with plugins.importable_from(plugins.folder_of(name)):
        try:
            model = factory(**given, **args)
        except Exception as error:
            raise BootcampError(f"model {name}: the factory failed with {plugins.described(error)}.") from error
    if not isinstance(model, nn.Module):
        raise BootcampError(f"model {name}: returned {type(model).__name__}, and a torch.nn.Module is needed.")
    return model


def _find(name: str) -> Callable[..., Any]:
    """The function or class that `name` names, its module imported."""
    factory = plugins.find(name, kind="model", word="factory")
    if isinstance(factory, nn.Module):
        raise BootcampError(f"{name}: is a network, not a function that returns one. Write def build(classes): ...")
    return factory
