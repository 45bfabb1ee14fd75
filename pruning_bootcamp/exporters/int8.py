"""Static int8 ONNX: integers for weights and activations, whose ranges are measured on real images."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.onnx_runtime import open_onnx
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.exporters.base import EXPORTERS, Written
from pruning_bootcamp.exporters.onnx import PROGRAM
from pruning_bootcamp.runs import scratch_folder
from pruning_bootcamp.tools.inputs import plain_inputs
from pruning_bootcamp.tools.latency.runner import Runner
from pruning_bootcamp.tools.programs import OPSET, exporting, onnx_file

_FIRST_OPSET = 13  # has scales per channel
_BATCH_VALUES = 2**22
_OVERFLOW = (
    " x86 processors without VNNI (lscpu names it) add 8-bit products in 16 bits, which can overflow: try "
    "export.int8_reduce_range=true, which gives weights 7 bits."
)


@EXPORTERS.register(
    "int8",
    suffix="_int8.onnx",
    title="int8 ONNX",
    program=PROGRAM,
    needs=("calibration",),
    proof=lambda **_: "agreement",
    compact=True,
    folds=True,
    first_opset=_FIRST_OPSET,
    advice=lambda reduce_range=False, **_: "" if reduce_range else _OVERFLOW,
)
def write_int8(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    calibration: Tensor | None = None,
    opset: int = OPSET,
    reduce_range: bool = False,
) -> Runner:
    """Static int8 ONNX: weights in 8 bits per channel, activations in 8 bits calibrated on real images.

    Quantize and dequantize pairs (QDQ) say where; the input and the output stay float32. Weights are symmetric, so
    what was pruned is 0. `reduce_range` gives weights 7 bits, for x86 processors without VNNI, whose sums of 8-bit
    products can overflow.
    """
    images = _checked(calibration, example)
    if opset < _FIRST_OPSET:
        raise BootcampError(f"--opset: {opset} is too old for int8, which needs {_FIRST_OPSET} or up.")
    file = onnx_file(model, example, opset)
    with exporting("int8 ONNX"), scratch_folder() as folder:
        path.write_bytes(_quantized(file.content, images, folder, reduce_range))
    return Written(**vars(open_onnx(path)), zeroed=file.zeroed)


def _quantized(content: bytes, images: Tensor, folder: Path, reduce_range: bool) -> bytes:
    """The float32 ONNX file in int8. Whatever is written on the way goes to `folder`."""
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
    quant_pre_process(given, prepared, auto_merge=True)
    quantize_static(
        prepared,
        written,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"WeightSymmetric": True},
    )
    proto = onnx.load(written)
    if not any(tensor.data_type == onnx.TensorProto.INT8 and tensor.dims for tensor in proto.graph.initializer):
        raise BootcampError("export: this network has no weight that ONNX Runtime can quantize. Use --format onnx.")
    _keep_scores(proto)
    _strip(proto)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def _keep_scores(proto: Any) -> None:
    """Give the last layer's sums out as they are: rounded to 256 levels, classes that are close would change places."""
    graph = proto.graph
    maker = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    for output in graph.output:
        last = maker.get(output.name)
        if last is None or last.op_type != "DequantizeLinear" or readers[last.input[0]] > 1:
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


def _checked(calibration: Tensor | None, example: Tensor) -> Tensor:
    if calibration is None:
        raise BootcampError(
            "export: int8 needs some hundred real images to calibrate on, normalised, without labels. The command "
            "takes them from the config's data (-c FILE, export.calibration_images); in Python, give calibration=."
        )
    images = plain_inputs(calibration).contiguous()
    if len(images) == 0 or images.shape[1:] != example.shape[1:]:
        raise BootcampError(
            f"export: calibration images of shape {tuple(images.shape)}, and the network takes "
            f"{tuple(example.shape[1:])}, at least one."
        )
    if not bool(torch.isfinite(images).all()):
        raise BootcampError("export: the calibration images hold values that are not finite.")
    return images
