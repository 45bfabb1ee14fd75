"""torch with the starting of kernels taken out of the pass: torch.compile, and CUDA graphs."""

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.base import BACKENDS, Needs
from pruning_bootcamp.backends.eager import torch_runner
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.latency.graphs import TOLERANCE, CapturedPass, capture
from pruning_bootcamp.tools.latency.runner import Runner
from pruning_bootcamp.tools.quiet import quiet


@BACKENDS.register("compile", title="torch.compile", tolerance=TOLERANCE, minutes=True)
def compiled(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """torch.compile: kernels made for this network and batch size, on its device; takes a compiler and a minute."""
    faster = torch.compile(model)
    with quiet("torch.compile"):
        try:
            with torch.inference_mode():
                faster(example)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # tracing, code generation and the C++ or Triton compiler each have their own
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise BootcampError(
                f"backend compile: torch.compile can't take this network here: {reason} ({type(error).__name__}). "
                "It needs a C++ compiler (CPU) or Triton (CUDA). Take another backend; --debug shows the whole story."
            ) from error
    return torch_runner("compile", faster, example, threads)


@BACKENDS.register(
    "cuda_graph",
    title="torch CUDA graph",
    tolerance=TOLERANCE,
    needs=Needs(device="cuda"),
    profiled=lambda device_type: (1,) if device_type == "cuda" else (),
    one_shape=True,
)
def cuda_graph(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """torch on CUDA with one pass recorded and replayed: no launch overhead, for one batch size."""
    recorded = capture(model, example)
    if not isinstance(recorded, CapturedPass):
        raise BootcampError(recorded)
    return torch_runner("cuda_graph", recorded, example, threads, recorded.lay)
