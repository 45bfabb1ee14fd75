"""Budgets: costs are exact for any widths, and the solver meets what was asked or comes as near as steps allow."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pruning_bootcamp.pruning.channels.budget import most_reachable, shrink_to
from pruning_bootcamp.pruning.channels.costs import Costs
from pruning_bootcamp.pruning.channels.width_schedules import WidthSchedule, make_width_schedule, nearest_step
from pruning_bootcamp.pruning.graph import Group, cut_members, find_groups


def cuttable(model: nn.Module, example: Tensor) -> list[Group]:
    return [group for group in find_groups(model, example) if group.reason is None]


def counted(model: nn.Module, example: Tensor) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(example[:1])
    return counter.get_total_flops() / 2


def test_costs_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 5))
    example = torch.zeros(1, 3, 4, 4)
    costs = Costs(model, cuttable(model, example), example)
    # 2x2 output pixels
    whole = {"macs": 4 * 27 * 8 + 32 * 5, "params": 27 * 8 + 8 + 16 + 32 * 5 + 5, "channels": 8, "time": 0}
    assert costs.amount == whole
    costs.change("0", [1, 5, 6])
    cut = {"macs": 4 * 27 * 5 + 20 * 5, "params": 27 * 5 + 5 + 10 + 20 * 5 + 5, "channels": 5, "time": 0}
    assert costs.amount == cut
    costs.change("0", [5], back=True)
    assert costs.amount["channels"] == 6
    assert costs.amount["macs"] == 4 * 27 * 6 + 24 * 5


@pytest.mark.parametrize("seed", range(3))
def test_costs_are_what_the_cut_network_costs(network: nn.Module, example: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups = cuttable(network, example)
    costs = Costs(network, groups, example)
    assert costs.amount["macs"] == counted(network, example)
    keep = {}
    for group in groups:
        keep[group.name] = torch.rand(group.width, generator=generator) > 0.4
        keep[group.name][0] = True
        costs.change(group.name, (~keep[group.name]).nonzero().flatten().tolist())
    cut_members(network, groups, keep)
    assert costs.amount["macs"] == counted(network, example)
    assert costs.amount["params"] == sum(parameter.numel() for parameter in network.parameters())


def test_costs_leave_the_model_as_it_was(make_network: Callable[[str], nn.Module], example: Tensor) -> None:
    model = make_network("residual").train()
    mean = model.bn1.running_mean.clone()
    Costs(model, cuttable(model, example), example)
    assert model.training
    assert torch.equal(model.bn1.running_mean, mean)
    assert not any(module._forward_hooks for module in model.modules())


def one_group(width: int, blocks: int = 1) -> Group:
    model = nn.Sequential(nn.Conv2d(blocks, width, 1, groups=blocks), nn.ReLU(), nn.Conv2d(width, 1, 1))
    return next(group for group in find_groups(model, torch.zeros(1, blocks, 2, 2)) if group.name == "0")


SCORE = torch.tensor([4.0, 1.0, 3.0, 1.0, 2.0, 5.0, 6.0, 2.0])


def test_a_schedule_goes_from_the_worst_and_breaks_ties_by_number() -> None:
    schedule = make_width_schedule(
        one_group(8), SCORE, allocation="global", round_to=None, min_width=1, max_sparsity=0.9
    )
    assert schedule.order == (1, 3, 4, 7, 2, 0, 5, 6)
    assert schedule.removed == tuple(range(8))  # one channel is left
    assert schedule.keys == pytest.approx([score / 3 for score in (1, 1, 2, 2, 3, 4, 5)])  # the mean is 3


def test_a_local_schedule_is_due_by_share() -> None:
    schedule = make_width_schedule(
        one_group(8), SCORE, allocation="local", round_to=None, min_width=1, max_sparsity=0.9
    )
    assert schedule.keys == pytest.approx([n / 8 for n in range(1, 8)])


@pytest.mark.parametrize(
    ("limits", "removed"),
    [
        ({"round_to": 4}, (0, 4)),
        ({"round_to": 3}, (0, 2, 5)),
        ({"round_to": 8}, (0,)),
        ({"min_width": 6}, (0, 1, 2)),
        ({"max_sparsity": 0.5}, (0, 1, 2, 3, 4)),
        ({"max_sparsity": 0.1}, (0,)),
    ],
)
def test_limits_of_a_schedule(limits: dict[str, float], removed: tuple[int, ...]) -> None:
    settings = {"round_to": None, "min_width": 1, "max_sparsity": 0.9} | limits
    assert make_width_schedule(one_group(8), SCORE, allocation="global", **settings).removed == removed


def test_round_to_counts_channels_not_units() -> None:
    """Four blocks of two: a unit is four channels, so every width is a multiple of 4 and half of them of 8."""
    group = one_group(16, blocks=4)
    assert (group.width, group.channels) == (4, 16)
    score = torch.arange(4.0)
    schedule = make_width_schedule(group, score, allocation="global", round_to=8, min_width=1, max_sparsity=0.9)
    assert schedule.removed == (0, 2)


def test_the_nearest_stop_is_the_share_rounded() -> None:
    schedule = WidthSchedule("x", tuple(range(10)), (0, 2, 4, 6), (0.0, 0.0, 0.0))
    assert [nearest_step(schedule, share) for share in (0.0, 0.1, 0.3, 0.4, 0.9)] == [0, 0, 1, 2, 3]


def schedules_for(groups: list[Group], **limits: object) -> list[WidthSchedule]:
    settings = {"allocation": "global", "round_to": None, "min_width": 1, "max_sparsity": 0.9} | limits
    generator = torch.Generator().manual_seed(0)
    return [make_width_schedule(group, torch.rand(group.width, generator=generator), **settings) for group in groups]


def deep() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 64), (64, 96), (96, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


@pytest.mark.parametrize("allocation", ["local", "global"])
@pytest.mark.parametrize("measure", ["macs", "params", "channels"])
@pytest.mark.parametrize("reduction", [0.1, 0.37, 0.5, 0.85])
def test_the_target_is_reached_and_hardly_passed(allocation: str, measure: str, reduction: float) -> None:
    model, example = deep(), torch.zeros(1, 3, 8, 8)
    groups = cuttable(model, example)
    costs = Costs(model, groups, example)
    baseline = costs.amount[measure]
    schedules = schedules_for(groups, allocation=allocation)
    taken = shrink_to(costs, schedules, measure, baseline, reduction, 0.01).taken
    achieved = 1 - costs.amount[measure] / baseline
    assert reduction - 1e-9 <= achieved <= reduction + 0.01 + 1e-9
    if allocation == "local":
        shares = [schedule.removed[taken[schedule.name]] / len(schedule.order) for schedule in schedules]
        assert max(shares) - min(shares) < 0.05


def test_exchange_finds_what_plain_steps_miss() -> None:
    """Channels worth 8 and 10, of which 10 are asked: the order says 8 first, after which no step fits."""

    class Costing(Costs):
        def __init__(self) -> None:
            self.amount = {"macs": 100.0, "params": 0.0, "channels": 0.0}

        def change(self, name: str, units: object, back: bool = False) -> None:
            self.amount["macs"] += (1 if back else -1) * (8 if name == "first" else 10) * len(units)  # type: ignore[arg-type]

    schedules = [WidthSchedule("first", (0, 1), (0, 1), (0.0,)), WidthSchedule("second", (0, 1), (0, 1), (0.2,))]
    costs = Costing()
    taken = shrink_to(costs, schedules, "macs", 100, 0.10, 0.01).taken
    assert taken == {"first": 0, "second": 1}
    assert costs.amount["macs"] == 90


def test_most_reachable_changes_nothing() -> None:
    model, example = deep(), torch.zeros(1, 3, 8, 8)
    groups = cuttable(model, example)
    costs = Costs(model, groups, example)
    schedules = schedules_for(groups, max_sparsity=0.5)
    taken = dict.fromkeys((schedule.name for schedule in schedules), 1)
    for schedule in schedules:
        costs.change(schedule.name, schedule.gone(1))
    before = dict(costs.amount)
    assert most_reachable(costs, schedules, taken, "channels") == 176  # half of 64 + 96 + 64 + 128
    assert costs.amount == pytest.approx(before)


def test_equal_scores_shrink_all_groups_alike() -> None:
    model, example = deep(), torch.zeros(1, 3, 8, 8)
    groups = cuttable(model, example)
    limits = {"allocation": "global", "round_to": None, "min_width": 1, "max_sparsity": 0.9}
    schedules = [make_width_schedule(group, torch.ones(group.width), **limits) for group in groups]
    costs = Costs(model, groups, example)
    taken = shrink_to(costs, schedules, "channels", costs.amount["channels"], 0.5, 0.01).taken
    assert [taken[group.name] for group in groups] == [32, 48, 32, 64]
