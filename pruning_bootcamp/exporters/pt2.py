"""torch.export's program (.pt2): what torch.compile, AOTInductor and ExecuTorch start from."""

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_bootcamp.exporters.base import EXPORTERS
from pruning_bootcamp.tools.latency.runner import Runner
from pruning_bootcamp.tools.programs import exporting, trace_program

_PROGRAM = """
import torch
network = torch.export.load(path).module()
def run(images):
    with torch.inference_mode():
        return network(torch.from_numpy(images)).numpy()
"""


@EXPORTERS.register("pt2", suffix=".pt2", title="torch.export", program=_PROGRAM)
def write_pt2(model: nn.Module, example: Tensor, path: Path) -> Runner:
    """torch.export program (.pt2), torch's successor of TorchScript, for any batch size."""
    content = io.BytesIO()
    with exporting("torch.export"):
        torch.export.save(trace_program(model, example), content)
    path.write_bytes(content.getvalue())
    with exporting("torch.export"):
        network = torch.export.load(str(path)).module()
    return Runner("torch.export", lambda images: network(images))
