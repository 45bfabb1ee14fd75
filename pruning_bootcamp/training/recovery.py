"""Recovery without labels, right after pruning: batch-norm statistics estimated anew."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn


def reestimate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> bool:
    """Running means and variances as a plain average over `batches`; weights are not touched.

    True when the model has batch norms that keep statistics. The training/evaluation mode is left as found.
    A cumulative average, so that every image counts the same (an exponential one forgets the first batches).
    """
    if not any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules()):
        return False
    modes = {module: module.training for module in model.modules()}
    with torch.no_grad():
        update_bn(batches, model)
    for module, mode in modes.items():
        module.training = mode
    return True
