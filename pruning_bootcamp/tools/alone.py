"""One layer by itself, at any widths, as a network that every backend takes: what it costs can be measured alone."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS: dict[int, Any] = {0: nn.Identity, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@dataclass(frozen=True)
class LayerShape:
    """What decides how long a convolution or linear layer takes: alike in two places, it takes as long in both.

    `size` is the input's without batch and channels: an image's sides, or the number of tokens. Of a linear layer
    `kernel` and what follows it are empty.
    """

    inputs: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = True

    def __str__(self) -> str:
        sides = "x".join(map(str, self.size))
        kind = f"convolution {'x'.join(map(str, self.kernel))}" if self.kernel else "linear layer"
        return f"{kind} {self.inputs} -> {self.outputs}{f' at {sides}' if sides else ''}"

    @property
    def depthwise(self) -> bool:
        """One filter, or several, of each input channel."""
        return self.groups > 1 and self.groups == self.inputs

    def at(self, inputs: int, outputs: int) -> "LayerShape":
        """The same layer with other widths; a depthwise one keeps its filters a channel, and `inputs` says how many."""
        if self.depthwise:
            return replace(self, inputs=inputs, outputs=inputs * (self.outputs // self.inputs), groups=inputs)
        return replace(self, inputs=inputs, outputs=outputs)


class LayerAlone(nn.Module):
    """`copies` of a layer side by side, each with a batch norm where it is a convolution, their sum through a ReLU.

    Several, because a runtime has to be called and has to lay its inputs out once for all of them.
    """

    def __init__(self, shape: LayerShape, copies: int = 1) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(_layer(shape) for _ in range(copies))
        self.norms = nn.ModuleList(_norm(shape) for _ in range(copies))
        self.act = nn.ReLU()

    def forward(self, batch: Tensor) -> Tensor:
        """The layers' outputs."""
        parts = [norm(layer(batch)) for layer, norm in zip(self.layers, self.norms, strict=True)]
        outputs: Tensor = self.act(sum(parts[1:], parts[0]))
        return outputs

    def example(self, batch: int) -> Tensor:
        """A batch for it."""
        shape, size = self.shape, self.shape.size
        sides = (batch, shape.inputs, *size) if shape.kernel else (batch, *size, shape.inputs)
        return torch.randn(sides, generator=torch.Generator().manual_seed(0))


def _layer(shape: LayerShape) -> nn.Module:
    if not shape.kernel:
        return nn.Linear(shape.inputs, shape.outputs, bias=shape.bias)
    look: dict[str, Any] = {"stride": shape.stride, "padding": shape.padding, "dilation": shape.dilation}
    return _CONVOLUTIONS[len(shape.kernel)](
        shape.inputs, shape.outputs, shape.kernel, groups=shape.groups, bias=shape.bias, **look
    )


def _norm(shape: LayerShape) -> nn.Module:
    return _NORMS[len(shape.kernel)](shape.outputs)


def onnx_of_layer(net: LayerAlone) -> bytes:
    """The network as an ONNX file, batch norms folded into the layers; in milliseconds, where torch takes seconds."""
    import onnx
    from onnx import helper, numpy_helper

    nodes, tensors, total = [], {}, ""
    layers: list[Any] = list(net.layers)
    norms: list[Any] = list(net.norms)
    for number, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
        weight, bias, out = f"weight{number}", f"bias{number}", f"out{number}"
        scale = 1 / (1 + norm.eps) ** 0.5 if net.shape.kernel else 1.0  # a fresh batch norm does nothing else
        tensors[weight] = layer.get_parameter("weight").detach() * scale
        tensors[bias] = torch.zeros(net.shape.outputs) if layer.bias is None else layer.bias.detach() * scale
        if isinstance(layer, nn.Linear):
            tensors[weight] = tensors[weight].t()
            nodes.append(helper.make_node("MatMul", ["input", weight], [f"products{number}"]))
            nodes.append(helper.make_node("Add", [f"products{number}", bias], [out]))
        else:
            look: dict[str, Any] = {
                "kernel_shape": layer.kernel_size,
                "strides": layer.stride,
                "dilations": layer.dilation,
            }
            look |= {"group": layer.groups, "pads": _pads(layer)}
            nodes.append(helper.make_node("Conv", ["input", weight, bias], [out], **look))
        if total:
            nodes.append(helper.make_node("Add", [total, out], [f"sum{number}"]))
        total = f"sum{number}" if total else out
    nodes.append(helper.make_node("Relu", [total], ["output"]))
    sides = net.example(1).shape
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", *sides[1:]])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [None] * len(sides))],
        [numpy_helper.from_array(tensor.contiguous().numpy(), name) for name, tensor in tensors.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    content: bytes = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return content


def _pads(layer: nn.modules.conv._ConvNd) -> list[int]:
    """Before and after each dimension, as ONNX has them."""
    if layer.padding == "valid":
        return [0] * 2 * len(layer.kernel_size)
    if layer.padding == "same":
        totals = [dilation * (kernel - 1) for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [total // 2 for total in totals] + [total - total // 2 for total in totals]
    return [int(side) for side in layer.padding] * 2


def shape_of(layer: nn.Module, given: Tensor) -> LayerShape | None:
    """What such a layer costs time for, when it is given such a batch; None: it is no layer that can stand alone."""
    if isinstance(layer, nn.Linear):
        return LayerShape(layer.in_features, layer.out_features, tuple(given.shape[1:-1]), bias=layer.bias is not None)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return None
    return LayerShape(
        layer.in_channels,
        layer.out_channels,
        tuple(given.shape[2:]),
        layer.kernel_size,
        layer.stride,
        layer.padding if isinstance(layer.padding, str) else tuple(layer.padding),
        layer.dilation,
        layer.groups,
        layer.bias is not None,
    )
