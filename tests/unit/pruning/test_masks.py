"""Masks: exact zeros, never another model's, and copies that work after torch's own pruning."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.masks import (
    SparsityMask,
    apply_masks,
    check_masks,
    detached_copy,
    generate_nm_mask,
    generate_unstructured_mask,
    make_plain,
)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def torch_pruned() -> nn.Sequential:
    net = network()
    prune.l1_unstructured(net[0], "weight", 0.5)
    prune.l1_unstructured(net[3], "weight", 0.3)
    prune.random_unstructured(net[3], "weight", 0.3)  # twice: a container of methods
    prune.l1_unstructured(net[3], "bias", 1)
    return net


def test_detached_copy_works_where_deepcopy_does_not() -> None:
    net = torch_pruned()
    images = torch.randn(2, 2, 4, 4)
    expected = net(images)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    copied = detached_copy(net)
    assert torch.equal(copied(images), expected)
    assert sorted(copied.state_dict()) == sorted(network().state_dict())
    assert isinstance(copied[3].weight, nn.Parameter)
    # the model itself is as before, and shares nothing with the copy
    assert "3.weight_orig" in net.state_dict()
    with torch.no_grad():
        copied[3].weight.fill_(7)
    assert torch.equal(net(images), expected)


def test_a_copy_of_a_plain_model_keeps_its_state() -> None:
    net = network().eval()
    net[0].weight.requires_grad_(False)
    copied = detached_copy(net)
    assert not copied.training
    assert not copied[0].weight.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), copied.parameters(), strict=True))


def test_make_plain_leaves_exact_positive_zeros() -> None:
    net = torch_pruned()
    masks = {"0.weight": net[0].weight_mask.bool(), "3.weight": net[3].weight_mask.bool()}
    assert sorted(make_plain(net)) == ["0.weight", "3.bias", "3.weight"]
    for name, keep in masks.items():
        weight = net.get_parameter(name)
        assert (weight[~keep] == 0).all()
        assert not torch.signbit(weight[~keep]).any()
    assert make_plain(net) == []


def test_applied_masks_write_positive_zero_even_over_nan() -> None:
    net = network()
    with torch.no_grad():
        net[3].weight[0, 0] = math.nan
        net[3].weight[0, 1] = -1.0
    keep = torch.ones(3, 16, dtype=torch.bool)
    keep[0, :2] = False
    kept_before = net[3].weight.detach()[keep].clone()
    apply_masks(net, {"3.weight": keep})
    assert net[3].weight[0, :2].tolist() == [0.0, 0.0]
    assert not torch.signbit(net[3].weight[0, :2]).any()
    assert torch.equal(net[3].weight.detach()[keep], kept_before)
    assert net[3].weight.requires_grad


def test_masks_of_another_model_are_refused_with_every_reason() -> None:
    masks = {
        "layer1.0.weight": torch.ones(4, 2, 3, 3, dtype=torch.bool),
        "0.weight": torch.ones(4, 2, 5, 5, dtype=torch.bool),
        "3.weight": torch.ones(3, 16),
    }
    net = network()
    before = [parameter.clone() for parameter in net.parameters()]
    with pytest.raises(BootcampError) as caught:
        apply_masks(net, masks)
    text = str(caught.value)
    assert "1 of 3 masks name no weight of this model, first 'layer1.0.weight'" in text
    assert "0.weight: the mask has shape (4, 2, 5, 5), the weight (4, 2, 3, 3)" in text
    assert "3.weight: the mask holds torch.float32" in text
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    check_masks(net, {})


def test_an_unstructured_mask_counts_and_applies() -> None:
    weight = torch.randn(8, 16)
    mask = generate_unstructured_mask(weight.abs(), 0.5)
    assert (mask.sparsity(), mask.nnz(), mask.num_zeros()) == (0.5, 64, 64)
    pruned = weight.clone()
    assert mask.apply(pruned) is pruned
    assert int((pruned == 0).sum()) == 64
    assert torch.equal(pruned[mask.keep], weight[mask.keep])
    assert weight[~mask.keep].abs().max() <= weight[mask.keep].abs().min()
    with pytest.raises(BootcampError, match="shape"):
        mask.apply(torch.zeros(3, 3))


def test_a_2_4_mask_is_valid_in_every_group() -> None:
    mask = generate_nm_mask(torch.randn(8, 8).abs(), 2, 4)
    assert mask.sparsity() == 0.5
    assert mask.keep.reshape(-1, 4).sum(1).tolist() == [2] * 16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: generate_nm_mask(torch.rand(4, 6), 2, 4), "6 inputs per output, 2:4 needs a multiple of 4"),
        (lambda: generate_nm_mask(torch.rand(4, 8), 4, 2), "Did you mean 2:4"),
        (lambda: generate_nm_mask(torch.rand(4, 8), 0, 4), "at least 1"),
        (lambda: generate_unstructured_mask(torch.rand(4), 1.0), r"1.0 is not in \[0, 1\)"),
        (lambda: generate_unstructured_mask(torch.tensor([1.0, math.nan]), 0.5), "NaN or Inf"),
    ],
)
def test_impossible_masks_are_explained(make: object, message: str) -> None:
    with pytest.raises(BootcampError, match=message):
        make()  # type: ignore[operator]


def test_a_mask_may_be_given_as_numbers() -> None:
    assert SparsityMask(torch.tensor([1.0, 0.0, 1.0])).num_zeros() == 1
