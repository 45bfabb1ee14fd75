"""Networks by name: the product's own, then torchvision's, then timm's, then `module:factory` of the user's."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from pruning_bootcamp import plugins
from pruning_bootcamp.errors import BootcampError, Problem, listed, nearest
from pruning_bootcamp.models import cnn as _cnn  # noqa: F401  its import registers the networks
from pruning_bootcamp.models import external, factory
from pruning_bootcamp.models.catalog import MODELS
from pruning_bootcamp.models.cnn import make_prunable
from pruning_bootcamp.plain import Plain

__all__ = [
    "MODELS",
    "build_model",
    "check_model",
    "factory_file",
    "is_factory",
    "make_prunable",
    "same_model",
    "structure_args",
]

is_factory = plugins.is_plugin
factory_file = factory.factory_file

_NONE: Mapping[str, Any] = MappingProxyType({})
_CHECKS: dict[str, Callable[[str, Mapping[str, Any], str], list[Problem]]] = {
    "bootcamp": lambda name, args, where: MODELS.check(name, args, where)[1],
    "torchvision": external.check_torchvision,
    "timm": external.check_timm,
    "factory": factory.check_factory,
}
_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "bootcamp": lambda name, *, classes, in_channels, args: MODELS[name](
        classes=classes, in_channels=in_channels, **MODELS.check(name, args, "model")[0]
    ),
    "torchvision": external.build_torchvision,
    "timm": external.build_timm,
    "factory": factory.build_factory,
}


def build_model(name: str, *, classes: int, in_channels: int = 3, args: Mapping[str, Plain] = _NONE) -> nn.Module:
    """The network `name` for images with `in_channels`, giving logits [n, classes], freshly initialised.

    A registered name wins over torchvision's, and that over timm's; `torchvision/NAME` and `timm/NAME` say which.
    torchvision and timm fetch published weights only when args has `weights`. BootcampError lists every problem.
    """
    problems = check_model(name, args)
    if classes < 1:
        problems.append(Problem("model", f"{classes} classes. At least 1 is needed."))
    if in_channels < 1:
        problems.append(Problem("model", f"{in_channels} input channels. At least 1 is needed."))
    if problems:
        raise BootcampError(*problems)
    source, bare = _locate(name)
    return _BUILDERS[source](bare, classes=classes, in_channels=in_channels, args=args)


def check_model(name: str, args: Mapping[str, Plain], where: str = "model") -> list[Problem]:
    """Every problem with the name and the arguments, before anything is built (a user's own module is imported)."""
    try:
        source, bare = _locate(name)
    except BootcampError as error:
        return [problem.under(f"{where}.name") for problem in error.problems]
    return _CHECKS[source](bare, args, where)


def structure_args(name: str, args: Mapping[str, Plain]) -> dict[str, Plain]:
    """The arguments that build the same structure without fetching published weights."""
    return external.without_weights(args) if _locate(name)[0] in ("torchvision", "timm") else dict(args)


def same_model(one: str, other: str) -> bool:
    """True when both names give the same builder: `resnet50` and `torchvision/resnet50`."""
    return _locate(one) == _locate(other)


def _locate(name: str) -> tuple[str, str]:
    """Where a name is looked up, and its name there; BootcampError with the nearest name of all sources."""
    if is_factory(name):
        return "factory", name
    if name in MODELS:
        return "bootcamp", name
    prefix, _, bare = name.partition("/") if "/" in name else (None, "", name)
    if prefix in (None, "torchvision") and external.is_torchvision(bare):
        return "torchvision", bare
    if prefix in (None, "timm") and external.is_timm(bare):
        return "timm", bare
    raise BootcampError(_unknown_model(name, prefixed=prefix is not None))


def _unknown_model(name: str, prefixed: bool) -> str:
    torchvision_names, timm_names = external.torchvision_names(), external.timm_names()
    options = [*MODELS, *torchvision_names, *timm_names]
    if prefixed:
        options = [f"torchvision/{known}" for known in torchvision_names] + [f"timm/{known}" for known in timm_names]
    close = nearest(name, options)
    hint = f" Did you mean '{close}'?" if close else ""
    timm = f"timm's {len(timm_names)}" if external.timm_installed() else f"timm's ({external.TIMM_MISSING})"
    return (
        f"unknown model '{name}'.{hint} Available: {listed(MODELS)}; torchvision's {len(torchvision_names)} "
        f"classifiers; {timm}; module:factory of your own, as in mynet.py:build."
    )
