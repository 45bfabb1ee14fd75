"""pruning_bootcamp: from training to a deployed, pruned network, with every step proven."""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from pruning_bootcamp.checkpoints import load_model as load_model
    from pruning_bootcamp.errors import BootcampError as BootcampError
    from pruning_bootcamp.training.compression import CompressionPipeline as CompressionPipeline


def __getattr__(name: str) -> Any:
    # Lazy, so that `pruning-bootcamp --help` does not pay for torch.
    if name == "load_model":
        from pruning_bootcamp.checkpoints import load_model

        return load_model
    if name == "BootcampError":
        from pruning_bootcamp.errors import BootcampError

        return BootcampError
    if name == "CompressionPipeline":
        from pruning_bootcamp.training.compression import CompressionPipeline

        return CompressionPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
