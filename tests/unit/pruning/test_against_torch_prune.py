"""Bit-equal to torch.nn.utils.prune where it has the same method: masks and weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning_bootcamp.pruning.masks import make_plain
from pruning_bootcamp.pruning.weights.unstructured import prune_unstructured


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 16, 3, groups=2)
        self.up = nn.ConvTranspose2d(16, 4, 2)
        self.fc = nn.Linear(64, 10)


def without_ties(model: nn.Module) -> None:
    """Every weight a different size, in random order, with both signs."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    total = sum(weight.numel() for weight in weights)
    sizes = (torch.randperm(total) + 1).float() / total * torch.where(torch.rand(total) < 0.5, -1.0, 1.0)
    with torch.no_grad():
        for weight, part in zip(weights, sizes.split([weight.numel() for weight in weights]), strict=True):
            weight.copy_(part.reshape(weight.shape))


def pruned_by_torch(model: nn.Module, sparsity: float, allocation: str) -> dict[str, Tensor]:
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
    ]
    if allocation == "global":
        parameters = [(module, "weight") for _, module in layers]
        prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=sparsity)
    else:
        for _, module in layers:
            prune.l1_unstructured(module, "weight", amount=sparsity)
    return {f"{name}.weight": module.weight_mask.bool() for name, module in layers}


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.73, 0.9, 0.99])
@pytest.mark.parametrize("p", [1, 2])
def test_masks_and_weights_equal_torchs(allocation: str, sparsity: float, p: int) -> None:
    ours, theirs = SmallNet(), SmallNet()
    without_ties(ours)
    theirs.load_state_dict(ours.state_dict())
    expected = pruned_by_torch(theirs, sparsity, allocation)
    make_plain(theirs)
    result = prune_unstructured(ours, sparsity=sparsity, allocation=allocation, score_args={"p": p})
    assert list(result.masks) == list(expected)
    assert all(torch.equal(keep, expected[name]) for name, keep in result.masks.items())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=4),
    st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=40, deadline=None)
def test_any_shapes_and_any_sparsity(allocation: str, shapes: list[tuple[int, int]], sparsity: float) -> None:
    ours, theirs = (nn.ModuleList([nn.Linear(*shape) for shape in shapes]) for _ in range(2))
    without_ties(ours)
    theirs.load_state_dict(ours.state_dict())
    expected = pruned_by_torch(theirs, sparsity, allocation)
    result = prune_unstructured(ours, sparsity=sparsity, allocation=allocation)
    assert all(torch.equal(keep, expected[name]) for name, keep in result.masks.items())
