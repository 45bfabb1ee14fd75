"""ONNX by torch's dynamo exporter: one file, any batch size, batch norm folded into the convolutions."""

from pathlib import Path

from torch import Tensor, nn

from pruning_bootcamp.backends.onnx_runtime import open_onnx
from pruning_bootcamp.exporters.base import EXPORTERS, Written
from pruning_bootcamp.tools.latency.runner import Runner
from pruning_bootcamp.tools.programs import OPSET, onnx_file

PROGRAM = """
import onnxruntime
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
def run(images):
    return session.run(None, {session.get_inputs()[0].name: images})[0]
assert "torch" not in sys.modules, "ONNX Runtime has imported torch"
"""


@EXPORTERS.register("onnx", suffix=".onnx", title="ONNX", program=PROGRAM, folds=True)
def write_onnx(model: nn.Module, example: Tensor, path: Path, *, opset: int = OPSET) -> Runner:
    """ONNX for ONNX Runtime and most other engines; operator set 18 unless asked otherwise.

    18 is what torch's exporter is written in. Any other is converted from it, and where that conversion fails torch
    keeps 18 with only a log line: here it is a BootcampError.
    """
    file = onnx_file(model, example, opset)
    path.write_bytes(file.content)
    return Written(**vars(open_onnx(path)), zeroed=file.zeroed)
