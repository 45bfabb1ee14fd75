"""Which weights are prunable, under which names, and what the patterns choose."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.targets import choose_targets, find_targets, swap_channels, transposed_groups


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv1d(4, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, groups=2))
        self.attention = nn.MultiheadAttention(8, 2)
        self.embedding = nn.Embedding(5, 8)
        self.fc = nn.Linear(8, 5)


ALL = [
    "conv1.weight",
    "block.0.weight",
    "block.2.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "fc.weight",
]


def test_convolutions_linears_and_attention_in_model_order() -> None:
    net = Net()
    targets = find_targets(net)
    assert list(targets) == ALL
    assert targets["block.2.weight"] is net.block[2].weight


def test_a_layer_alone_is_a_model() -> None:
    assert list(find_targets(nn.Linear(2, 2))) == ["weight"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["block"], [], ["block.0.weight", "block.2.weight"]),
        (["block.*"], ["*.2"], ["block.0.weight"]),
        (["fc", "conv1"], [], ["conv1.weight", "fc.weight"]),
        (["*.weight"], ["attention", "block.[02]"], ["conv1.weight", "fc.weight"]),
        ([], ["conv1", "fc"], ALL[1:5]),
    ],
)
def test_include_and_exclude(include: list[str], exclude: list[str], expected: list[str]) -> None:
    targets = choose_targets(Net(), include=include, exclude=exclude)
    assert list(targets.chosen) == expected
    assert sorted([*targets.chosen, *targets.left_out]) == sorted([*ALL, "embedding.weight"])
    for pattern in exclude:
        assert any(f"'{pattern}'" in reason for reason in targets.left_out.values())


def test_a_pattern_that_matches_nothing_is_explained() -> None:
    with pytest.raises(BootcampError) as caught:
        find_targets(Net(), include=["conv2"], exclude=["nothing.*"])
    assert "include: unknown layer 'conv2'. Did you mean 'conv1'?" in str(caught.value)
    assert len(caught.value.problems) == 2


def test_nothing_left_and_nothing_there_are_errors() -> None:
    with pytest.raises(BootcampError, match="leave none of 6 layers"):
        find_targets(Net(), exclude=["*"])
    with pytest.raises(BootcampError, match="no convolution or linear layer"):
        find_targets(nn.BatchNorm2d(3))


def test_a_shared_weight_is_listed_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    assert list(find_targets(net)) == ["0.weight"]


def test_a_frozen_weight_among_trainable_ones_is_a_constant() -> None:
    net = Net()
    net.conv1.weight.requires_grad_(False)
    targets = choose_targets(net)
    assert "conv1.weight" not in targets.chosen
    assert "frozen" in targets.left_out["conv1.weight"]
    assert list(find_targets(net, include=["conv1"])) == ["conv1.weight"]
    net.requires_grad_(False)  # everything frozen is a network opened for use, not one made of constants
    assert list(find_targets(net)) == ALL


def test_computed_and_lazy_weights_are_refused_by_name() -> None:
    net = Net()
    prune.l1_unstructured(net.fc, "weight", 0.5)
    with pytest.raises(BootcampError, match=r"fc\.weight: .*remove_pruning_reparameterization"):
        find_targets(net)
    net = Net()
    parametrizations.weight_norm(net.conv1)
    with pytest.raises(BootcampError, match=r"conv1\.weight: the weight is computed"):
        find_targets(net)
    with pytest.raises(BootcampError, match="lazy"):
        find_targets(nn.LazyLinear(3))


def test_swapped_channels_are_what_one_output_sums_over() -> None:
    layer = nn.ConvTranspose2d(6, 4, 2, groups=2, bias=False)
    groups = transposed_groups(layer, "weight")
    weight = swap_channels(layer.weight.detach(), groups)
    assert weight.shape == (4, 3, 2, 2)
    assert torch.equal(swap_channels(weight, groups), layer.weight)
    # output channel 3 lies in the second group: it must read input channels 3, 4 and 5, in that order
    for position in range(3):
        image = torch.zeros(1, 6, 1, 1)
        image[0, 3 + position] = 1
        assert torch.equal(layer(image)[0, 3].detach(), weight[3, position])
    assert transposed_groups(nn.Conv2d(2, 2, 1), "weight") is None
