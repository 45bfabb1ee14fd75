"""Keep masks (True where a weight stays): made, checked, applied, and models copied without their leftovers."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning_bootcamp.errors import BootcampError, nearest
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.selection import keep_highest
from pruning_bootcamp.tools.modes import detached_clone

Masks = dict[str, Tensor]


def detached_copy(model: nn.Module) -> nn.Module:
    """A deep copy with plain weights, whatever torch.nn.utils.prune has attached; the model itself stays as it is."""
    copied = detached_clone(model)
    make_plain(copied)
    return copied


def make_plain(model: nn.Module) -> list[str]:
    """Turn torch.nn.utils.prune's reparameterisation into plain weights with exact zeros, in place; their names."""
    names = []
    for path, module in model.named_modules():
        methods = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, prune.BasePruningMethod)]
        for method in methods:
            attribute = method._tensor_name
            keep = getattr(module, f"{attribute}_mask").bool()
            prune.remove(module, attribute)
            zero_pruned(getattr(module, attribute), keep)  # torch multiplies, which leaves -0.0 (and NaN * 0 = NaN)
            names.append(f"{path}.{attribute}".lstrip("."))
    return names


def zero_pruned(weight: Tensor, keep: Tensor) -> None:
    """Write +0.0 where `keep` is False, in place, without autograd taking notice.

    Mask and weight meet here, on the weight's device: masks of a file or a training lie on the CPU.
    """
    with torch.no_grad():
        weight.masked_fill_(keep.to(weight.device, torch.bool).logical_not(), 0)


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every pruned weight to exactly +0.0, in place. Raises BootcampError when the masks are another model's."""
    check_masks(model, masks)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, keep in masks.items():
        zero_pruned(parameters[name], keep)


def check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """BootcampError when a mask fits no parameter of the model, with the nearest name and what differs."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    missing = [name for name in masks if name not in parameters]
    problems = []
    if missing:
        close = nearest(missing[0], parameters)
        hint = f" Its nearest is '{close}'." if close else ""
        problems.append(
            f"{len(missing)} of {len(masks)} masks name no weight of this model, first '{missing[0]}'.{hint} "
            "Are they another model's masks?"
        )
    for name, keep in masks.items():
        if name not in parameters:
            continue
        shape = tuple(parameters[name].shape)
        if tuple(keep.shape) != shape:
            problems.append(f"{name}: the mask has shape {tuple(keep.shape)}, the weight {shape}.")
        if keep.dtype != torch.bool:
            problems.append(f"{name}: the mask holds {keep.dtype}, not torch.bool (True = keep).")
    if problems:
        raise BootcampError(*problems, where="masks")


class SparsityMask:
    """One weight's keep mask: True stays, False is pruned."""

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep.bool()

    def nnz(self) -> int:
        """How many weights stay."""
        return int(torch.count_nonzero(self.keep))

    def num_zeros(self) -> int:
        """How many weights are pruned."""
        return self.keep.numel() - self.nnz()

    def sparsity(self) -> float:
        """The share that is pruned, 0 to 1."""
        return self.num_zeros() / self.keep.numel()

    def apply(self, weight: Tensor) -> Tensor:
        """The same tensor, its pruned entries now exactly 0."""
        if weight.shape != self.keep.shape:
            raise BootcampError(f"the mask has shape {tuple(self.keep.shape)}, the weight {tuple(weight.shape)}.")
        zero_pruned(weight, self.keep)
        return weight


def generate_unstructured_mask(scores: Tensor, sparsity: float) -> SparsityMask:
    """Mask with exactly round(sparsity * size) zeros, at the lowest scores."""
    if not 0 <= sparsity < 1:
        raise BootcampError(f"sparsity: {sparsity} is not in [0, 1).", where="generate_unstructured_mask")
    _check_scores(scores)
    return SparsityMask(keep_highest(scores, round(sparsity * scores.numel())))


def generate_nm_mask(scores: Tensor, n: int, m: int) -> SparsityMask:
    """Mask that keeps the n highest of every m neighbouring inputs (dimension 1) of a weight [out, in, ...]."""
    pattern = PATTERNS["nm"]
    if reason := pattern.facts["invalid"](n=n, m=m) or pattern.facts["misfit"](tuple(scores.shape), n=n, m=m):
        raise BootcampError(str(reason), where="generate_nm_mask")
    _check_scores(scores)
    return SparsityMask(pattern(scores, pattern.facts["fixed_count"](scores, n=n, m=m), n=n, m=m))


def _check_scores(scores: Tensor) -> None:
    if not bool(torch.isfinite(scores).all()):
        raise BootcampError("the scores hold NaN or Inf, so there is no order to prune by.", where="scores")
