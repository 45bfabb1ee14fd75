"""Branches of an ONNX file that give zeros whatever they are given: taken out, and the sums that they go into too.

What a muted layer leaves behind. A runtime would make the zeros, add them, and leave its own layout for that.
"""

from collections import Counter
from typing import Any

_SAME = ("Relu", "Identity", "LeakyRelu")  # of zeros these make zeros


def drop_zero_branches(proto: Any) -> int:
    """How many sums were left out, of the file's main graph, which is changed in place; it computes what it did.

    Where `x + 0` is left out, a ReLU that follows is too if x is a ReLU's already.
    """
    import onnx

    graph = proto.graph
    if not any(node.op_type == "ConstantOfShape" for node in graph.node):
        return 0
    shapes = _shapes(onnx.shape_inference.infer_shapes(proto).graph)
    values = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    zeros: set[str] = set()
    instead: dict[str, str] = {}
    maker: dict[str, str] = {}
    dropped = 0
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
        (out, *_) = node.output
        maker[out] = node.op_type
        if node.op_type == "ConstantOfShape":
            value = next((one.t for one in node.attribute if one.name == "value"), None)
            if value is None or not onnx.numpy_helper.to_array(value).any():
                zeros.add(out)
        elif node.op_type in _SAME and node.input[0] in zeros:
            zeros.add(out)
        elif node.op_type == "BatchNormalization" and node.input[0] in zeros:
            shift = [values.get(node.input[place]) for place in (2, 3)]
            if all(one is not None and not onnx.numpy_helper.to_array(one).any() for one in shift):
                zeros.add(out)
        elif node.op_type == "Add" and zeros.issuperset(node.input):
            zeros.add(out)
        elif node.op_type == "Add" and len(zeros.intersection(node.input)) == 1 and out not in outputs:
            other = next(name for name in node.input if name not in zeros)
            if shapes.get(other) is not None and shapes.get(other) == shapes.get(out):
                instead[out] = other
                dropped += 1
        elif node.op_type == "Relu" and maker.get(node.input[0]) == "Relu" and out not in outputs:
            instead[out] = node.input[0]
    if dropped:
        _sweep(graph, outputs)
    return dropped


def _shapes(graph: Any) -> dict[str, tuple[Any, ...]]:
    """Tensor -> its sides, numbers or names; those that are not known are left out."""
    found = {}
    for one in [*graph.input, *graph.output, *graph.value_info]:
        sides = [side.dim_param or side.dim_value for side in one.type.tensor_type.shape.dim]
        if sides and all(sides):
            found[one.name] = tuple(sides)
    return found


def _sweep(graph: Any, outputs: set[str]) -> None:
    """Take out what nobody reads any more."""
    while True:
        read = Counter(name for node in graph.node for name in node.input)
        dead = [node for node in graph.node if not any(name in outputs or read[name] for name in node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    read = Counter(name for node in graph.node for name in node.input)
    for tensor in [tensor for tensor in graph.initializer if not read[tensor.name] and tensor.name not in outputs]:
        graph.initializer.remove(tensor)
    made = {name for node in graph.node for name in node.output}
    for one in [one for one in graph.value_info if one.name not in made]:
        graph.value_info.remove(one)
