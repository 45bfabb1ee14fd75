"""Which weights are pruned: those that layers multiply by, chosen by patterns, each parameter once."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, Problem, unknown
from pruning_bootcamp.tools.metrics.kinds import BARE, FROZEN, other_weights, product_weights

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Targets:
    """The weights to prune, and those that are left out, each with the reason."""

    chosen: dict[str, nn.Parameter]
    left_out: dict[str, str]
    bare: frozenset[str] = frozenset()
    """of the chosen, those of which no layer says what their sides mean"""


def find_targets(
    model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """Name -> weight of every layer that multiplies by one (kinds.product_weights), in the model's order.

    A pattern with `*`, `?` or `[` is matched against the whole name, with or without its `.weight`; any other text
    matches wherever it occurs ("fc" takes fc1.weight too). Raises BootcampError when nothing is left to prune.
    """
    return choose_targets(model, include=include, exclude=exclude).chosen


def choose_targets(model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Targets:
    """As find_targets, and what is left out with the reason.

    A frozen weight among trainable ones is a constant of the network (a fixed shortcut), so it is left out unless
    `include` names it. Lookup tables and bare parameters are left out too, unless `include` names them themselves, and
    not just the part of the network that they are in. A parameter that two layers share is listed once, under its first
    name.
    """
    products, others = _all_weights(model)
    everything = products | {name: weight for name, (weight, _) in others.items()}
    if not products and not any(_is_named(name, include) for name in others):
        held = f" {_sizes(others)}. Name what to prune of them in include." if others else ""
        raise BootcampError(f"the model has no convolution or linear layer: there is nothing to prune.{held}")
    problems = [
        Problem(key, unknown("layer", pattern, [_layer(name) for name in everything]))
        for key, patterns in (("include", include), ("exclude", exclude))
        for pattern in patterns
        if not any(matches(name, pattern) for name in everything)
    ]
    if problems:
        raise BootcampError(*problems)
    some_train = any(weight.requires_grad for weight in products.values())
    chosen, left_out = {}, {}
    for name, weight in everything.items():
        excluded_by = next((pattern for pattern in exclude if matches(name, pattern)), None)
        if excluded_by is not None:
            left_out[name] = f"excluded by '{excluded_by}'"
        elif name in others:
            if _is_named(name, include):
                chosen[name] = weight
            else:
                left_out[name] = f"{weight.numel():,} weights, {others[name][1]}; name it in include to prune it"
        elif include and not any(matches(name, pattern) for pattern in include):
            left_out[name] = "not in include"
        elif not include and some_train and not weight.requires_grad:
            left_out[name] = f"{FROZEN}; name it in include to prune it"
        else:
            chosen[name] = weight
    if not chosen:
        raise BootcampError(
            f"include {list(include)} and exclude {list(exclude)} leave none of {len(products)} layers to prune."
        )
    return Targets(chosen, left_out, frozenset(name for name in chosen if name in others and others[name][1] == BARE))


def _is_named(name: str, include: Sequence[str]) -> bool:
    """Whether a pattern means this very weight: it would not fit any other name in the same place."""
    layer = _layer(name)
    other = f"{layer.rpartition('.')[0]}.\0{name.removeprefix(layer)}".lstrip(".")
    return any(matches(name, pattern) and not matches(other, pattern) for pattern in include)


def _sizes(others: Mapping[str, tuple[nn.Parameter, str]]) -> str:
    return "; ".join(f"{name} has {weight.numel():,} weights ({reason})" for name, (weight, reason) in others.items())


def check_layers(model: nn.Module, exclude: Sequence[str]) -> None:
    """Raise a BootcampError with every pattern that fits no layer with a weight."""
    check_patterns(
        exclude, [path for path, module in model.named_modules() if isinstance(getattr(module, "weight", None), Tensor)]
    )


def check_patterns(exclude: Sequence[str], layers: Sequence[str]) -> None:
    """Raise a BootcampError with every pattern that fits none of these layers."""
    problems = [
        Problem("exclude", unknown("layer", pattern, layers))
        for pattern in exclude
        if not any(matches(f"{path}.weight", pattern) for path in layers)
    ]
    if problems:
        raise BootcampError(*problems)


def matches(name: str, pattern: str) -> bool:
    """Whether a weight's name fits: as a wildcard pattern of the whole name, or as text that occurs in it."""
    if any(sign in pattern for sign in "*?["):
        return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(_layer(name), pattern)
    return pattern in name


def _layer(name: str) -> str:
    return name.removesuffix(".weight")


def _all_weights(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, tuple[nn.Parameter, str]]]:
    """The weights of layers by name; and the others that could be pruned, each with why it is not by itself."""
    products: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for attribute in product_weights(module):
            weight = getattr(module, attribute, None)
            if weight is not None and id(weight) not in seen:
                name = f"{path}.{attribute}".lstrip(".")
                products[name] = _plain(weight, name)
                seen.add(id(weight))
    others: dict[str, tuple[nn.Parameter, str]] = {}
    for path, module in model.named_modules():
        for attribute, reason in other_weights(module):
            weight = getattr(module, attribute)
            if isinstance(weight, nn.Parameter) and id(weight) not in seen:
                others[f"{path}.{attribute}".lstrip(".")] = weight, reason
                seen.add(id(weight))
    return products, others


def _plain(weight: object, name: str) -> nn.Parameter:
    if not isinstance(weight, nn.Parameter):
        raise BootcampError(
            f"{name}: the weight is computed from other parameters (torch.nn.utils.prune or a "
            "parametrization). Make it plain first: tools.pruning_utils.remove_pruning_reparameterization."
        )
    if isinstance(weight, nn.UninitializedParameter):
        raise BootcampError(f"{name}: a lazy layer has no weight yet. Run one batch through the model first.")
    return weight


def transposed_groups(model: nn.Module, name: str) -> int | None:
    """The groups of the transposed convolution that owns this weight; None for every other layer."""
    module = model.get_submodule(name.rpartition(".")[0])
    return int(module.groups) if isinstance(module, _TRANSPOSED) else None


def swap_channels(tensor: Tensor, groups: int | None) -> Tensor:
    """Between a weight as it is stored and [out, in / groups, *kernel], where `in` is what one output sums over.

    Only transposed convolutions are stored otherwise, as [in, out / groups, *kernel]: for them (`groups` given) the
    two are exchanged within each group. Its own inverse.
    """
    if groups is None:
        return tensor
    per_group = tensor.shape[0] // groups
    split = tensor.reshape(groups, per_group, *tensor.shape[1:])
    return split.transpose(1, 2).reshape(groups * tensor.shape[1], per_group, *tensor.shape[2:])
