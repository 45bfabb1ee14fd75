"""A network as the ONNX file that a runtime opens: in float32, or in int8."""

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.base import deployable_copy
from pruning_bootcamp.tools import int8
from pruning_bootcamp.tools.inputs import inputs_like
from pruning_bootcamp.tools.programs import onnx_content, twice

_CALIBRATION_INPUTS = 16
_INSTEAD = "Take another backend"

# On networks with real weights rounding moves the outputs by 1 to 10% of the largest, and another network's are as far
# off as they are large: this tells the two apart, and says nothing of how well the rounded network decides.
INT8_TOLERANCE = 0.25
INT8_ADVICE = (
    "That is more than rounding to 8 bits does to a network that bears it. `export --format int8 --verify` judges that "
    "on real images; here take another backend."
)


def float32_file(model: nn.Module, example: Tensor, backend: str) -> bytes:
    """The network as an ONNX file for any batch size, batch norm folded into the convolutions."""
    where = f"backend {backend}"
    return onnx_content(deployable_copy(model), twice(example), where=where, instead=_INSTEAD)


def int8_file(model: nn.Module, example: Tensor, backend: str) -> bytes:
    """As float32_file, in int8, by the way of `export --format int8`.

    But calibrated on seeded noise (or whole numbers that the example holds), for a backend has no data: how long a pass
    takes doesn't depend on that.
    """
    calibration = inputs_like(twice(example), _CALIBRATION_INPUTS, torch.Generator().manual_seed(0))
    content = float32_file(model, example, backend)
    made = int8.int8_file(content, calibration, where=f"backend {backend}", instead=_INSTEAD)
    written: bytes = made.proto.SerializeToString()
    return written
