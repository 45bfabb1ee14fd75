"""Channel scores against values worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.channels.scores import CHANNEL_SCORES, bn_scale, l1, l2, random, why_not_scored
from pruning_bootcamp.pruning.graph import Group, find_groups


class Sum(nn.Module):
    """Two layers which write the same two channels, each with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)
        self.bn_a, self.bn_b = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([3.0, -1.0]).reshape(2, 1, 1, 1))
            self.b.weight.copy_(torch.tensor([-4.0, 1.0]).reshape(2, 1, 1, 1))
            self.bn_a.weight.copy_(torch.tensor([-2.0, 1.0]))
            self.bn_b.weight.copy_(torch.tensor([1.0, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.bn_a(self.a(x)) + self.bn_b(self.b(x))).mean((2, 3)))


@pytest.fixture
def group() -> Group:
    return find_groups(Sum(), torch.zeros(1, 1, 2, 2))[0]


def test_norms_take_all_layers_that_write_a_channel(group: Group) -> None:
    assert l1(group).tolist() == [7.0, 2.0]
    assert l2(group).tolist() == pytest.approx([5.0, 2**0.5])


def test_bn_scale_is_the_mean_size_of_the_scales(group: Group) -> None:
    assert bn_scale(group).tolist() == [1.5, 0.75]


def test_a_transposed_convolution_is_read_along_its_outputs() -> None:
    layer = nn.ConvTranspose2d(3, 2, 1)
    model = nn.Sequential(layer, nn.Conv2d(2, 1, 1))
    group = find_groups(model, torch.zeros(1, 3, 2, 2))[0]
    assert l1(group).tolist() == pytest.approx(layer.weight.abs().sum((0, 2, 3)).tolist())


def test_a_unit_of_a_grouped_convolution_adds_its_channels_up() -> None:
    layer = nn.Conv2d(2, 4, 1, groups=2)
    model = nn.Sequential(layer, nn.Conv2d(4, 1, 1))
    group = next(g for g in find_groups(model, torch.zeros(1, 2, 2, 2)) if g.name == "0")
    each = layer.weight.detach().abs().flatten()
    assert l1(group).tolist() == pytest.approx([float(each[0] + each[2]), float(each[1] + each[3])])


def test_without_a_batch_norm_there_is_no_scale_and_it_is_said() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 1))
    group = find_groups(model, torch.zeros(1, 3, 4, 4))[0]
    assert "needs a batch norm" in str(why_not_scored("bn_scale", group))
    assert why_not_scored("l1", group) is None


MOMENTS = ["activation", "lindeps", "second_order", "thinet"]


@pytest.mark.parametrize("name", [*MOMENTS, "obs", "fisher"])
def test_what_nothing_reads_is_refused(name: str) -> None:
    group = Group("alone", 2, find_groups(Sum(), torch.zeros(1, 1, 2, 2))[0].members[:1])
    assert "needs a layer that reads its channels" in str(why_not_scored(name, group))
    assert why_not_scored("taylor", group) is None


@pytest.mark.parametrize("name", MOMENTS)
def test_what_a_transposed_convolution_reads_is_refused(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ConvTranspose2d(4, 2, 2))
    group = find_groups(model, torch.zeros(1, 1, 2, 2))[0]
    assert "knows no transposed convolutions, and 1 reads its channels" in str(why_not_scored(name, group))
    assert why_not_scored("fisher", group) is None


def test_random_depends_on_the_seed_and_the_group_only(group: Group) -> None:
    other = Group("elsewhere", group.width, group.members)
    assert torch.equal(random(group, seed=1), random(group, seed=1))
    assert not torch.equal(random(group, seed=1), random(group, seed=2))
    assert not torch.equal(random(group, seed=1), random(other, seed=1))


def test_the_four_scores_are_there() -> None:
    assert {"l1", "l2", "bn_scale", "random"} <= set(CHANNEL_SCORES)
