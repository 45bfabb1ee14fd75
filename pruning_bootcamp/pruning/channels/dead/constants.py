"""Which numbers of a forward pass are the same whatever the network is given: they have their value, all others NaN.

A rule an operation, and none of them guesses: an operation without a rule gives numbers that vary as soon as one of
its inputs does.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map

from pruning_bootcamp.pruning.channels.refit.sites import NORMS, product_of
from pruning_bootcamp.pruning.layers.moments import Product


class Varying:
    """What depends on the input and can't hold a NaN: whole numbers, conditions."""


VARYING = Varying()
_aten = torch.ops.aten
_POINTWISE = frozenset(("relu6", "hardswish", "selu", "prelu", "rrelu", "square", "log_sigmoid"))
# What only moves numbers; a NaN goes with the place that it stands in.
_MOVES = frozenset(
    (
        *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "repeat"),
        *("permute", "transpose", "t", "movedim", "contiguous", "clone", "alias", "detach", "to", "_to_copy"),
        *("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "cat", "stack", "index_select"),
        *("flip", "roll", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "pad", "constant_pad_nd"),
    )
)
# What sums or compares numbers: the result varies where one of them does.
_GATHERS = frozenset(
    (
        *(f"{kind}_pool{dims}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for dims in (1, 2, 3)),
        *("max_pool2d_with_indices", "mean", "sum", "amax", "amin", "upsample_nearest1d", "upsample_nearest2d"),
        *("upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d", "upsample_trilinear3d"),
    )
)


def evaluate(node: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the operation gives, NaN where that depends on a NaN that it is given; for use by a Program."""
    given = list(tree_iter((args, dict(kwargs))))
    if any(isinstance(value, Varying) for value in given):
        return _all_vary(node)
    target, name = node.target, _name(node.target)
    if target is operator.getitem:
        return args[0][args[1]]
    tags = getattr(target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags and not (name.endswith("dropout") and not args[2]):
        return _all_vary(node)
    if not any(_varies(value).any() for value in given if isinstance(value, Tensor)):
        return target(*args, **kwargs)
    rule = _RULES.get(name)
    if rule is not None:
        return rule(node, *args, **kwargs)
    if name in _MOVES:
        return _checked(target(*args, **kwargs))
    if name in _GATHERS:
        return _gathered(node, *args, **kwargs)
    if torch.Tag.pointwise in tags or name in _POINTWISE:
        return _pointwise(node, *args, **kwargs)
    return _all_vary(node)


def evaluate_constants(node: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """As `evaluate`, where all that is known is a constant: one that holds for inputs of every height and width.

    One other than zero that meets the zeros of a padding varies, also where the network as it was traced has no border
    to show it.
    """
    result = evaluate(node, args, kwargs)
    border = _BORDERS.get(_name(node.target))
    if border is None or not isinstance(result, Tensor):
        return result
    return torch.where(border(node, *args, **kwargs), math.nan, result)


def uniform(values: Any, along: int) -> Tensor | None:
    """For each channel its value where that is the same at all places, else NaN; None: nothing of it is known."""
    if not isinstance(values, Tensor):
        return None
    places = values.movedim(along, 0).flatten(1)
    first = places[:, 0]
    near = 16 * torch.finfo(values.dtype).eps * first.abs()
    same = ((places - first[:, None]).abs() <= near[:, None]).all(1)
    return torch.where(same, first, math.nan)


def at_the_border(product: Product, weight: Tensor) -> Tensor:
    """The weight with zeros where it never meets the padding, whatever the input's height and width."""
    outside = torch.zeros(product.kernel, dtype=torch.bool)
    sides = zip(product.kernel, product.padding, product.dilation, strict=True)
    for dim, (length, (before, behind), apart) in enumerate(sides):
        taps = torch.arange(length)
        beyond = (taps * apart < before) | ((length - 1 - taps) * apart < behind)
        outside |= beyond.view([-1 if other == dim else 1 for other in range(outside.dim())])
    return weight * outside.to(weight)


def _name(target: Any) -> str:
    return getattr(target, "_opname", "")


def _varies(value: Tensor) -> Tensor:
    return value.isnan() if value.is_floating_point() else torch.zeros((), dtype=torch.bool)


def _known(value: Tensor) -> Tensor:
    return torch.where(value.isnan(), 0.0, value)


def _all_vary(node: Any) -> Any:
    """Of the shapes that the traced pass had."""

    def vary(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return VARYING
        shape = [int(length) for length in value.shape]
        return torch.full(shape, math.nan, dtype=value.dtype) if value.is_floating_point() else VARYING

    return tree_map(vary, node.meta["val"])


def _checked(result: Any) -> Any:
    """NaN became something else where the numbers are no fractions any more."""
    fractions = all(value.is_floating_point() for value in tree_iter(result))
    return result if fractions else VARYING


def _pointwise(node: Any, *args: Any, **kwargs: Any) -> Any:
    result = node.target(*args, **kwargs)
    if not isinstance(result, Tensor) or not result.is_floating_point():
        return _all_vary(node)
    varies = torch.zeros_like(result, dtype=torch.bool)
    for value in tree_iter((args, kwargs)):
        if isinstance(value, Tensor):
            varies = varies | _varies(value)
    return torch.where(varies, math.nan, result)


def _prelu(node: Any, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x.isnan(), math.nan, node.target(x, slope))


def _times(node: Any, one: Any, other: Any) -> Any:
    """Zero times anything is zero."""
    result = _pointwise(node, one, other)
    for factor in (one, other):
        if isinstance(factor, Tensor) and isinstance(result, Tensor):
            result = torch.where(factor == 0, 0.0, result)
    return result


def _gathered(node: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    result, varies = (node.target(value, *args, **kwargs) for value in (_known(x), x.isnan().to(x)))
    if isinstance(result, Tensor):
        return torch.where(varies > 0, math.nan, result)
    return [torch.where(varies[0] > 0, math.nan, result[0]), VARYING]  # maxima, and where they are


def _convolved(node: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any) -> Any:
    """A sum varies where something varies that it has a weight for."""
    if weight.isnan().any():
        return _all_vary(node)
    varies = node.target(x.isnan().to(x), _read(weight), None, *how)
    return torch.where(varies > 0.5, math.nan, node.target(_known(x), weight, bias, *how))


def _read(weight: Tensor) -> Tensor:
    return (weight != 0).to(weight)


def _convolution_border(node: Any, x: Tensor, weight: Tensor, *how: Any) -> Tensor:
    """Of each output channel whether a constant that it reads meets the padding, in images of some size."""
    product = product_of(node)
    assert product is not None
    dims = len(product.kernel)
    inner = replace(product, stride=(1,) * dims, padding=((0, 0),) * dims, dilation=(1,) * dims)
    holds = (_known(x) != 0).flatten(2).any(-1).view(*x.shape[:2], *[1] * dims)
    return inner.apply(holds.to(x).expand(-1, -1, *product.kernel), at_the_border(product, _read(weight)), None) > 0.5


def _transposed_border(node: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any) -> Tensor:
    """Each place is reached by other weights."""
    varies: Tensor = node.target((_known(x) != 0).to(x), _read(weight), None, *how)
    return varies > 0.5


def _average_border(node: Any, x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, *args: Any) -> Tensor:
    """The padding's zeros are averaged in, so that at the border a constant is another one."""
    pads = any(padding) if isinstance(padding, list | tuple) else padding
    divisor = args[2] if len(args) > 2 else None
    differs = (_known(x) != 0) if pads or divisor is not None else torch.zeros_like(x, dtype=torch.bool)
    varies: Tensor = node.target(differs.to(x), kernel, stride, padding, *args)
    return varies > 0


def _padding_border(node: Any, x: Tensor, pad: Any, *args: Any) -> Tensor:
    """Along padded heights and widths a channel is constant only where it is what it is padded with."""
    reflected = any(isinstance(word, str) and word != "constant" for word in args)
    value = next((number for number in args if isinstance(number, int | float)), 0)
    dims = [x.dim() - 1 - place // 2 for place, length in enumerate(pad) if length]
    places = [dim for dim in dims if dim >= 2]
    differs = torch.zeros_like(x) if reflected or not places else (_known(x) != value).to(x)
    beyond: Tensor = torch.constant_pad_nd(differs, pad, 0)
    return (beyond.amax(places, keepdim=True) if places else beyond) > 0


def _normalised_by_batches(node: Any, x: Tensor, *args: Any) -> Any:
    """Batch norm with statistics of its own: each channel scaled and shifted."""
    if _name(node.target) == "batch_norm" and args[4]:
        return _all_vary(node)
    result = node.target(x, *args)
    first = result if isinstance(result, Tensor) else result[0]
    first = _scaled(torch.where(x.isnan(), math.nan, first), args[0], args[1], 1)
    return first if isinstance(result, Tensor) else [first, *result[1:]]


def _normalised_by_layers(node: Any, x: Tensor, shape: Any, *args: Any) -> Any:
    """One feature that varies moves the mean of all; but where the scale is zero only the shift is left."""
    rows = x.isnan().flatten(x.dim() - len(shape)).any(-1).view(*x.shape[: x.dim() - len(shape)], *[1] * len(shape))
    result = torch.where(rows, math.nan, node.target(x, shape, *args))
    scale, shift = (*args[:2], None, None)[:2]
    if scale is None:
        return result
    return torch.where(scale == 0, torch.zeros_like(scale) if shift is None else shift, result)


def _normalised_by_groups(node: Any, x: Tensor, groups: int, *args: Any) -> Any:
    blocks = x.isnan().view(len(x), groups, -1).any(-1).repeat_interleave(x.shape[1] // groups, 1)
    places = blocks.view(*x.shape[:2], *[1] * (x.dim() - 2))
    scale, shift = (*args[:2], None, None)[:2]
    return _scaled(torch.where(places, math.nan, node.target(x, groups, *args)), scale, shift, 1)


def _normalised_alone(node: Any, x: Tensor, scale: Tensor | None, shift: Tensor | None, *args: Any) -> Any:
    """Instance norm: each channel of each input by itself."""
    varies = x.isnan().flatten(2).any(-1).view(*x.shape[:2], *[1] * (x.dim() - 2))
    return _scaled(torch.where(varies, math.nan, node.target(x, scale, shift, *args)), scale, shift, 1)


def _scaled(values: Tensor, scale: Tensor | None, shift: Tensor | None, along: int) -> Tensor:
    """Where the scale is zero the shift alone is left."""
    if scale is None:
        return values
    shape = [-1 if dim == along else 1 for dim in range(values.dim())]
    constant = torch.zeros_like(scale) if shift is None else shift
    return torch.where((scale == 0).view(shape), constant.view(shape), values)


_RULES: dict[str, Callable[..., Any]] = {
    "mul": _times,
    "prelu": _prelu,
    "dropout": lambda node, x, p, train: x,  # in eval mode: checked before
    "feature_dropout": lambda node, x, p, train: x,
    "alpha_dropout": lambda node, x, p, train: x,
    "linear": _convolved,
    **{f"conv{dims}d": _convolved for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": _convolved for dims in (1, 2, 3)},
    **{_name(norm): _normalised_by_batches for norm in NORMS},
    "layer_norm": _normalised_by_layers,
    "group_norm": _normalised_by_groups,
    "instance_norm": _normalised_alone,
}

# Where a constant other than zero would be another one near the border.
_BORDERS: dict[str, Callable[..., Tensor]] = {
    **{f"conv{dims}d": _convolution_border for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": _transposed_border for dims in (1, 2, 3)},
    **{f"avg_pool{dims}d": _average_border for dims in (1, 2, 3)},
    "pad": _padding_border,
    "constant_pad_nd": _padding_border,
}
