"""torchvision's and timm's classifiers by name, for any number of classes and input channels."""

import importlib.util
import inspect
import os
import typing
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from pruning_bootcamp.errors import BootcampError, Problem, unknown
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.schema import accepts_anything

# torch.load then unpickles nothing but tensors: torchvision itself asks torch.hub for any pickle.
_TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
# What the engine passes itself, or what would fetch and open files behind the user's back.
_GIVEN = {
    "num_classes": "The number of classes comes from the data.",
    "in_chans": "The number of channels comes from the data.",
    "pretrained": "Write weights: DEFAULT for the published weights.",
    "pretrained_cfg": "Write weights: NAME for one of the published weights.",
    "pretrained_cfg_overlay": "Write weights: NAME for one of the published weights.",
    "checkpoint_path": "Open a file with --checkpoint FILE.",
    "cache_dir": "Set the environment variable HF_HOME instead.",
    "features_only": "A classifier is needed here.",
    "aux_logits": "Auxiliary classifiers are left out: one tensor of logits is what every command works with.",
}
# Their auxiliary heads return a tuple in training; scipy-style initialisation takes minutes.
_AUXILIARY = {"googlenet": (), "inception_v3": ("AuxLogits",)}

TIMM_MISSING = "timm is not installed; its models need: pip install 'pruning-bootcamp[timm]'"


def _library() -> Any:
    """torchvision's models, imported when one is asked for: that takes seconds."""
    import torchvision

    return torchvision.models


def torchvision_names() -> list[str]:
    """torchvision's image classifiers."""
    return _library().list_models(module=_library())


def timm_names() -> list[str]:
    """timm's models; none when it is not installed."""
    if not timm_installed():
        return []
    import timm

    return timm.list_models()


def timm_installed() -> bool:
    """Whether timm can be imported; it is not imported for that."""
    return importlib.util.find_spec("timm") is not None


def is_torchvision(name: str) -> bool:
    """Whether torchvision has an image classifier of that name."""
    return name in torchvision_names()


def is_timm(name: str) -> bool:
    """True for a name that timm can build, with or without a tag (`resnet18.a1_in1k`)."""
    if not timm_installed():
        return False
    import timm

    return timm.is_model(name)


def without_weights(args: Mapping[str, Plain]) -> dict[str, Any]:
    """The arguments that give the same structure, and fetch nothing."""
    return {key: value for key, value in args.items() if key != "weights"}


def check_torchvision(name: str, args: Mapping[str, Plain], where: str) -> list[Problem]:
    """Problems with the arguments of torchvision's `name`; nothing is built or fetched."""
    builder = _library().get_model_builder(name)
    network = typing.get_type_hints(builder)["return"]
    settings = [key for key in inspect.signature(network).parameters if key != "kwargs" and key not in _GIVEN]
    problems = []
    for key in args:
        if key in _GIVEN:
            problems.append(Problem(f"{where}.args.{key}", f"can't be set here. {_GIVEN[key]}"))
        elif key not in ("weights", *settings) and not accepts_anything(network):
            problems.append(Problem(f"{where}.args.{key}", unknown("setting", key, ["weights", *settings])))
    options = [weights.name for weights in _library().get_model_weights(name)]
    return problems + _check_weights(args, ["DEFAULT", *options], where)


def check_timm(name: str, args: Mapping[str, Plain], where: str) -> list[Problem]:
    """Problems with the arguments of timm's `name`; nothing is built or fetched."""
    import timm

    problems = [Problem(f"{where}.args.{key}", f"can't be set here. {_GIVEN[key]}") for key in args if key in _GIVEN]
    bare = name.partition(".")[0]
    tags = [found.partition(".")[2] for found in timm.list_pretrained(f"{bare}.*")]
    return problems + _check_weights(args, ["DEFAULT", *tags], where)


def _check_weights(args: Mapping[str, Plain], options: list[str], where: str) -> list[Problem]:
    weights = args.get("weights")
    if weights is None or weights in options:
        return []
    return [Problem(f"{where}.args.weights", unknown("weights", weights, options))]


def build_torchvision(name: str, *, classes: int, in_channels: int, args: Mapping[str, Any]) -> nn.Module:
    """torchvision's network; with `weights` the published ones, its head new where the classes differ."""
    settings = without_weights(args)
    weights = args.get("weights")
    if name in _AUXILIARY:
        settings |= {"init_weights": False} if weights is None else {}
        settings |= {"transform_input": False} if in_channels != 3 else {}  # it reads red, green and blue by number
    if weights is None:
        if name in _AUXILIARY:
            settings["aux_logits"] = False
        model = _call(_library().get_model_builder(name), name, {"num_classes": classes, **settings})
    else:
        chosen = _library().get_model_weights(name)[weights]
        published = len(chosen.meta["categories"])
        model = _fetch(lambda: _library().get_model(name, weights=chosen, **settings), name, weights)
        for head in _AUXILIARY.get(name, ()):
            setattr(model, head, None)
        if name in _AUXILIARY:
            setattr(model, "aux_logits", False)  # noqa: B010  nn.Module's own annotation knows tensors only
        if classes != published:
            _replace_head(model, published, classes)
    if in_channels != 3:
        _replace_stem(model, in_channels, keep_weights=weights is not None)
    return model


def build_timm(name: str, *, classes: int, in_channels: int, args: Mapping[str, Any]) -> nn.Module:
    """timm's network; with `weights` the published ones ("DEFAULT", or a tag as in `a1_in1k`)."""
    import timm

    weights = args.get("weights")
    settings = {"num_classes": classes, "in_chans": in_channels, **without_weights(args)}
    if weights is None:
        return _call(lambda **given: timm.create_model(name, **given), name, settings)
    tagged = name if weights == "DEFAULT" else f"{name.partition('.')[0]}.{weights}"
    return _fetch(lambda: timm.create_model(tagged, pretrained=True, **settings), name, weights)


def _call(builder: Callable[..., nn.Module], name: str, settings: Mapping[str, Plain]) -> nn.Module:
    try:
        return builder(**settings)
    except (TypeError, ValueError, AssertionError, KeyError, AttributeError, RuntimeError, ArithmeticError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise BootcampError(f"model {name} can't be built with {given}: {error}. Change model.args.") from error


def _fetch(build: Callable[[], nn.Module], name: str, weights: str) -> nn.Module:
    """The network with its published weights, which are opened as tensors alone, whatever the library asks for."""
    before = os.environ.get(_TENSORS_ONLY)
    os.environ[_TENSORS_ONLY] = "1"
    try:
        return build()
    except Exception as error:  # every library has its own kind for a network that is not there
        raise BootcampError(
            f"model {name}: the published weights '{weights}' could not be fetched and opened "
            f"({type(error).__name__}: {error}). Check the network, or leave model.args.weights out."
        ) from error
    finally:
        if before is None:
            os.environ.pop(_TENSORS_ONLY, None)
        else:
            os.environ[_TENSORS_ONLY] = before


def _replace_stem(model: nn.Module, in_channels: int, keep_weights: bool) -> None:
    """The first convolution on RGB takes `in_channels` instead; kept weights are spread evenly over them.

    Spread, so that a grey image in every channel gives what it gave as RGB.
    """
    stems = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3]
    assert stems, f"{type(model).__name__} has no convolution on 3 channels"
    path, old = stems[0]
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    if keep_weights:
        spread = old.weight.detach().sum(dim=1, keepdim=True) / in_channels
        new.weight = nn.Parameter(spread.expand_as(new.weight).clone())
        new.bias = old.bias
    model.set_submodule(path, new)


def _replace_head(model: nn.Module, published: int, classes: int) -> None:
    """The last layer with `published` outputs (linear, or SqueezeNet's convolution) is made anew for `classes`."""
    heads = [
        (path, module)
        for path, module in model.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == published)
        or (isinstance(module, nn.Conv2d) and module.out_channels == published)
    ]
    assert heads, f"{type(model).__name__} has no layer with {published} outputs"
    path, old = heads[-1]
    bias = old.bias is not None
    if isinstance(old, nn.Linear):
        model.set_submodule(path, nn.Linear(old.in_features, classes, bias=bias))
    else:
        model.set_submodule(path, nn.Conv2d(old.in_channels, classes, old.kernel_size, bias=bias))  # type: ignore[arg-type]
