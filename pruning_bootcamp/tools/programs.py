"""A network as a program: traced by torch.export, and written as ONNX. Errors in our words."""

import contextlib
import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.alone import LayerAlone, onnx_of_layer
from pruning_bootcamp.tools.inputs import plain_inputs
from pruning_bootcamp.tools.quiet import quiet
from pruning_bootcamp.tools.tiny import zero_tiny_in_file
from pruning_bootcamp.tools.zero_branches import drop_zero_branches

OPSET = 18
"""the operator set that torch's exporter writes; any other is converted from it"""
FORMAT = "Try another --format, such as pt2"
_LARGEST_BYTES = 2**31 - 2**20  # a protobuf message, so a one-file ONNX model, ends at 2 GiB
_KEPT_BYTES = 2**28  # of files that were made in this process


def twice(example: Tensor) -> Tensor:
    """Two examples to trace with, as `plain_inputs`: torch.export takes a batch of one as a constant."""
    first = plain_inputs(example[:1])
    return torch.cat([first, first])


def trace_program(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """torch.export's program of the network, for any batch size; a network that fixes it is a BootcampError."""
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (example,), dynamic_shapes=({0: batch},))


@contextlib.contextmanager
def exporting(title: str, where: str = "export", instead: str = FORMAT) -> Iterator[None]:
    """Quiet inside; whatever the library raises about the network is a BootcampError with the library's reason."""
    with quiet(title):
        try:
            yield
        except (BootcampError, OSError):
            raise
        except Exception as error:  # each exporter has its own zoo of exceptions
            first: BaseException = error
            while first.__cause__ is not None:  # what torch says of it is how to report a bug
                first = first.__cause__
            reason = str(first).strip().partition("\n")[0] or type(first).__name__
            raise BootcampError(
                f"{where}: this network can't be written as {title}: {reason} ({type(first).__name__}). "
                f"{instead}; --debug shows the whole story."
            ) from error


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file's content. `zeroed`: tensor -> how many of its weights were too small, and are zero (tiny.py)."""

    content: bytes
    zeroed: Mapping[str, int]


def onnx_content(
    model: nn.Module, example: Tensor, opset: int = OPSET, where: str = "export", instead: str = FORMAT
) -> bytes:
    """The ONNX file of the network, its inputs and outputs named `input` and `output`."""
    if isinstance(model, LayerAlone):
        return onnx_of_layer(model)
    return onnx_file(model, example, opset, where, instead).content


def onnx_file(
    model: nn.Module, example: Tensor, opset: int = OPSET, where: str = "export", instead: str = FORMAT
) -> OnnxFile:
    """As `onnx_content`, and what in it is zero though it was not in the network, once batch norm was folded."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if size > _LARGEST_BYTES:
        raise BootcampError(f"{where}: {size / 2**30:.1f} GiB of weights don't fit in one ONNX file. {instead}.")
    with exporting("ONNX", where, instead):
        traced = trace_program(model, example)
        key = _digest(traced, opset)
        if (made := _MADE.get(key)) is not None:
            return made
        program = torch.onnx.export(
            traced,
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
        drop_zero_branches(proto)
        zeroed = zero_tiny_in_file(proto)
        return _MADE.keep(key, OnnxFile(proto.SerializeToString(), zeroed))


def _digest(program: torch.export.ExportedProgram, opset: int) -> str:
    """Of all that decides the file: what is computed, on which shapes, with which numbers."""
    digest = hashlib.blake2b(f"{opset}\n{program}".encode())
    for name, value in sorted({**program.state_dict, **program.constants}.items()):
        digest.update(f"{name} {type(value).__name__}".encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:  # an object of the user's own: never the same as another
            digest.update(os.urandom(16))
    return digest.hexdigest()


class _Made:
    """Files by what they were made of, the latest: exporting takes seconds, and the same network is exported for its
    file, its backends and its profile."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, OnnxFile] = OrderedDict()

    def get(self, key: str) -> OnnxFile | None:
        if key in self._files:
            self._files.move_to_end(key)
        return self._files.get(key)

    def keep(self, key: str, file: OnnxFile) -> OnnxFile:
        if len(file.content) <= _KEPT_BYTES:
            self._files[key] = file
        while sum(len(each.content) for each in self._files.values()) > _KEPT_BYTES:
            self._files.popitem(last=False)
        return file


_MADE = _Made()
