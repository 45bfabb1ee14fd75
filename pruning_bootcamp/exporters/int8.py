"""Static int8 ONNX: integers for weights and activations, whose ranges are measured on real images."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.onnx_runtime import open_onnx
from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.exporters.base import EXPORTERS, Written
from pruning_bootcamp.exporters.onnx import PROGRAM
from pruning_bootcamp.tools.inputs import plain_inputs
from pruning_bootcamp.tools.int8 import QuantizedWeight, int8_file, quantized_weights
from pruning_bootcamp.tools.latency.runner import Runner
from pruning_bootcamp.tools.programs import OPSET, onnx_file

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
    folds=True,
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
    file = onnx_file(model, example, opset)
    made = int8_file(file.content, images, reduce_range)
    path.write_bytes(made.proto.SerializeToString())
    whole, notes = made.whole, list(made.notes)
    weights = [one for one in quantized_weights(made.proto) if one.name in whole]
    if alike := [_layer_name(one.name, whole[one.name], model) for one in weights if not one.per_channel]:
        notes.append(f"{listed(alike)}: one scale for all channels, which is all that ONNX Runtime makes there")
    emptied = emptied_filters(weights, whole, model)
    return Written(**vars(open_onnx(path)), zeroed=file.zeroed, emptied=emptied, notes=tuple(notes))


def emptied_filters(
    weights: Iterable[QuantizedWeight], whole: Mapping[str, np.ndarray], model: nn.Module
) -> dict[str, int]:
    """Layer -> how many of its filters are not zero in float32 (`whole`: tensor -> values) and all zeros in int8.

    ONNX Runtime raises a filter's scale until its bias fits in 32 bits; weights that are small beside it go.
    """
    found = {}
    for weight in weights:
        before = whole[weight.name]
        if count := int((weight.filled(before) & ~weight.filled(weight.integers)).sum()):
            found[_layer_name(weight.name, before, model)] = count
    return found


def _layer_name(name: str, values: np.ndarray, model: nn.Module) -> str:
    """The layer's path: the exporter gives a weight that it has transposed (for a MatMul) a name of its own."""
    parameters = dict(model.named_parameters())
    if name not in parameters and values.ndim == 2:
        turned = torch.from_numpy(values.copy()).T
        name = next((path for path, one in parameters.items() if torch.equal(one.detach(), turned)), name)
    return name.removesuffix(".weight")


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
