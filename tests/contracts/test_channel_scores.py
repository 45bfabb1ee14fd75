"""Every registered channel score: finite, one value a unit, repeatable; NaN is an error that names the layer."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.channels.scores import CHANNEL_SCORES, score_groups, why_not_scored
from pruning_bootcamp.pruning.graph import Group, find_groups


class Network(nn.Module):
    """A residual sum, a flatten and a convolution in blocks, all with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8))
        self.turned = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, stride=2), nn.BatchNorm2d(6), nn.Flatten())
        self.head = nn.Linear(6 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(self.turned(x + self.block(x)))


def errors_of(network: nn.Module, name: str) -> dict[str, Tensor]:
    """For a score that is measured: numbers that weights decide, in the place of removal errors."""
    found = {}
    for group in scored(network, name):
        weight = group.root.module.get_parameter("weight").detach().double()
        filters = weight.transpose(0, int(isinstance(group.root.module, nn.ConvTranspose2d))).flatten(1).abs().sum(1)
        found[group.name] = torch.zeros(group.width).double().index_add_(0, group.root.unit, filters[group.root.index])
    return found


@pytest.fixture
def network() -> nn.Module:
    network = Network()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    return network


def scored(network: nn.Module, name: str) -> Iterator[Group]:
    groups = find_groups(network, torch.zeros(1, 3, 4, 4))
    return (group for group in groups if group.reason is None and why_not_scored(name, group) is None)


@pytest.mark.parametrize("name", CHANNEL_SCORES)
def test_finite_and_one_value_a_unit(network: nn.Module, name: str) -> None:
    groups = list(scored(network, name))
    assert [(group.name, group.width) for group in groups] == [("stem.0", 4), ("turned.0", 6)]
    scores = score_groups(groups, name, {}, 0, errors_of(network, name))
    for group in groups:
        assert scores[group.name].shape == (group.width,)
        assert torch.isfinite(scores[group.name]).all()
        assert scores[group.name].min() >= 0
        assert len(set(scores[group.name].tolist())) == group.width  # tells the channels apart


@pytest.mark.parametrize("name", CHANNEL_SCORES)
def test_the_same_again_and_the_weights_untouched(network: nn.Module, name: str) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    errors = errors_of(network, name)
    first, again = (score_groups(scored(network, name), name, {}, 3, errors) for _ in range(2))
    assert all(torch.equal(first[group], again[group]) for group in first)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", [name for name in CHANNEL_SCORES if name != "random"])  # which reads no weights
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(network: nn.Module, name: str, bad: float) -> None:
    groups = list(scored(network, name))
    with torch.no_grad():
        for module in network.turned[:2]:
            module.weight[0] = bad
    with pytest.raises(BootcampError, match=r"turned\.[01]"):
        score_groups(groups, name, {}, 0, errors_of(network, name))


@pytest.mark.parametrize("name", CHANNEL_SCORES)
def test_has_a_line_for_the_list(name: str) -> None:
    assert CHANNEL_SCORES[name].summary.endswith((".", ")."))
