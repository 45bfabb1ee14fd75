"""pruning_bootcamp: from training to a deployed, pruned network, with every step proven."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from pruning_bootcamp.api.compression import CompressionPipeline as CompressionPipeline
    from pruning_bootcamp.api.iterative import IterativePruningTrainer as IterativePruningTrainer
    from pruning_bootcamp.api.notebook import compress as compress
    from pruning_bootcamp.api.notebook import prune as prune
    from pruning_bootcamp.checkpoints import load_model as load_model
    from pruning_bootcamp.errors import BootcampError as BootcampError

_PLACES = {
    "BootcampError": "errors",
    "CompressionPipeline": "api.compression",
    "IterativePruningTrainer": "api.iterative",
    "compress": "api.notebook",
    "load_model": "checkpoints",
    "prune": "api.notebook",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `pruning-bootcamp --help` does not pay for torch.
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
