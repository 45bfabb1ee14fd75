"""Static int8 ONNX: integers for weights and activations, whose ranges are measured on real images."""

from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.onnx_runtime import open_onnx
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.exporters.base import EXPORTERS
from pruning_bootcamp.exporters.onnx import PROGRAM
from pruning_bootcamp.tools.inputs import plain_inputs
from pruning_bootcamp.tools.int8 import int8_content
from pruning_bootcamp.tools.latency.runner import Runner
from pruning_bootcamp.tools.programs import OPSET, onnx_content

_FIRST_OPSET = 13  # has scales per channel
_OVERFLOW = (
    " x86 processors without VNNI (lscpu names it) add 8-bit products in 16 bits, which can overflow: try "
    "export.int8_reduce_range=true (the default), which gives weights 7 bits."
)


@EXPORTERS.register(
    "int8",
    suffix="_int8.onnx",
    title="int8 ONNX",
    program=PROGRAM,
    needs=("calibration",),
    proof=lambda **_: "agreement",
    compact=True,
    first_opset=_FIRST_OPSET,
    advice=lambda reduce_range=True, **_: "" if reduce_range else _OVERFLOW,
)
def write_int8(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    calibration: Tensor | None = None,
    opset: int = OPSET,
    reduce_range: bool = True,
) -> Runner:
    """Static int8 ONNX: weights in 8 bits per channel, activations in 8 bits calibrated on real images.

    Quantize and dequantize pairs (QDQ) say where; the input and the output stay float32. Weights are symmetric, so
    what was pruned is 0. `reduce_range` gives weights 7 of the 8 bits: on x86 processors without VNNI sums of 8-bit
    products can overflow.
    """
    images = _checked(calibration, example)
    if opset < _FIRST_OPSET:
        raise BootcampError(f"--opset: {opset} is too old for int8, which needs {_FIRST_OPSET} or up.")
    path.write_bytes(int8_content(onnx_content(model, example, opset), images, reduce_range))
    return open_onnx(path)


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
