"""ONNX by torch's dynamo exporter: one file, any batch size, batch norm folded into the convolutions."""

from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.exporters.base import EXPORTERS, Runner, exporting, trace_program

_LARGEST_BYTES = 2**31 - 2**20  # a protobuf message, so a one-file ONNX model, ends at 2 GiB

PROGRAM = """
import onnxruntime
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
def run(images):
    return session.run(None, {session.get_inputs()[0].name: images})[0]
assert "torch" not in sys.modules, "ONNX Runtime has imported torch"
"""


@EXPORTERS.register("onnx", suffix=".onnx", title="ONNX", program=PROGRAM)
def write_onnx(model: nn.Module, example: Tensor, path: Path, *, opset: int = 18) -> Runner:
    """ONNX for ONNX Runtime and most other engines; operator set 18 unless asked otherwise.

    18 is what torch's exporter is written in. Any other is converted from it, and where that conversion fails torch
    keeps 18 with only a log line: here it is a BootcampError.
    """
    path.write_bytes(onnx_content(model, example, opset))
    return open_onnx(path)


def onnx_content(model: nn.Module, example: Tensor, opset: int) -> bytes:
    """The ONNX file of the network, its inputs and outputs named `input` and `output`."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if size > _LARGEST_BYTES:
        raise BootcampError(f"export: {size / 2**30:.1f} GiB of weights don't fit in one ONNX file. Use --format pt2.")
    with exporting("ONNX"):
        program = torch.onnx.export(
            trace_program(model, example),
            dynamo=True,
            dynamic_shapes=({0: "batch"},),  # the program has it as a symbol of its own; this is its name in the file
            input_names=["input"],
            output_names=["output"],
            opset_version=opset,
        )
        assert program is not None
        written = program.model.opset_imports[""]
        if written != opset:
            raise BootcampError(
                f"--opset: {opset} can't be reached for this network, only {written}. "
                "The exporter writes 18; newer ones work most often, older ones rarely. Leave --opset out."
            )
        proto = program.model_proto
        for node in [*proto.graph.node, *(inner for function in proto.functions for inner in function.node)]:
            node.ClearField("metadata_props")  # stack traces, with the paths of the machine that exported
            node.ClearField("doc_string")
        return proto.SerializeToString()


def open_onnx(path: Path) -> Runner:
    """The file in ONNX Runtime on the CPU, with as many threads as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return Runner("onnxruntime", lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0]))
