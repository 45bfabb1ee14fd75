"""What happens to the weights that stay, once it is decided which go."""

from collections.abc import Mapping

from torch import Tensor, nn

from pruning_bootcamp.pruning.masks import Masks
from pruning_bootcamp.pruning.stats import Batches
from pruning_bootcamp.registry import Registry

# f(model, masks, batches, *, ...) -> masks. A solver may change the surviving weights in place, and hands back the
# masks to attach: as many zeros in each layer as it was given. The engine writes the zeros.
SOLVERS: Registry = Registry("solver")


@SOLVERS.register("none")
def none(model: nn.Module, masks: Mapping[str, Tensor], batches: Batches | None) -> Masks:
    """The surviving weights stay as they are."""
    return dict(masks)
