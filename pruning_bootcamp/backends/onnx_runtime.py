"""ONNX Runtime on the CPU: of a network, in float32 or int8, and of an ONNX file that is there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.base import BACKENDS, Needs
from pruning_bootcamp.backends.eager import SMALL_BATCHES
from pruning_bootcamp.backends.files import INT8_ADVICE, INT8_TOLERANCE, float32_file, int8_file
from pruning_bootcamp.runs import scratch_folder
from pruning_bootcamp.tools.latency.runner import Runner


@BACKENDS.register(
    "onnxruntime",
    title="onnxruntime on cpu",
    tolerance=1e-3,
    needs=Needs(module="onnxruntime"),
    profiled=lambda device_type: SMALL_BATCHES,
)
def onnxruntime(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """ONNX Runtime on the CPU: the network as an ONNX file, batch norm folded into the convolutions."""
    return _opened(float32_file(model, example, "onnxruntime"), threads)


@BACKENDS.register(
    "onnxruntime_int8",
    title="onnxruntime int8 on cpu",
    tolerance=INT8_TOLERANCE,
    advice=INT8_ADVICE,
    needs=Needs(module="onnxruntime"),
)
def onnxruntime_int8(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """ONNX Runtime on the CPU: the network in int8, weights and activations, calibrated on noise."""
    runner = _opened(int8_file(model, example, "onnxruntime_int8"), threads)
    return replace(runner, backend="onnxruntime_int8")


def _opened(content: bytes, threads: int) -> Runner:
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        path.write_bytes(content)
        return open_onnx(path, threads)


def open_onnx(path: Path, threads: int | None = None) -> Runner:
    """The file in ONNX Runtime on the CPU, with as many threads as torch uses unless asked otherwise."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: Tensor) -> Any:
        outputs = [torch.from_numpy(output) for output in session.run(None, {name: batch.numpy()})]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return Runner("onnxruntime", run, threads=options.intra_op_num_threads)
