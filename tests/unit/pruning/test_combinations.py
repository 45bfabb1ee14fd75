"""Before a budget is given up, combinations of widths are searched: against every combination, one by one."""

import itertools
import re
import time
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.pruning.channels.budget import shrink_to
from pruning_bootcamp.pruning.channels.combinations import Widths, search
from pruning_bootcamp.pruning.channels.costs import Costs
from pruning_bootcamp.pruning.channels.structured import StructuredPlan, plan_structured
from pruning_bootcamp.pruning.channels.width_schedules import WidthSchedule, make_width_schedule
from pruning_bootcamp.pruning.graph import Group, find_groups
from pruning_bootcamp.pruning.sections import BUDGETS

TOLERANCE = 0.01


def chain(widths: list[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cost(widths: list[int], budget: str) -> int:
    """By hand: a linear layer has a weight for each pair of its inputs and outputs, and a bias for each output."""
    weights = sum(before * after for before, after in itertools.pairwise(widths))
    return {"flops_reduction": weights, "params_reduction": weights + sum(widths[1:]), "sparsity": sum(widths[1:-1])}[
        budget
    ]


def reductions(widths: list[int], budget: str, round_to: int) -> list[float]:
    """What every allowed combination of inner widths saves."""
    choices = [
        [width] + [w for w in range(1, width) if w % round_to == 0 and width - w <= 0.9 * width + 1e-9]
        for width in widths[1:-1]
    ]
    whole = cost(widths, budget)
    if budget == "sparsity":  # of the channels of the layers that can be cut
        whole = sum(width for width, some in zip(widths[1:-1], choices, strict=True) if len(some) > 1)
    saved_of = cost(widths, budget)
    return [
        (saved_of - cost([widths[0], *inner, widths[-1]], budget)) / whole
        for inner in itertools.product(*choices)
        if list(inner) != widths[1:-1]
    ]


@given(
    inner=st.lists(st.integers(2, 12), min_size=1, max_size=4),
    ends=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    budget=st.sampled_from(["flops_reduction", "params_reduction", "sparsity"]),
    allocation=st.sampled_from(["local", "global"]),
    round_to=st.sampled_from([1, 1, 2, 3, 4]),
    asked=st.integers(5, 85).map(lambda percent: percent / 100),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_what_some_combination_meets_is_met(
    inner: list[int], ends: tuple[int, int], budget: str, allocation: str, round_to: int, asked: float, seed: int
) -> None:
    if budget == "sparsity":
        allocation = "global"  # local rounds group by group
    widths = [ends[0], *inner, ends[1]]
    torch.manual_seed(seed)
    everything = reductions(widths, budget, round_to)
    choices = {"score": "l1", "allocation": allocation, BUDGETS[budget]: asked, "round_to": round_to}
    plan, error = outcome(widths, choices)
    met = any(abs(saved - asked) <= TOLERANCE for saved in everything)
    if plan is None:
        assert not met, error
        if "is the most" in error:
            assert f"{max(everything):.4f} is the most" in error
            assert max(everything) < asked
        elif everything and "cuts nothing" not in error:
            found = re.search(r"nearest of all [\d,]+ combinations of widths is ([\d.]+)", error)
            assert found is not None, error
            assert abs(float(found[1]) - asked) == pytest.approx(min(abs(s - asked) for s in everything), abs=1e-4)
        return
    assert abs(plan.achieved - asked) <= TOLERANCE + 1e-9
    kept = {group.name: len(group.keep) for group in plan.groups}
    real = [kept.get(str(2 * place), width) for place, width in enumerate(widths[1:])]
    if len(kept) == len(inner):  # the share of channels is of those that can be cut
        assert plan.achieved == pytest.approx(1 - cost([widths[0], *real], budget) / cost(widths, budget))
    if budget != "sparsity" and any(asked - 1e-9 <= saved <= asked + TOLERANCE for saved in everything):
        assert plan.achieved >= asked - 1e-9, "not below where steps allow it"


def outcome(widths: list[int], choices: dict[str, Any]) -> tuple[StructuredPlan | None, str]:
    """The plan, or what was said instead."""
    try:
        return plan_structured(chain(widths), torch.zeros(1, widths[0]), **choices), ""
    except BootcampError as error:
        return None, str(error)


def cuttable(model: nn.Module, example: Tensor) -> list[Group]:
    return [group for group in find_groups(model, example) if group.reason is None]


def schedules_for(groups: list[Group], round_to: int | None = None) -> list[WidthSchedule]:
    generator = torch.Generator().manual_seed(0)
    limits = {"allocation": "global", "round_to": round_to, "min_width": 1, "max_sparsity": 0.9}
    return [make_width_schedule(group, torch.rand(group.width, generator=generator), **limits) for group in groups]  # type: ignore[arg-type]


@pytest.mark.parametrize("measure", ["macs", "params", "channels"])
def test_many_combinations_at_once_cost_what_each_costs(network: nn.Module, example: Tensor, measure: str) -> None:
    groups = cuttable(network, example)
    schedules = schedules_for(groups)
    costs = Costs(network, groups, example)
    widths = Widths(costs, schedules, measure)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randint(0, count, (5,), generator=generator) for count in widths.options], 1).numpy()
    amounts = widths.amounts(rows)
    for row, amount in zip(rows, amounts, strict=True):
        alone = Costs(network, groups, example)
        for schedule, steps in zip(schedules, row, strict=True):
            alone.change(schedule.name, schedule.gone(int(steps)))
        assert amount == pytest.approx(alone.amount[measure], rel=1e-12)  # type: ignore[index]


def test_of_the_combinations_that_fit_the_one_nearest_to_the_scores_is_taken() -> None:
    """Three layers lose 2 of 6 channels; of all ways to do that, the one that removes the least score."""
    model, example = chain([4, 2, 2, 2, 3]), torch.zeros(1, 4)
    groups = cuttable(model, example)
    scores = ([0.1, 9.0], [5.0, 9.0], [0.2, 9.0])
    limits = {"allocation": "global", "round_to": None, "min_width": 1, "max_sparsity": 0.9}
    schedules = [make_width_schedule(g, torch.tensor(s), **limits) for g, s in zip(groups, scores, strict=True)]  # type: ignore[arg-type]
    widths = Widths(Costs(model, groups, example), schedules, "channels")
    found = search(widths, [0, 0, 0], 4.0, 4.0, 4.0, nearest=False)
    assert found.steps == (1, 0, 1)
    assert (found.combinations, found.complete) == (8, True)


def test_too_many_combinations_end_in_time_and_alike() -> None:
    """Thirty groups in coarse steps and a window that next to nothing fits: bounded, and the same every time."""
    model, example = chain([7] + [32] * 30 + [7]), torch.zeros(1, 7)
    groups = cuttable(model, example)
    found = []
    for _ in range(2):
        costs = Costs(model, groups, example)
        baseline = costs.amount["macs"]
        began = time.perf_counter()
        shrunk = shrink_to(costs, schedules_for(groups, round_to=16), "macs", baseline, 0.3, 1e-6)
        assert time.perf_counter() - began < 60
        found.append((shrunk, costs.amount["macs"]))
    assert found[0] == found[1]
    assert abs(1 - found[0][1] / baseline - 0.3) < 0.01


def test_a_search_that_is_not_complete_says_how_many_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning_bootcamp.pruning.channels import combinations

    monkeypatch.setattr(combinations, "MOST_ROWS", 8)
    monkeypatch.setattr(combinations, "LEAST_ROWS", 1)
    torch.manual_seed(0)
    with pytest.raises(GoalNotMet, match=r"nearest of the \d+ combinations of widths tried \(256 exist\) is 0\.\d+"):
        plan_structured(chain([4, *[8] * 8, 4]), torch.zeros(1, 4), score="l1", target_flops_reduction=0.16, round_to=4)
