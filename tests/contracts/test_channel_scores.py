"""Every registered channel score: finite, one value a unit, repeatable; NaN is an error that names the layer."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.channels.scores import (
    CHANNEL_SCORES,
    measured_on_images,
    needs_labels,
    needs_of,
    why_not_scored,
)
from pruning_bootcamp.pruning.channels.structured import cut_channels, plan_structured, score_channels
from pruning_bootcamp.pruning.graph import find_groups

EXAMPLE = torch.zeros(1, 3, 4, 4)


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


def labelled() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        yield torch.randn(32, 3, 4, 4, generator=generator), torch.randint(4, (32,), generator=generator)


def images_of(name: str) -> Iterator[tuple[Tensor, Tensor] | Tensor]:
    """With labels only where the score says that it needs them."""
    return (pair if needs_labels(name) else pair[0] for pair in labelled())


def scores_of(network: nn.Module, name: str, seed: int = 0, allocation: str = "global") -> dict[str, Tensor]:
    choices = {"score": name, "allocation": allocation, "seed": seed}
    return score_channels(network, EXAMPLE, images=lambda: images_of(name), **choices).scores


@pytest.fixture
def network() -> nn.Module:
    network = Network()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    return network


@pytest.mark.parametrize("name", CHANNEL_SCORES)
def test_finite_and_one_value_a_unit(network: nn.Module, name: str) -> None:
    groups = {group.name: group for group in find_groups(network, EXAMPLE) if group.reason is None}
    assert {group.name: group.width for group in groups.values()} == {"stem.0": 4, "turned.0": 6}
    refused = {group.name for group in groups.values() if why_not_scored(name, group) is not None}
    assert refused == ({"stem.0"} if "moments" in needs_of(name) else set())  # a transposed convolution reads it
    scores = scores_of(network, name)
    assert scores.keys() == groups.keys() - refused
    for group, score in scores.items():
        assert score.shape == (groups[group].width,)
        assert score.dtype == torch.double
        assert torch.isfinite(score).all()
        assert score.min() >= 0
        assert len(set(score.tolist())) == len(score)  # tells the channels apart


@pytest.mark.parametrize("name", CHANNEL_SCORES)
def test_the_same_again_and_the_network_untouched(network: nn.Module, name: str) -> None:
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    first, again = (scores_of(network, name, seed=3) for _ in range(2))
    assert all(torch.equal(first[group], again[group]) for group in first)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", CHANNEL_SCORES)
@pytest.mark.parametrize("allocation", ["local", "global", "measured"])
def test_cuts_by_every_allocation(network: nn.Module, name: str, allocation: str) -> None:
    choices = {"score": name, "allocation": allocation, "sparsity": 0.5, "round_to": None}
    plan = plan_structured(network, EXAMPLE, images=lambda: images_of(name), **choices)
    assert cut_channels(network, EXAMPLE, plan).proof.relative < 1e-5
    scored, measured = scores_of(network, name), scores_of(network, name, allocation=allocation)
    assert all(torch.equal(scored[group], score) for group, score in measured.items())


@pytest.mark.parametrize("name", [name for name in CHANNEL_SCORES if measured_on_images(name)])
def test_without_what_it_is_measured_on_it_says_so(network: nn.Module, name: str) -> None:
    choices = {"score": name, "allocation": "global"}
    with pytest.raises(BootcampError, match=f"score {name}: can't be had without images="):
        score_channels(network, EXAMPLE, **choices)
    with pytest.raises(BootcampError, match=r"at least one|hold no batch"):
        score_channels(network, EXAMPLE, images=lambda: iter(()), **choices)
    if needs_labels(name):
        with pytest.raises(BootcampError, match="need labels"):
            score_channels(network, EXAMPLE, images=lambda: (images for images, _ in labelled()), **choices)


@pytest.mark.parametrize("name", [name for name in CHANNEL_SCORES if name != "random"])  # which reads no weights
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(network: nn.Module, name: str, bad: float) -> None:
    with torch.no_grad():
        for module in network.turned[:2]:
            module.weight[0] = bad
    with pytest.raises(BootcampError, match=r"turned\.[01]"):
        scores_of(network, name)


@pytest.mark.parametrize("name", CHANNEL_SCORES)
def test_has_a_line_for_the_list(name: str) -> None:
    assert CHANNEL_SCORES[name].summary.endswith((".", ")."))
