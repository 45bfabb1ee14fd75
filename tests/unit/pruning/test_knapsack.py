"""Widths within a budget, against every combination tried."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.channels.costs import Costs
from pruning_bootcamp.pruning.channels.knapsack import least_loss
from pruning_bootcamp.pruning.channels.width_schedules import WidthSchedule, make_width_schedule
from pruning_bootcamp.pruning.graph import find_groups


class Branches(nn.Module):
    """Two branches whose widths cost apart from each other, or (chained) one times the other."""

    def __init__(self, chained: bool) -> None:
        super().__init__()
        self.chained = chained
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6 if chained else 5, 7)
        self.c, self.d = nn.Linear(6, 3), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.chained:
            return self.d(self.b(self.a(x).relu()).relu())
        return self.c(self.a(x).relu()) + self.d(self.b(x).relu())


def problem(chained: bool, seed: int) -> tuple[Costs, list[WidthSchedule], dict[str, Tensor]]:
    model = Branches(chained)
    groups = [group for group in find_groups(model, torch.zeros(1, 5)) if group.reason is None]
    generator = torch.Generator().manual_seed(seed)
    limits: dict[str, Any] = {"allocation": "measured", "round_to": None, "min_width": 1, "max_sparsity": 0.9}
    schedules = [make_width_schedule(g, torch.rand(g.width, generator=generator), **limits) for g in groups]
    losses = {g.name: torch.rand(g.width + 1, generator=generator).double().cumsum(0) for g in groups}
    losses = {name: loss - loss[0] for name, loss in losses.items()}
    return Costs(model, groups, torch.zeros(1, 5)), schedules, losses


def by_trying(costs: Costs, schedules: list[WidthSchedule], losses: dict[str, Tensor], target: float) -> float:
    best = float("inf")
    for steps in itertools.product(*(range(len(s.removed)) for s in schedules)):
        for schedule, number in zip(schedules, steps, strict=True):
            costs.change(schedule.name, schedule.gone(number))
        if costs.amount["macs"] <= target:
            best = min(best, sum(float(losses[s.name][s.removed[n]]) for s, n in zip(schedules, steps, strict=True)))
        for schedule, number in zip(schedules, steps, strict=True):
            costs.change(schedule.name, schedule.gone(number), back=True)
    return best


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_the_least_loss_where_groups_cost_apart(seed: int, share: float) -> None:
    costs, schedules, losses = problem(False, seed)
    target = share * costs.amount["macs"]
    best = by_trying(costs, schedules, losses, target)
    taken = least_loss(costs, schedules, losses, "macs", target)
    assert costs.amount["macs"] <= target
    total = sum(float(losses[s.name][s.removed[taken[s.name]]]) for s in schedules)
    assert total == pytest.approx(best)


@pytest.mark.parametrize("seed", range(4))
def test_near_the_least_loss_where_one_width_times_the_other_costs(seed: int) -> None:
    costs, schedules, losses = problem(True, seed)
    target = 0.5 * costs.amount["macs"]
    best = by_trying(costs, schedules, losses, target)
    taken = least_loss(costs, schedules, losses, "macs", target)
    assert costs.amount["macs"] <= target
    assert sum(float(losses[s.name][s.removed[taken[s.name]]]) for s in schedules) <= 1.5 * best


def test_all_that_the_schedules_allow_where_that_is_too_little() -> None:
    costs, schedules, losses = problem(False, 0)
    taken = least_loss(costs, schedules, losses, "macs", 0.01 * costs.amount["macs"])
    assert taken == {schedule.name: len(schedule.keys) for schedule in schedules}
