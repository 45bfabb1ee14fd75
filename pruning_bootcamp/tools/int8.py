"""An ONNX file in int8: pairs of quantize and dequantize (QDQ) around what is computed in integers."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.runs import scratch_folder
from pruning_bootcamp.tools.programs import FORMAT, exporting

_BATCH_VALUES = 2**22
_LEFT_OUT = ("Slice", "Pad", "Where", "Softmax")
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": -1}  # of the weight; a Gemm's may be transposed


@dataclass(frozen=True)
class Int8File:
    """The file in int8, the tensors that were quantised, and what was done otherwise than usual, in words."""

    proto: Any
    whole: dict[str, np.ndarray]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight of an int8 file: `axis` is the one along which its layer's outputs are, `scales` those it has."""

    name: str
    integers: np.ndarray
    scales: np.ndarray
    axis: int

    @property
    def per_channel(self) -> bool:
        """Whether each output has a scale of its own."""
        return self.scales.shape == (self.integers.shape[self.axis],)

    def filled(self, values: np.ndarray) -> np.ndarray:
        """True for each output with a number other than 0 in these values, which are of the weight's shape."""
        return np.asarray(np.moveaxis(values, self.axis, 0).reshape(values.shape[self.axis], -1).any(axis=1))


def quantized_weights(proto: Any) -> list[QuantizedWeight]:
    """The int8 weights of the file's convolutions and linear layers, under the names that they had in float32."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    reader = {node.input[1]: node for node in proto.graph.node if node.op_type in _OUTPUT_AXIS}
    found = []
    for node in proto.graph.node:
        layer, tensor = reader.get(node.output[0]), tensors.get(node.input[0])
        if node.op_type != "DequantizeLinear" or layer is None or tensor is None or len(tensor.dims) < 2:
            continue
        axis = _OUTPUT_AXIS[layer.op_type]
        if layer.op_type == "Gemm" and any(one.name == "transB" and one.i for one in layer.attribute):
            axis = 0
        integers, scales = (numpy_helper.to_array(tensors[name]) for name in node.input[:2])
        found.append(QuantizedWeight(tensor.name.removesuffix("_quantized"), integers, scales, axis % integers.ndim))
    return found


def int8_file(
    content: bytes, images: Tensor, reduce_range: bool = True, where: str = "export", instead: str = FORMAT
) -> Int8File:
    """The float32 ONNX file in int8, the ranges of its activations those that `images` come to.

    Weights are symmetric and have a scale per channel; `reduce_range` gives them 7 bits. Activations are unsigned: of
    signed ones ONNX Runtime computes half the convolutions in float32 on x86.
    """
    with exporting("int8 ONNX", where, instead), scratch_folder() as folder:
        return _quantized(content, images, folder, reduce_range, where, instead)


def _quantized(content: bytes, images: Tensor, folder: Path, reduce_range: bool, where: str, instead: str) -> Int8File:
    """Whatever is written on the way goes to `folder`."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(images.split(max(1, min(64, _BATCH_VALUES // images[0].numel()))))

        def get_next(self) -> dict | None:
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch.numpy()}

    given, prepared, written = folder / "given.onnx", folder / "prepared.onnx", folder / "written.onnx"
    given.write_bytes(content)
    notes = []
    try:
        quant_pre_process(given, prepared, auto_merge=True)
    except Exception as error:  # noqa: BLE001  # it raises that very class too; F.normalize makes it a TypeError
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        notes.append(f"quantised without ONNX Runtime's symbolic shape inference, which fails here ({reason})")
    graph = onnx.load(prepared).graph
    # its scales per channel have no place for the groups (onnxruntime 1.31: could not be broadcast together)
    grouped = [node.name for node in graph.node if _is_grouped_and_transposed(node)]
    if grouped:
        count = "1 transposed convolution with groups stays"
        if len(grouped) > 1:
            count = f"{len(grouped)} transposed convolutions with groups stay"
        notes.append(f"{count} float32: ONNX Runtime can't quantise that")
    quantize_static(
        prepared,
        written,
        Reader(),
        nodes_to_exclude=[*grouped, *_left_out(graph)],
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"WeightSymmetric": True},
    )
    proto = onnx.load(written)
    if not any(tensor.data_type == onnx.TensorProto.INT8 and tensor.dims for tensor in proto.graph.initializer):
        raise BootcampError(f"{where}: this network has no weight that ONNX Runtime can quantize. {instead}.")
    _keep_scores(proto, graph)
    _strip(proto)
    onnx.checker.check_model(proto)
    whole = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return Int8File(proto, whole, tuple(notes))


def _is_grouped_and_transposed(node: Any) -> bool:
    return node.op_type == "ConvTranspose" and any(one.name == "group" and one.i > 1 for one in node.attribute)


def _left_out(graph: Any) -> list[str]:
    """The nodes that stay in float32.

    Pairs about what only moves numbers gain nothing and stop OpenVINO (2026.4: "Argument shapes are inconsistent",
    where a shortcut is a strided slice padded with channels). And in a range that holds the minus infinity of an
    attention's mask all scores are one: neither the mask, nor its sum with the scores, nor what reads that is rounded.
    """
    weighed = {name for node in graph.node if node.op_type == "Softmax" for name in node.input}
    return [
        node.name
        for node in graph.node
        if node.op_type in _LEFT_OUT or (node.op_type == "Add" and not weighed.isdisjoint(node.output))
    ]


def _keep_scores(proto: Any, whole: Any) -> None:
    """Give the last layer's sums out as they are: rounded to 256 levels, classes that are close would change places.

    Not where a ReLU (or another clipping) comes last in the `whole` file: that the rounding itself stands for it.
    """
    graph = proto.graph
    clipped = {name for node in whole.node if node.op_type in ("Relu", "Clip") for name in node.output}
    maker = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    for output in graph.output:
        last = maker.get(output.name)
        if output.name in clipped or last is None or last.op_type != "DequantizeLinear" or readers[last.input[0]] > 1:
            continue
        before = maker.get(last.input[0])
        if before is None or before.op_type != "QuantizeLinear":
            continue
        scores = before.input[0]
        if readers[scores] > 1 or scores not in maker or readers[output.name] > 0:
            continue
        names = maker[scores].output
        names[list(names).index(scores)] = output.name
        graph.node.remove(last)
        graph.node.remove(before)
    used = {name for node in graph.node for name in node.input}
    unused = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in unused:
        graph.initializer.remove(tensor)


def _strip(proto: Any) -> None:
    """Take out operator sets without an operator, which some engines refuse."""
    used = {node.domain for node in proto.graph.node} | {""}
    kept = [entry for entry in proto.opset_import if entry.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
