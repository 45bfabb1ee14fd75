"""Structured pruning as a whole: the plan keeps its word, the cut is proven, nothing happens silently."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.pruning.channels.checks import check_structured
from pruning_bootcamp.pruning.channels.structured import StructuredPlan, cut_channels, plan_structured

Make = Callable[[str], nn.Module]


def counted(model: nn.Module, example: Tensor) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example[:1])
    return counter.get_total_flops() / 2


def widths(plan: StructuredPlan) -> dict[str, tuple[int, int]]:
    return {group.name: (group.width, len(group.keep)) for group in plan.groups}


def wide(width: int = 64) -> nn.Module:
    """Wide enough for budgets to be met within a hundredth."""
    layers: list[nn.Module] = []
    for before, after in ((3, width), (width, width), (width, 2 * width)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        nn.init.uniform_(layers[-2].weight)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


def test_local_takes_the_rounded_share_of_every_group(network: nn.Module, example: Tensor) -> None:
    plan = plan_structured(network, example, score="l1", allocation="local", sparsity=0.5)
    assert len(plan.groups) >= 2
    for group in plan.groups:
        lost = group.width - len(group.keep)
        # a grouped convolution loses whole units: 4 channels of 12, for which round(0.5 * 3 units) is 2 units
        assert abs(lost - group.width / 2) <= (0.5 if lost % 4 else 2), group
    assert plan.achieved == pytest.approx(0.5, abs=0.1)
    assert all("output" in reason for reason in plan.uncuttable.values())


def test_the_worst_channels_go(example: Tensor) -> None:
    model = wide(8)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, 0.1, -0.9, 0.2, -0.05, 0.3, 0.4, 0.8]))
    plan = plan_structured(model, example, score="bn_scale", allocation="local", sparsity=0.5)
    assert plan.groups[0].name == "0"
    assert plan.groups[0].keep.tolist() == [0, 2, 6, 7]


def test_global_takes_the_exact_number_of_all(example: Tensor) -> None:
    plan = plan_structured(wide(), example, allocation="global", sparsity=0.3)
    assert sum(width - kept for width, kept in widths(plan).values()) == round(0.3 * 256)
    shares = [kept / width for width, kept in widths(plan).values()]
    assert max(shares) > min(shares)


@pytest.mark.parametrize("allocation", ["local", "global"])
@pytest.mark.parametrize("score", ["l1", "bn_scale", "random"])
@pytest.mark.parametrize(("budget", "asked"), [("flops_reduction", 0.5), ("params_reduction", 0.4)])
def test_a_budget_is_met_in_the_cut_network(
    example: Tensor, allocation: Any, score: str, budget: str, asked: float
) -> None:
    model = wide().eval()
    plan = plan_structured(model, example, score=score, allocation=allocation, **{f"target_{budget}": asked})
    cut = cut_channels(model, example, plan).model
    params = sum(parameter.numel() for parameter in model.parameters())
    cut_params = sum(parameter.numel() for parameter in cut.parameters())
    real = {
        "flops_reduction": 1 - counted(cut, example) / counted(model, example),
        "params_reduction": 1 - cut_params / params,
    }
    assert asked - 1e-9 <= real[budget] <= asked + 0.01
    assert real[budget] == pytest.approx(plan.achieved)
    assert real["flops_reduction"] == pytest.approx(plan.macs_reduction)
    assert real["params_reduction"] == pytest.approx(plan.params_reduction)
    assert (plan.params_before, plan.params_after) == (params, cut_params)
    assert (plan.macs_before, plan.macs_after) == (counted(model, example), counted(cut, example))


def test_every_small_network_is_cut_with_a_proof(network: nn.Module, example: Tensor) -> None:
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    plan = plan_structured(network, example, score="l2", allocation="local", sparsity=0.5)
    result = cut_channels(network, example, plan)
    assert result.proof.relative < 1e-9
    # the given model is as it was
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    # the new one is of its kind: mode, frozen parameters, a plain module that can learn
    assert result.model.training
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert {name for name, parameter in result.model.named_parameters() if not parameter.requires_grad} == frozen
    result.model(torch.randn(example.shape)).sum().backward()
    assert all(p.grad is not None for p in result.model.parameters() if p.requires_grad)
    assert sum(p.numel() for p in result.model.parameters()) == plan.params_after


def test_the_plan_is_the_same_again_and_another_with_another_seed(example: Tensor) -> None:
    def kept(seed: int) -> list[list[int]]:
        torch.manual_seed(0)
        plan = plan_structured(wide(), example, score="random", sparsity=0.5, seed=seed)
        return [group.keep.tolist() for group in plan.groups]

    assert kept(1) == kept(1)
    assert kept(1) != kept(2)


def test_a_baseline_with_cheaper_shortcuts_counts(example: Tensor) -> None:
    """The cost that making a network prunable added must be saved as well."""
    model = wide()
    own = plan_structured(model, example, target_flops_reduction=0.5)
    plan = plan_structured(model, example, target_flops_reduction=0.5, baseline_macs=0.9 * own.macs_before)
    assert plan.macs_after <= 0.45 * own.macs_before
    assert plan.macs_before == own.macs_before
    assert plan.macs_reduction == pytest.approx(plan.achieved)
    assert 0.5 - 1e-9 <= plan.achieved <= 0.51


@pytest.mark.parametrize("budget", [{"sparsity": 0.5}, {"target_flops_reduction": 0.5}])
@pytest.mark.parametrize("allocation", ["local", "global"])
def test_round_to_gives_multiples(example: Tensor, allocation: Any, budget: dict[str, float]) -> None:
    plan = plan_structured(wide(160), example, allocation=allocation, round_to=8, **budget)
    for width, kept in widths(plan).values():
        assert kept == width or kept % 8 == 0
    assert any(kept < width for width, kept in widths(plan).values())
    assert plan.achieved == pytest.approx(0.5, abs=0.01)


def test_a_group_too_narrow_for_round_to_is_reported(make_network: Make, example: Tensor) -> None:
    plan = plan_structured(make_network("residual"), example, allocation="local", sparsity=0.5, round_to=8)
    assert "too few" in plan.uncuttable["stem.0"]
    assert widths(plan) == {"conv1": (12, 8), "conv2": (16, 8)}
    assert "loses 4 of 12, not 6" in plan.limited["conv1"]


def test_min_width_and_max_sparsity_hold(example: Tensor) -> None:
    plan = plan_structured(wide(), example, target_flops_reduction=0.65, max_sparsity=0.5, min_width=40)
    assert all(kept >= max(40, width / 2) for width, kept in widths(plan).values())
    assert plan.limited
    assert "all that the limits allow" in next(iter(plan.limited.values()))


def test_no_layer_dies(example: Tensor) -> None:
    plan = plan_structured(wide(8), example, score="l1", allocation="local", sparsity=0.99, max_sparsity=0.999)
    assert min(kept for _, kept in widths(plan).values()) == 1


def test_an_excluded_layer_keeps_its_channels(make_network: Make, example: Tensor) -> None:
    plan = plan_structured(make_network("residual"), example, sparsity=0.5, allocation="local", exclude=["conv3"])
    assert plan.uncuttable["conv2"] == "excluded by 'conv3'"  # conv3 writes into the sum that conv2 begins
    assert set(widths(plan)) == {"stem.0", "conv1"}


def test_groups_without_a_batch_norm_are_reported_under_bn_scale(make_network: Make, example: Tensor) -> None:
    model = make_network("plain")
    plan = plan_structured(model, example, score="bn_scale", sparsity=0.5)
    assert "needs a batch norm" in plan.uncuttable["7"]
    assert set(widths(plan)) == {"0", "4"}
    assert "7" in widths(plan_structured(model, example, score="l1", sparsity=0.5))


def test_what_cannot_be_reached_says_what_can(make_network: Make, example: Tensor) -> None:
    with pytest.raises(GoalNotMet, match=r"flops_reduction 0.9 can't be reached: 0\.\d+ is the most") as caught:
        plan_structured(make_network("plain"), example, score="bn_scale", target_flops_reduction=0.9, max_sparsity=0.4)
    assert "max_sparsity=0.4" in str(caught.value)
    assert "not cut: 7: the score bn_scale needs a batch norm" in str(caught.value)
    assert caught.value.exit_code == 3


def test_steps_too_coarse_say_so(make_network: Make, example: Tensor) -> None:
    with pytest.raises(GoalNotMet, match=r"steps too coarse for it \(round_to=8"):
        plan_structured(make_network("residual"), example, target_flops_reduction=0.11, round_to=8)


def test_a_silent_no_op_is_an_error(make_network: Make, example: Tensor) -> None:
    with pytest.raises(BootcampError, match="cuts nothing"):
        plan_structured(make_network("residual"), example, allocation="local", sparsity=0.01)
    with pytest.raises(BootcampError, match=r"(?s)cutting this network.*needs a batch norm.*network's output"):
        plan_structured(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), example, sparsity=0.5)


def test_an_unknown_layer_to_exclude_is_an_error(make_network: Make, example: Tensor) -> None:
    with pytest.raises(BootcampError, match="Did you mean 'conv3'"):
        plan_structured(make_network("residual"), example, sparsity=0.5, exclude=["conv33"])


def test_weights_that_are_not_finite_stop_the_plan(make_network: Make, example: Tensor) -> None:
    model = make_network("residual")
    with torch.no_grad():
        model.bn2.weight[3] = float("nan")
    with pytest.raises(BootcampError, match="bn2"):
        plan_structured(model, example, sparsity=0.5)


def test_a_plan_for_another_network_is_refused(make_network: Make, example: Tensor) -> None:
    plan = plan_structured(make_network("residual"), example, sparsity=0.5)
    with pytest.raises(BootcampError, match=r"stem\.0"):
        cut_channels(make_network("plain"), example, plan)


def test_a_cut_network_can_be_cut_again(make_network: Make, example: Tensor) -> None:
    model = make_network("residual")
    for _ in range(2):
        plan = plan_structured(model, example, allocation="local", sparsity=0.5)
        model = cut_channels(model, example, plan).model
    assert [model.stem[0].out_channels, model.conv1.out_channels, model.conv2.out_channels] == [2, 3, 4]
    assert model.shortcut.weight.shape[:2] == (4, 2)


def test_weights_pruned_before_stay_zero(make_network: Make, example: Tensor) -> None:
    """A model with torch.nn.utils.prune attached can be planned and cut; its zeros come along."""
    model = make_network("residual")
    torch.nn.utils.prune.random_unstructured(model.conv3, "weight", 0.5)
    plan = plan_structured(model, example, allocation="local", sparsity=0.5)
    cut = cut_channels(model, example, plan).model
    keep = next(group.keep for group in plan.groups if group.name == "conv2")
    assert torch.equal(cut.conv3.weight, model.conv3.weight[keep][:, keep])
    assert (cut.conv3.weight == 0).float().mean() > 0.4
    assert isinstance(cut.conv3.weight, nn.Parameter)


def test_all_problems_of_the_settings_at_once() -> None:
    assert check_structured(sparsity=0.5) == []
    problems = check_structured(
        score="bn_scales",
        allocation="globl",
        sparsity=1.5,
        target_flops_reduction=0.5,
        round_to=0,
        max_sparsity=1.0,
        where="structured",
    )
    text = "\n".join(map(str, problems))
    assert len(problems) == 6
    assert "structured.score.name: unknown channel score 'bn_scales'. Did you mean 'bn_scale'?" in text
    assert "structured.allocation: unknown allocation 'globl'. Did you mean 'global'?" in text
    assert "give exactly one budget (sparsity, target_flops_reduction, target_params_reduction, target_lat" in text
    assert "structured.sparsity: 1.5 is not in [0, 1)" in text
    assert "structured.round_to: 0" in text
    assert "structured.max_sparsity: 1.0" in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sparsity": 0.0}, "0.0 is not between"),
        ({"target_flops_reduction": 1.0}, "structured.target_flops_reduction: 1.0"),
        ({"sparsity": 0.95}, "max_sparsity 0.9"),
        ({"sparsity": 0.5, "score": "l1", "score_args": {"p": 1}}, "structured.score.args.p"),
    ],
)
def test_one_problem_each(settings: dict[str, Any], words: str) -> None:
    problems = check_structured(**settings)
    assert len(problems) == 1
    assert words in str(problems[0])
    with pytest.raises(BootcampError):
        plan_structured(nn.Sequential(nn.Conv2d(3, 4, 1)), torch.zeros(1, 3, 4, 4), **settings)
