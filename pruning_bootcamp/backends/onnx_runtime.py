"""ONNX Runtime on the CPU: of a network, in float32 or int8, and of an ONNX file that is there."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.base import BACKENDS, Needs
from pruning_bootcamp.backends.eager import SMALL_BATCHES
from pruning_bootcamp.backends.files import INT8_ADVICE, INT8_TOLERANCE, float32_file, int8_file
from pruning_bootcamp.backends.precision import precision_said
from pruning_bootcamp.runs import scratch_folder
from pruning_bootcamp.tools.latency.runner import Runner

# ONNX Runtime's own operators: a pair of quantize and dequantize that it could not fuse leaves a float32 one.
_INT8 = (
    *("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger"),
    *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
)
_FLOAT32 = ("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


@BACKENDS.register(
    "onnxruntime",
    title="onnxruntime on cpu",
    tolerance=1e-3,
    needs=Needs(module="onnxruntime"),
    profiled=lambda device_type: SMALL_BATCHES,
)
def onnxruntime(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """ONNX Runtime on the CPU: the network as an ONNX file, batch norm folded into the convolutions."""
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        path.write_bytes(float32_file(model, example, "onnxruntime"))
        return replace(open_onnx(path, threads), precision="float32")


@BACKENDS.register(
    "onnxruntime_int8",
    title="onnxruntime int8 on cpu",
    tolerance=INT8_TOLERANCE,
    advice=INT8_ADVICE,
    needs=Needs(module="onnxruntime"),
)
def onnxruntime_int8(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """ONNX Runtime on the CPU: the network in int8, weights and activations, calibrated on noise."""
    import onnx

    with scratch_folder() as folder:
        path, optimized = folder / "model.onnx", folder / "optimized.onnx"
        path.write_bytes(int8_file(model, example, "onnxruntime_int8"))
        runner = open_onnx(path, threads, optimized)
        kinds = Counter(node.op_type for node in onnx.load(optimized).graph.node)
    products = Counter({"int8": sum(kinds[kind] for kind in _INT8), "float32": sum(kinds[kind] for kind in _FLOAT32)})
    return replace(runner, backend="onnxruntime_int8", precision=precision_said(+products))


def open_onnx(path: Path, threads: int | None = None, optimized: Path | None = None) -> Runner:
    """The file in ONNX Runtime on the CPU, with as many threads as torch uses unless asked otherwise.

    `optimized`: where to write what it makes of the file for this processor.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.log_severity_level = 3  # it warns that such a file is for this processor only
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: Tensor) -> Any:
        outputs = [torch.from_numpy(output) for output in session.run(None, {name: batch.numpy()})]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return Runner("onnxruntime", run, threads=options.intra_op_num_threads, version=onnxruntime.__version__)
