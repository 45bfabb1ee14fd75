"""Weights so small that they cost time and do nothing: found, and set to zero, in a network and in an ONNX file.

Below 1.2e-38 a float32 number is subnormal, and some processors (Intel's) take many times as long for each product with
it: a network whose folding had made 17,439 of them took 30 times as long in onnxruntime. Batch norm makes them: a scale
that training has driven to 1e-37, folded into ordinary weights.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SMALLEST = 1e-30
"""what is smaller is set to zero: products with it, too, would be subnormal, and no output of a network shows it"""
_MOST_SHOWN = 3


def tiny_weights(model: nn.Module) -> dict[str, int]:
    """Parameter -> how many of its numbers are smaller than SMALLEST and not zero; those without any are left out."""
    found = {name: int(_tiny(weight).sum()) for name, weight in _weights(model)}
    return {name: count for name, count in found.items() if count}


def zero_tiny(model: nn.Module) -> dict[str, int]:
    """Set them to zero, in place, and say how many there were, as `tiny_weights`."""
    found = tiny_weights(model)
    with torch.no_grad():
        for name, weight in _weights(model):
            if name in found:
                weight.masked_fill_(_tiny(weight), 0)
    return found


def may_fold_to_tiny(model: nn.Module) -> bool:
    """Whether the product of any two numbers, by any batch norm's deviation, is below SMALLEST: else no folding is.

    A bound without a trace of the network: mostly the answer is no, and nothing else has to be done.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    widest = max((float(norm.running_var.max()) for norm in norms if norm.running_var is not None), default=0.0)
    sizes = [weight.detach().abs() for _, weight in _weights(model)]
    least = min((float(size[size > 0].min()) for size in sizes if bool((size > 0).any())), default=1.0)
    return min(least, 1.0) * least / max(1.0, 2 * widest) ** 0.5 < SMALLEST


def zero_tiny_in_file(proto: Any) -> dict[str, int]:
    """As `zero_tiny`, for the tensors of an ONNX model, in place.

    A weight counts as what a runtime makes of it: onnxruntime folds the factor behind a convolution into its weights.
    Single numbers stay: they are the code's (an epsilon), and some code divides by them.
    """
    from onnx import numpy_helper

    factors, found = _factors(proto.graph), {}
    for tensor in proto.graph.initializer:
        if tensor.data_type != 1 or not tensor.dims or np.prod(tensor.dims) == 1:  # 1: float32
            continue
        values = numpy_helper.to_array(tensor)
        tiny = (np.abs(values * factors.get(tensor.name, np.float32(1))) < SMALLEST) & (values != 0)
        if count := int(tiny.sum()):
            found[tensor.name] = count
            tensor.CopyFrom(numpy_helper.from_array(np.where(tiny, np.float32(0), values), tensor.name))
    return found


def _factors(graph: Any) -> dict[str, np.ndarray]:
    """Weight of a convolution -> the constants with which its outputs are multiplied, one for each of its filters."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    makers = {node.output[0]: node for node in graph.node if node.op_type == "Conv" and readers[node.output[0]] == 1}
    found = {}
    for node in graph.node:
        made = next((name for name in node.input if name in makers), None)
        if node.op_type != "Mul" or made is None:
            continue
        other = next((name for name in node.input if name != made), None)
        weight = constants.get(makers[made].input[1])
        if other not in constants or weight is None or readers[weight.name] > 1:
            continue
        factor = numpy_helper.to_array(constants[other])
        one_each = (1, weight.dims[0], *[1] * (len(weight.dims) - 2))
        if factor.size == 1 or (1,) * (len(one_each) - factor.ndim) + factor.shape == one_each:
            found[weight.name] = factor.reshape(-1, *one_each[2:], 1)
    return found


def tiny_text(counts: Mapping[str, int]) -> str:
    """`576 weights below 1e-30 (conv1.weight 576)`: how many, and the tensors that hold most of them."""
    most = sorted(counts, key=lambda name: -counts[name])
    named = [f"{name} {counts[name]:,}" for name in most[:_MOST_SHOWN]]
    named += [f"{len(most) - _MOST_SHOWN} more tensors"] if len(most) > _MOST_SHOWN else []
    total = sum(counts.values())
    return f"{total:,} weight{'' if total == 1 else 's'} below {SMALLEST:g} ({', '.join(named)})"


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.is_floating_point())


def _tiny(weight: Tensor) -> Tensor:
    return (weight.detach().abs() < SMALLEST) & (weight.detach() != 0)
