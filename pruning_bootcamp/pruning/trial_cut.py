"""A copy that is really cut, and counted: what a plan says it costs is what was counted there."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.groups import Group, Keep, cut_members
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.pruning.proof import prove_slice
from pruning_bootcamp.pruning.width_schedules import WidthSchedule
from pruning_bootcamp.tools.metrics import Product, count_products


def keep_masks(groups: Sequence[Group], gone: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Group -> True for each unit that stays."""
    keep = {}
    for group in groups:
        keep[group.name] = torch.ones(group.width, dtype=torch.bool)
        keep[group.name][list(gone.get(group.name, ()))] = False
    return keep


def products_after(model: nn.Module, groups: Sequence[Group], keep: Keep, example: Tensor) -> list[Product]:
    """What one input is multiplied by in a copy of `model` without the dropped units.

    Raises GoalNotMet, naming the first layer that is cut wrongly, when the copy does not run.
    """
    cut = detached_copy(model)
    cut_members(cut, groups, keep)
    try:
        return count_products(cut, example)[0]
    except (RuntimeError, ValueError, IndexError):
        prove_slice(model, cut, groups, keep, example)  # raises, with the layer at which it goes wrong
        raise


def cut_one_by_one(
    model: nn.Module, groups: Sequence[Group], schedules: Sequence[WidthSchedule], example: Tensor
) -> dict[str, tuple[int, list[Product]]]:
    """Group -> (units cut from it alone, what is multiplied then): how each product depends on each group."""
    found = {}
    for schedule in schedules:
        keep = keep_masks(groups, {schedule.name: schedule.gone(1)})
        found[schedule.name] = (schedule.removed[1], products_after(model, groups, keep, example))
    return found
