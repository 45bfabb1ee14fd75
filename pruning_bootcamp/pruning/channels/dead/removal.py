"""Dead channels removed, and the proof that the network computes what it did."""

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.channels.dead.folding import folded
from pruning_bootcamp.pruning.channels.dead.plan import DeadPlan
from pruning_bootcamp.pruning.channels.proof import SliceProof, in_widest, kept_outputs, prove_same, prove_slice
from pruning_bootcamp.pruning.channels.structured import CutResult
from pruning_bootcamp.pruning.graph import Group, cut_members, find_groups
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.tools.modes import beside


def remove_dead(model: nn.Module, example: Tensor, plan: DeadPlan) -> CutResult:
    """A new model without what the plan calls dead, and the proof of it; `model` is not changed.

    The proof is the slice proof of the cut, and with it that the new model's outputs are the model's own: in float64
    to the slice proof's tolerance, and as its tensors are stored to what rounding a folded constant to their type may
    cost.
    Raises GoalNotMet when it fails; BootcampError when the plan is another network's.
    """
    copied, example = detached_copy(model), beside(model, example)
    found = {group.name: group for group in find_groups(copied, example)}
    groups = []
    for name, keep in plan.keep.items():
        group = found.get(name)
        if group is None or group.reason is not None or group.width != len(keep):
            raise BootcampError(f"the plan cuts {name} in {len(keep)} parts, which this network does not have.")
        groups.append(group)
    wide, result = _removed(copied, groups, plan)
    proof = prove_slice(wide, result, groups, plan.keep, example)
    exact, _ = in_widest(copied, example)
    same = prove_same(exact, _removed(exact, groups, plan)[1], example)
    prove_same(copied, result, example, tolerance=_rounding(copied))
    kept = {path: channels for path, (_, channels) in kept_outputs(groups, plan.keep).items()}
    proof = SliceProof(
        max_difference=max(proof.max_difference, same.max_difference),
        relative=max(proof.relative, same.relative),
        tolerance=proof.tolerance,
        batches=proof.batches + same.batches,
        batch_size=proof.batch_size,
        dtype=proof.dtype,
    )
    return CutResult(result, proof, kept)


def _removed(model: nn.Module, groups: list[Group], plan: DeadPlan) -> tuple[nn.Module, nn.Module]:
    """The network as wide as before, whose layers read nothing dead; and the same without it."""
    wide = folded(model, groups, plan.dead, plan.constants, plan.homes)
    cut = detached_copy(wide)
    cut_members(cut, groups, plan.keep)
    return wide, cut


def _rounding(model: nn.Module) -> float:
    """What of the outputs' scale a constant that is rounded to the weights' type may move, over many layers."""
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return max(100 * torch.finfo(kind).eps for kind in kinds)
