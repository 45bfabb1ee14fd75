"""Which parameters decay, how the learning rate of a step comes about, and fused optimisers against plain ones."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.training.optim import OPTIMIZERS, check_factors, learning_rate, parameter_groups, split_by_factor
from pruning_bootcamp.training.settings import FineTuneSettings, TrainSettings


def rates(total: int, **settings: object) -> list[float]:
    plain: dict = {"lr": 2.0, "schedule": "constant", "schedule_args": {}}
    return [learning_rate(step, total, **(plain | settings)) for step in range(total)]


def test_warm_up_is_linear_and_ends_at_the_full_rate() -> None:
    assert rates(6, warmup_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_the_schedule_begins_behind_the_warm_up() -> None:
    warm = rates(10, warmup_steps=2, schedule="cosine")
    assert warm[1] == 2.0
    assert warm[2:] == rates(8, schedule="cosine")


def test_milestones_are_shares_of_the_run() -> None:
    found = rates(20, schedule="multistep", schedule_args={"milestones": (0.5, 0.75), "factor": 0.1})
    assert found == pytest.approx([2.0] * 10 + [0.2] * 5 + [0.02] * 5)


def test_no_step_is_spent_on_a_rate_of_zero() -> None:
    for schedule in ("cosine", "onecycle"):
        assert min(rates(50, schedule=schedule)) > 0


def test_one_cycle_goes_up_then_down() -> None:
    found = rates(100, schedule="onecycle", schedule_args={"peak": 0.25, "start": 0.1})
    top = found.index(max(found))
    assert (top, found[top], found[0]) == (25, 2.0, pytest.approx(0.2))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)


@pytest.mark.parametrize(
    ("schedule", "wrong"),
    [("multistep", {"milestones": (1.5,)}), ("onecycle", {"peak": 1.0}), ("cosine", {"final": -0.1})],
)
def test_wrong_schedule_settings_are_named(schedule: str, wrong: dict) -> None:
    with pytest.raises(BootcampError, match=f"schedule.args.{next(iter(wrong))}"):
        rates(2, schedule=schedule, schedule_args=wrong)


class Shared(nn.Module):
    """One weight used by two layers, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.fixed = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)
        self.two.weight = self.one.weight
        self.norm, self.other = nn.BatchNorm1d(3), nn.LayerNorm(3)


def test_weight_decay_spares_norms_and_biases_only_when_asked() -> None:
    model = Shared()
    (everything,) = parameter_groups(model, 0.1, decay_norm_and_bias=True)
    assert len(everything["params"]) == 7  # one shared weight, two biases, two norms of two
    decayed, spared = parameter_groups(model, 0.1, decay_norm_and_bias=False)
    assert [id(p) for p in decayed["params"]] == [id(model.one.weight)]
    assert (decayed["weight_decay"], spared["weight_decay"], len(spared["params"])) == (0.1, 0.0, 6)


def test_a_frozen_network_can_not_be_trained() -> None:
    with pytest.raises(BootcampError, match="no parameter that can be trained"):
        OPTIMIZERS["sgd"](nn.Linear(2, 2).requires_grad_(False), lr=0.1, weight_decay=0.0)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(BootcampError, match=r"nesterov.*momentum"):
        OPTIMIZERS["sgd"](nn.Linear(2, 2), lr=0.1, weight_decay=0.0, momentum=0.0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimisers_step_as_torchs_plain_ones(name: str, layout: torch.memory_format) -> None:
    mine = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 2)).to(memory_format=layout)
    theirs = copy.deepcopy(mine)
    fused = OPTIMIZERS[name](mine, lr=0.1, weight_decay=0.01, decay_norm_and_bias=True)
    plain = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, foreach=False),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01, foreach=False),
    }[name](theirs.parameters())
    for _ in range(3):
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.empty_like(one).normal_()
            other.grad = one.grad.clone()
        fused.step()
        plain.step()
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_layer_learns_as_fast_as_its_factor_says_and_the_others_as_before(name: str) -> None:
    def step(factors: dict[str, float], lr: float = 0.01) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))
        optimizer = OPTIMIZERS[name](net, lr=lr, weight_decay=0.1)
        split_by_factor(optimizer, net, factors)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        net(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 8
        return {key: value.detach() for key, value in net.named_parameters()}

    one, ten = step({}), step({}, lr=0.1)
    found = step({"0.weight": 10, "0": 0, "3.*": 10, "*": 1})
    assert torch.equal(found.pop("0.weight"), ten["0.weight"]), "the first that fits counts"
    torch.manual_seed(0)
    assert torch.equal(found.pop("0.bias"), nn.Linear(3, 4).bias), "0 leaves a layer as it is"
    for key, value in found.items():
        assert torch.equal(value, (ten if key.startswith("3.") else one)[key]), key


def test_a_factor_for_no_layer_is_refused() -> None:
    net = nn.Sequential()
    net.add_module("layer1", nn.Linear(2, 2))
    check_factors(net, {"layer1": 2.0, "*.bias": 0.0})
    with pytest.raises(BootcampError) as caught:
        check_factors(net, {"layr1": 2.0, "layer1": 1.0, "fc.*": 1.0})
    assert [problem.path for problem in caught.value.problems] == ["lr_factors"] * 2
    assert "Did you mean 'layer1'?" in str(caught.value)


def test_fine_tuning_with_frozen_batch_norms_limits_its_steps() -> None:
    """Where nothing normalises by the batch, trainings diverged."""
    frozen, train = FineTuneSettings(freeze_batch_norm=True), TrainSettings()
    assert frozen.after(train).clip_grad_norm == 5.0
    assert frozen.after(replace(train, clip_grad_norm=2.0)).clip_grad_norm == 2.0
    assert replace(frozen, clip_grad_norm=9.0).after(replace(train, clip_grad_norm=2.0)).clip_grad_norm == 9.0
    assert FineTuneSettings().after(train).clip_grad_norm is None
