"""torch, with linear layers that skip their zeros where that is quicker."""

from dataclasses import replace

from torch import Tensor, nn

from pruning_bootcamp.backends.base import BACKENDS, Needs
from pruning_bootcamp.backends.csr import skipping_zeros
from pruning_bootcamp.backends.eager import SMALL_BATCHES, torch_runner
from pruning_bootcamp.backends.zeros import has_empty_layers
from pruning_bootcamp.tools.latency.runner import Runner


@BACKENDS.register(
    "torch_sparse",
    title="torch CSR",
    tolerance=1e-4,
    needs=Needs(device="cpu"),
    profiled=lambda device_type: SMALL_BATCHES if device_type == "cpu" else (),
    wants=has_empty_layers,
    one_shape=True,
)
def torch_sparse(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """torch, eager, linear layers as CSR products where zeros make that quicker for the batch; never slower than dense.

    Each layer of which at least half is zero is timed both ways in turn, then the whole network.
    """
    network, note = skipping_zeros(model, [example])
    return replace(torch_runner("torch_sparse", network, example, threads), note=note)
