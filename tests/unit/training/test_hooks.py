"""Masks and scale sparsity, on gradients and weights that can be reckoned by hand."""

import pytest
import torch
from torch import nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.training.hooks import (
    GrowingPenalty,
    MaskHook,
    PenaltyGrowth,
    ScaleSparsity,
    StepState,
    apply_masks_exactly,
)


def state_of(model: nn.Module) -> StepState:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return StepState(model, optimizer, total_steps=1, steps_per_epoch=1, replace_masks=lambda masks: None)


def test_pruned_weights_are_zero_at_once_and_after_any_step() -> None:
    model = nn.Linear(3, 2)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    hook = MaskHook(model, {"weight": mask})
    assert model.weight[~mask].count_nonzero() == 0
    with torch.no_grad():
        model.weight.fill_(-5)
        model.bias.fill_(-5)
    hook.on_step_end(state_of(model))
    assert torch.equal(model.weight, torch.where(mask, -5.0, 0.0))
    assert model.bias.eq(-5).all()


def test_the_mask_keeps_the_weights_memory_format() -> None:
    """One kernel for all weights needs factors that lie in memory as the weights do."""
    model = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    hook = MaskHook(model, {"weight": torch.rand(4, 4, 3, 3) > 0.5})
    assert [factor.stride() for factor in hook._factors] == [model.weight.stride()]


def test_gradients_of_pruned_weights_vanish_only_when_asked() -> None:
    model = nn.Linear(3, 2)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    for asked in (False, True):
        model.weight.grad = torch.ones(2, 3)
        MaskHook(model, {"weight": mask}, gradients_too=asked).on_gradients(state_of(model))
        assert model.weight.grad.sum() == (3 if asked else 6)


def test_a_masks_state_comes_back() -> None:
    model = nn.Linear(3, 2)
    hook = MaskHook(model, {"weight": torch.tensor([[True, False, True], [False, True, False]])})
    other = MaskHook(nn.Linear(3, 2), {})
    other.load_state_dict(hook.state_dict())
    assert torch.equal(other.masks["weight"], hook.masks["weight"])
    assert other.model.get_parameter("weight")[~hook.masks["weight"]].count_nonzero() == 0


def test_pruned_means_plus_zero_even_for_what_is_not_a_number() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[float("nan"), -1.0]]))
    apply_masks_exactly(model, {"weight": torch.tensor([[False, False]])})
    assert model.weight.tolist() == [[0.0, 0.0]]
    assert not torch.signbit(model.weight).any()


def test_scale_sparsity_adds_the_sign_of_each_scale() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([2.0, -3.0, 0.0]))
    model[1].weight.grad = torch.tensor([0.5, 0.5, 0.5])
    ScaleSparsity(model, 0.1).on_gradients(state_of(model))
    torch.testing.assert_close(model[1].weight.grad, torch.tensor([0.6, 0.4, 0.5]))


def test_scale_sparsity_without_scales_is_an_error() -> None:
    with pytest.raises(BootcampError, match="no batch-norm scale"):
        ScaleSparsity(nn.Linear(2, 2), 0.1)


@pytest.mark.parametrize(
    ("growth", "total", "expected"),
    [
        (PenaltyGrowth(step=0.25, every=2, ceiling=0.6), 8, [0.25, 0.25, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6]),
        (PenaltyGrowth(every=1, ceiling=1.0), 4, [1 / 3, 2 / 3, 1, 1]),
        (PenaltyGrowth(every=10, ceiling=2.0), 4, [2, 2, 2, 2]),
    ],
)
def test_a_penalty_grows_by_steps_up_to_its_ceiling(growth: PenaltyGrowth, total: int, expected: list[float]) -> None:
    assert [growth.at(done, total) for done in range(total)] == pytest.approx(expected)


def test_the_papers_growth_takes_a_hundred_thousand_steps() -> None:
    """1e-4 every 10 steps up to 1 (Wang et al., 2021)."""
    growth = PenaltyGrowth(step=1e-4)
    assert growth.at(99_989, 200_000) < 0.99995
    assert growth.at(99_990, 200_000) == pytest.approx(1.0)
    assert growth.at(199_999, 200_000) == 1.0


def test_a_growing_penalty_is_a_gradient_on_its_numbers_alone() -> None:
    model = nn.Linear(3, 2)
    where = torch.tensor([[True, False, True], [False, True, False]])
    hook = GrowingPenalty({"weight": where}, PenaltyGrowth(step=0.5, every=1, ceiling=10))
    state = state_of(model)
    hook.on_start(state)
    for done, penalty in ((0, 0.5), (1, 1.0), (3, 2.0)):
        state.step = done
        model.weight.grad, model.bias.grad = torch.ones(2, 3), torch.ones(2)
        hook.on_gradients(state)
        assert torch.equal(model.weight.grad, torch.where(where, 1 + penalty * model.weight.detach(), 1.0))
        assert model.bias.grad.eq(1).all()
    model.weight.grad = None  # frozen: left alone
    hook.on_gradients(state)
    assert model.weight.grad is None
