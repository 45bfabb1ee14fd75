"""Channels cut in several goes: each meets its part of what the network cost before the first."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import GoalNotMet
from pruning_bootcamp.flow.steps.cut import composed, renumbered
from pruning_bootcamp.pruning.channels.checks import check_structured
from pruning_bootcamp.pruning.channels.structured import StructuredPlan, cut_channels, plan_structured
from pruning_bootcamp.pruning.sections import StructuredSettings
from pruning_bootcamp.pruning.weights.schedules import iterative_sparsities
from pruning_bootcamp.schema import Choice
from pruning_bootcamp.tools.metrics import compute_params, count_products

SHARES = iterative_sparsities(1.0, 3)


def plain(width: int = 32) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, width), (width, width), (width, 2 * width)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        nn.init.uniform_(layers[-2].weight)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)).eval()


def macs(model: nn.Module, example: Tensor) -> float:
    return sum(product.macs for product in count_products(model, example[:1])[0])


def in_cycles(
    model: nn.Module, example: Tensor, key: str, asked: float, **given: object
) -> list[tuple[StructuredPlan, nn.Module, dict[str, Tensor]]]:
    """Each cycle's plan, the network after it, and the channels of the first network that are left."""
    found: list[tuple[StructuredPlan, nn.Module, dict[str, Tensor]]] = []
    now, kept, widths = model, dict[str, Tensor](), dict[str, int]()
    for number, share in enumerate(SHARES, start=1):
        plan = plan_structured(
            now,
            example,
            **{key: share * asked},
            **given,
            baseline_macs=macs(model, example),
            baseline_params=compute_params(model),
            widths=widths or None,
            on_the_way=number < len(SHARES),
        )
        widths = widths or {group.name: group.width for group in plan.groups}
        cut = cut_channels(now, example, plan)
        now, kept = cut.model, composed(kept, cut.kept)
        found.append((plan, now, kept))
    return found


@pytest.mark.parametrize("allocation", ["local", "global"])
@pytest.mark.parametrize("key", ["target_flops_reduction", "target_params_reduction"])
def test_every_cycle_meets_its_share_of_the_first_networks_cost(example: Tensor, key: str, allocation: str) -> None:
    model = plain()
    cost = (lambda one: macs(one, example)) if "flops" in key else compute_params
    for share, (plan, cut, _) in zip(SHARES, in_cycles(model, example, key, 0.6, allocation=allocation), strict=True):
        assert plan.achieved == pytest.approx(0.6 * share, abs=0.01)
        assert 1 - cost(cut) / cost(model) == pytest.approx(plan.achieved)


def test_locally_each_cycle_ends_at_the_rounded_share_of_every_group(example: Tensor) -> None:
    model = plain(20)
    for share, (_, cut, _) in zip(SHARES, in_cycles(model, example, "sparsity", 0.7, allocation="local"), strict=True):
        for number, width in ((0, 20), (3, 20), (6, 40)):
            assert cut[number].out_channels == width - round(0.7 * share * width)


def test_of_all_channels_each_cycle_takes_its_share_exactly(example: Tensor) -> None:
    for share, (_, cut, _) in zip(
        SHARES, in_cycles(plain(), example, "sparsity", 0.5, allocation="global"), strict=True
    ):
        assert sum(cut[number].out_channels for number in (0, 3, 6)) == 128 - round(0.5 * share * 128)


def test_no_group_loses_more_than_it_may_in_all_cycles_together(example: Tensor) -> None:
    model = plain()
    with torch.no_grad():
        model[1].weight[:24] = 1e-3  # they would go first, all of them
    cycles = in_cycles(model, example, "target_flops_reduction", 0.6, score="bn_scale", max_sparsity=0.5)
    assert [cut[0].out_channels for _, cut, _ in cycles] == [16, 16, 16]
    assert cycles[-1][0].limited["0"] == "loses 16 of 32, all that the limits allow"


def test_what_is_left_is_what_comparing_weights_finds(network: nn.Module, example: Tensor) -> None:
    """Nothing is trained between, so every cut tensor is the dense one's, indexed by the channels that are left."""
    torch.nn.init.normal_(next(network.parameters()))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    network.eval()
    _, cut, kept = in_cycles(network, example, "sparsity", 0.5, score="random", allocation="local")[-1]
    compared = 0
    for path, channels in kept.items():
        ours, dense = cut.get_submodule(path), network.get_submodule(path)
        if isinstance(ours, nn.BatchNorm2d):
            assert torch.equal(ours.weight, dense.weight[channels]), path
            compared += len(channels) < dense.num_features
        elif isinstance(ours, nn.Conv2d | nn.Linear) and ours.bias is not None:
            assert torch.equal(ours.bias, dense.bias[channels]), path
            compared += len(channels) < len(dense.bias)
    assert compared


def test_composition_counts_in_the_first_networks_channels() -> None:
    earlier = {"a": torch.tensor([1, 4, 5, 9]), "b": torch.tensor([0, 2])}
    now = {"a": torch.tensor([0, 3]), "c": torch.tensor([2])}
    assert {path: left.tolist() for path, left in composed(earlier, now).items()} == {
        "a": [1, 9],
        "b": [0, 2],
        "c": [2],
    }


def test_renumbering_undoes_the_composition(network: nn.Module, example: Tensor) -> None:
    first = plan_structured(network, example, score="random", allocation="local", sparsity=0.3)
    once = cut_channels(network, example, first)
    second = plan_structured(once.model, example, score="random", allocation="local", sparsity=0.3, seed=1)
    twice = cut_channels(once.model, example, second)
    found = renumbered(composed(once.kept, twice.kept), once.kept)
    assert found.keys() == once.kept.keys() | twice.kept.keys()
    assert all(torch.equal(found[path], left) for path, left in twice.kept.items())


def test_where_steps_are_too_coarse_only_the_last_cycle_is_an_error(example: Tensor) -> None:
    """One group of two halves: a quarter can't be cut."""
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    coarse = {"target_flops_reduction": 0.25, "round_to": 16, "score": "l1"}
    with pytest.raises(GoalNotMet, match="can't be met within"):
        plan_structured(model, example, **coarse)
    plan = plan_structured(model, example, **coarse, on_the_way=True)
    assert plan.achieved == 0
    assert [len(group.keep) for group in plan.groups] == [32]
    assert cut_channels(model, example, plan).proof.max_difference == 0


@pytest.mark.parametrize("allocation", ["local", "global", "measured"])
def test_a_budget_that_is_met_already_takes_nothing_more(example: Tensor, allocation: str) -> None:
    model = plain()
    first = plan_structured(model, example, sparsity=0.5, score="l1", allocation="local")
    cut = cut_channels(model, example, first).model
    widths = {group.name: group.width for group in first.groups}
    scores = {group.name: torch.rand(len(group.keep)) for group in first.groups}
    losses = {name: torch.linspace(0, 1, len(score) + 1) for name, score in scores.items()}
    measured = {"scores": scores, "losses": losses} if allocation == "measured" else {}
    again = plan_structured(cut, example, sparsity=0.5, score="l1", allocation=allocation, widths=widths, **measured)
    assert again.achieved == pytest.approx(0.5)
    assert all(len(group.keep) == group.width for group in again.groups)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"iterations": 0}, "structured.iterations: 0 is not in [1, 1000]."),
        ({"iterations": 10**9}, "structured.iterations: 1000000000 is not in [1, 1000]."),
        ({"iterations": 3, "schedule": Choice("cubik")}, "Did you mean 'cubic'?"),
        ({"iterations": 3, "schedule": Choice("one_shot")}, "one_shot leaves cycle 2 of 3 nothing to cut"),
        ({"iterations": 3, "schedule": Choice("one_shot", {"at": 0.5})}, "one_shot leaves cycle 1 of 3 nothing to cut"),
        ({"iterations": 3, "only_dead": True}, "structured.iterations: says what to cut"),
        ({"grow_penalty": "3ep", "only_dead": True}, "structured.grow_penalty: says what to cut"),
        ({"grow_penalty": "3ep", "grow_every": 0}, "structured.grow_every: 0 is not at least 1."),
        ({"grow_penalty": "3ep", "grow_ceiling": 0.0}, "structured.grow_ceiling: 0.0 is not above 0."),
        ({"grow_penalty": "3ep", "grow_step": 2.0}, "structured.grow_step: 2 is above grow_ceiling, 1."),
        ({"grow_step": 1e-4}, "structured.grow_step: 0.0001, and no penalty grows."),
    ],
)
def test_settings_without_sense_are_refused(changes: dict[str, object], said: str) -> None:
    problems = check_structured(dataclasses.replace(StructuredSettings(), **changes))
    assert any(said in str(problem) for problem in problems), problems
