"""How a network is built again: its builder, and the plain numbers in which a pruned one differs from a fresh one."""

import dataclasses
import math
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints.limits import bounded_building
from pruning_bootcamp.checkpoints.stored import Stored
from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.models import build_model, structure_args
from pruning_bootcamp.models.shortcuts import padded_shortcuts, replace_shortcuts
from pruning_bootcamp.models.silent import mute, mute_layers
from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.schema import Mismatch, coerce, shown
from pruning_bootcamp.tools.inputs import Inputs

# What every nn.Module has: state of torch's own, `training` among it, and nothing that pruning changes.
_INTERNAL = frozenset(vars(nn.Module()))
# Noted beside a module's attributes when its option A shortcut was replaced by the fixed convolution.
_REPLACED = "replaced_shortcut"
# Noted beside a module's attributes when a mute layer stands in its place.
_MUTE = "mute"
_LARGEST_INPUT = 2**26  # values; 4096 x 4096 in colour fits
_LATER = ("input_below",)  # files of earlier releases don't have it

Changes = dict[str, dict[str, Any]]


@dataclass
class Recipe:
    """What builds a network, and what its inputs look like."""

    model: str
    """a name that `build_model` knows"""
    args: dict[str, Any]
    classes: int
    in_channels: int
    input_shape: tuple[int, ...]
    """of images channels, height, width"""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    changes: Changes = field(default_factory=dict)
    """module path -> the plain attributes (out_channels, groups, num_heads, ...) that differ from a fresh build"""
    input_below: int | None = None
    """inputs are whole numbers (tokens) from 0 up and below this; None: fractions"""

    @property
    def inputs(self) -> Inputs:
        """The shape of one input, and below which number its tokens lie (None: they are fractions)."""
        return Inputs(self.input_shape, self.input_below)

    def as_dict(self) -> dict[str, Stored]:
        """As a file keeps it; what earlier releases did not know is left out where it says nothing."""
        found = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: value for name, value in found.items() if name not in _LATER or value is not None}


def recipe_from(content: Any) -> Recipe:
    """The recipe in a file, every field checked. Raises BootcampError."""
    if not isinstance(content, Mapping):
        raise BootcampError("the recipe is not a table of names and values.")
    hints = typing.get_type_hints(Recipe)
    problems, values = [], {}
    for item in dataclasses.fields(Recipe):
        try:
            values[item.name] = coerce(content[item.name], hints[item.name])
        except KeyError:
            if item.name not in _LATER:
                problems.append(f"the recipe lacks '{item.name}'.")
        except Mismatch as mismatch:
            problems.append(f"the recipe's '{item.name}': {mismatch}.")
    if not problems:
        problems = _implausible(Recipe(**values))
    if problems:
        raise BootcampError(*problems)
    return Recipe(**values)


def _implausible(recipe: Recipe) -> list[str]:
    """Sizes that no network here has: somebody would allocate an input of them."""
    problems = []
    sides = recipe.input_shape
    has_channels = len(sides) > 1 and recipe.input_below is None
    if min(sides, default=0) < 1 or math.prod(sides) > _LARGEST_INPUT:
        problems.append(f"the recipe's 'input_shape': {sides} is no shape of an input.")
    elif has_channels and sides[0] != recipe.in_channels:
        problems.append(f"the recipe's 'input_shape': {sides} is no image of {recipe.in_channels} channels.")
    if recipe.input_below is not None and not 1 <= recipe.input_below <= _LARGEST_INPUT:
        problems.append(f"the recipe's 'input_below': {recipe.input_below} is no number of tokens.")
    for name in ("mean", "std"):
        values = getattr(recipe, name)
        if len(values) not in (0, recipe.in_channels) or not all(map(math.isfinite, values)):
            problems.append(f"the recipe's '{name}': {shown(values)} is not a number for each of the channels.")
    if recipe.class_names and len(recipe.class_names) != recipe.classes:
        problems.append(f"the recipe's 'class_names': {len(recipe.class_names)} names for {recipe.classes} classes.")
    return problems


def fresh_model(recipe: Recipe) -> nn.Module:
    """The recipe's network as its builder makes it, without the changes. Fetches nothing; random state untouched."""
    args = structure_args(recipe.model, recipe.args)
    with preserved_rng():
        return build_model(recipe.model, classes=recipe.classes, in_channels=recipe.in_channels, args=args)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name (buffers that `state_dict` leaves out too); tied ones under each name."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def find_changes(model: nn.Module, recipe: Recipe) -> Changes:
    """What to set in a fresh build so that it computes what `model` computes, given the tensors.

    A network whose modules are not those of the fresh build can't be rebuilt: BootcampError names the first of them.
    """
    fresh = fresh_model(recipe)
    modules = dict(model.named_modules(remove_duplicate=False))
    replaced = [path for path in padded_shortcuts(fresh) if type(modules.get(path)) is nn.Conv2d]
    replace_shortcuts(fresh, replaced)
    muted = mute_layers(model)
    mute(fresh, [path for path in muted if _can_be_mute(fresh, path)])
    originals = dict(fresh.named_modules(remove_duplicate=False))
    _check_structure(modules, originals, recipe)
    changes: Changes = {path: {_REPLACED: True} for path in replaced}
    changes |= {path: {_MUTE: True} for path in muted}
    for path, module in modules.items():
        before = _plain_attributes(originals[path])
        after = _plain_attributes(module)
        differing = {key: value for key, value in after.items() if key not in before or not _same(before[key], value)}
        if differing:
            changes[path] = changes.get(path, {}) | differing
    return changes


def rebuild(recipe: Recipe, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network of `recipe` and its changes around `tensors`, which must be exactly its parameters and buffers.

    Shapes are those of the tensors. A parameter takes gradients when the fresh build's does. Raises BootcampError.
    """
    model = _built_for(recipe, tensors)
    _apply_changes(model, recipe)
    own = tensors_of(model)
    check_names(tensors, set(own), recipe)
    _check_kinds(tensors, own)
    _check_finite(tensors, own)
    for name, tensor in tensors.items():
        # the object stays, only what it holds is exchanged: whoever shares it (tied weights) sees the new values
        own[name].data = tensor
    _check_shapes(model, recipe)
    return model


def _built_for(recipe: Recipe, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The fresh network of a recipe that a file brought along, and that may say anything."""
    try:
        with bounded_building(tensors):
            return fresh_model(recipe)
    except BootcampError:
        raise
    except Exception as error:  # builders check what their authors thought of
        raise BootcampError(
            f"{recipe.model} can't be built with {shown(recipe.args)} for {recipe.classes} classes and "
            f"{recipe.in_channels} channels ({type(error).__name__}: {shown(str(error))}). Make the file again."
        ) from error


_SIZES = {
    nn.Linear: lambda m: (m.out_features, m.in_features),
    nn.Conv2d: lambda m: (m.out_channels, m.in_channels // m.groups, *m.kernel_size),
    nn.BatchNorm2d: lambda m: (m.num_features,),
}


def _check_shapes(model: nn.Module, recipe: Recipe) -> None:
    """Layers must say what their weights are: a factory that was edited since builds other widths."""
    for path, module in model.named_modules():
        size = _SIZES.get(type(module))
        weight = getattr(module, "weight", None)
        if size is None or not isinstance(weight, Tensor):
            continue
        try:
            wanted = size(module)
        except (TypeError, ArithmeticError):  # the recipe's changes set the numbers
            raise BootcampError(f"the recipe makes {path} of {recipe.model} a layer that can't be.") from None
        if tuple(weight.shape) != wanted:
            raise BootcampError(
                f"{path} of {recipe.model} is built for weights {wanted}, and the file holds "
                f"{tuple(weight.shape)}. Was the code that builds it changed since?"
            )


def check_names(names: Collection[str], needed: set[str], recipe: Recipe) -> None:
    """These are the names of the network's tensors; else a BootcampError with the first that are not, and how many."""
    missing, unexpected = sorted(needed - set(names)), sorted(set(names) - needed)
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(needed)} tensors are missing: {listed(missing, 3)}.")
    if unexpected:
        problems.append(f"{len(unexpected)} tensors belong to no part of it: {listed(unexpected, 3)}.")
    if problems:
        raise BootcampError(f"these are not the weights of {recipe.model}. {' '.join(problems)}")


def _check_structure(modules: Mapping[str, nn.Module], originals: Mapping[str, nn.Module], recipe: Recipe) -> None:
    missing, extra = sorted(set(originals) - set(modules)), sorted(set(modules) - set(originals))
    problems = []
    if missing:
        problems.append(f"it lacks {len(missing)} modules ({listed(missing, 3)})")
    if extra:
        problems.append(f"it has {len(extra)} others ({listed(extra, 3)})")
    for path in sorted(set(modules) & set(originals)):
        is_now, was = type(modules[path]).__qualname__, type(originals[path]).__qualname__
        if is_now != was:
            problems.append(f"{path or 'the network'} is {is_now}, not {was}")
            break
    if problems:
        raise BootcampError(
            f"this network can't be rebuilt from a fresh {recipe.model}: {'; '.join(problems)}. "
            "Give the recipe of this very network, or a module:factory that builds it."
        )


def _apply_changes(model: nn.Module, recipe: Recipe) -> None:
    paths = set(dict(model.named_modules(remove_duplicate=False)))
    if unknown_paths := set(recipe.changes) - paths:
        raise BootcampError(f"the recipe changes {listed(unknown_paths, 3)}, which {recipe.model} does not have.")
    replaced = [path for path, attributes in recipe.changes.items() if attributes.get(_REPLACED)]
    if wrong := set(replaced) - set(padded_shortcuts(model)):
        raise BootcampError(
            f"the recipe replaces the shortcuts {listed(wrong, 3)}, which {recipe.model} does not have."
        )
    replace_shortcuts(model, replaced)
    muted = [path for path, attributes in recipe.changes.items() if attributes.get(_MUTE)]
    if strange := [path for path in muted if not _can_be_mute(model, path)]:
        raise BootcampError(f"the recipe mutes {listed(strange, 3)}, no layers of {recipe.model} that can be.")
    mute(model, muted)
    for path, attributes in recipe.changes.items():
        module = model.get_submodule(path)
        for key, value in attributes.items():
            if key in (_REPLACED, _MUTE):
                continue
            # a file must not put a number in the place of a method or a parameter
            is_property = isinstance(getattr(type(module), key, None), property)
            if key in _INTERNAL or is_property or not _is_plain(value) or not _is_plain(getattr(module, key, None)):
                raise BootcampError(f"the recipe sets {path}.{key}, which is no plain attribute of {recipe.model}.")
            setattr(module, key, value)


def _can_be_mute(model: nn.Module, path: str) -> bool:
    found = dict(model.named_modules()).get(path)
    return isinstance(found, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)


def _plain_attributes(module: nn.Module) -> dict[str, Stored]:
    """Numbers, flags, texts and tuples of them that a module holds, without torch's own state."""
    return {
        key: tuple(value) if isinstance(value, torch.Size) else value
        for key, value in vars(module).items()
        if key not in _INTERNAL and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return type(value) in (tuple, list, torch.Size) and all(_is_plain(entry) for entry in value)
    return type(value) in (int, float, bool, str, type(None))


def _same(one: Any, other: Any) -> bool:
    """Equal in value and type: 1 is not True here, nan is nan, and 0.1 in a tuple counts like 0.1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def _check_kinds(tensors: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> None:
    """Fractions where the fresh build has them, whole numbers where it has those, each of an everyday type."""
    for name, tensor in tensors.items():
        allowed = _FRACTIONS if fresh[name].is_floating_point() else _WHOLE
        if tensor.dtype not in allowed and tensor.dtype != fresh[name].dtype:
            raise BootcampError(f"{name} is {tensor.dtype}, which can't stand for {fresh[name].dtype}.")


_FRACTIONS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def _check_finite(tensors: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> None:
    """No NaN or infinity, but where the fresh build has it too (an attention mask of -inf)."""
    problems = []
    for name, tensor in tensors.items():
        bad = ~torch.isfinite(tensor)
        if not bad.any():
            continue
        if fresh[name].shape == bad.shape and torch.equal(~torch.isfinite(fresh[name]), bad):
            continue
        problems.append(f"{name} holds {int(bad.sum())} values of {bad.numel()} that are not finite.")
    if problems:
        raise BootcampError(*problems[:3], *([f"So do {len(problems) - 3} others."] if len(problems) > 3 else []))
