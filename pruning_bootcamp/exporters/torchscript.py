"""TorchScript by tracing: one file that torch alone opens, from Python or from C++."""

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_bootcamp.exporters.base import EXPORTERS
from pruning_bootcamp.tools.latency.runner import Runner
from pruning_bootcamp.tools.programs import exporting

PROGRAM = """
import torch
network = torch.jit.load(path, map_location="cpu")
def run(images):
    with torch.inference_mode():
        return network(torch.from_numpy(images)).numpy()
"""


@EXPORTERS.register("torchscript", suffix=".pt", title="TorchScript", program=PROGRAM)
def write_torchscript(model: nn.Module, example: Tensor, path: Path) -> Runner:
    """TorchScript by tracing, for libtorch and older deployments; torch calls it deprecated, and still writes it.

    Not frozen: the file can still be moved to a GPU, and keeps its parameters' names.
    """
    content = io.BytesIO()
    with exporting("TorchScript"):
        # the check would compare with the same example; verify.py does better, on fresh ones
        torch.jit.save(torch.jit.trace(model, example, check_trace=False), content)
    path.write_bytes(content.getvalue())
    with exporting("TorchScript"):
        network = torch.jit.load(str(path), map_location="cpu")
    return Runner("torchscript", lambda images: network(images))
