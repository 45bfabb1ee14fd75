"""Layers with too many inputs for second moments: the same solution, found among the samples."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.channels.measuring import score_channels
from pruning_bootcamp.pruning.channels.refit import refit, sites, wide
from pruning_bootcamp.pruning.channels.refit.solving import solve, without_intercept
from pruning_bootcamp.pruning.channels.structured import cut_channels, plan_structured
from pruning_bootcamp.pruning.layers.moments import Moments, Product, cross, gram, picked
from pruning_bootcamp.pruning.masks import apply_masks
from pruning_bootcamp.pruning.sections import StructuredSettings
from pruning_bootcamp.schema import Choice

CONVOLUTION = Product(1, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))


def made(product: Product, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs with a mean, weights, and outputs of other weights with a constant."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*((8, 4, 6, 6) if product.kernel else (48, 36)), generator=generator) + 0.5
    weight = torch.randn(*((5, 4, 3, 3) if product.kernel else (5, 36)), generator=generator)
    return x, weight, product.apply(x, weight + 0.3 * torch.randn(weight.shape, generator=generator), None) + 0.2


@pytest.mark.parametrize("product", [Product(), CONVOLUTION], ids=["linear", "convolution"])
@pytest.mark.parametrize("intercept", [True, False])
def test_it_is_the_solution_of_the_second_moments(
    product: Product, intercept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide, "DAMPINGS", (1e-2,))
    x, weight, goal = made(product)
    start = torch.cat([product.rows(weight.double()), torch.zeros(1, 1, 5).double()], 1)
    samples = wide.Samples.gathered(product, [(x, picked(product, goal, None), None, None)])
    found = wide.fit(samples, start, intercept=intercept, reachable=lambda given, goal: goal, iterations=0)
    # among samples the damping counts in units of the centred inputs' mean square
    moments = Moments(gram(product, x), cross(product, x, goal, weight))
    count, size = float(moments.gram[0, -1, -1]), moments.gram.shape[-1] - 1
    whole = moments.gram[0].diagonal()[:-1].sum()
    centred = whole - (moments.gram[0, -1, :-1].square().sum() / count if intercept else 0)
    damping = float(1e-2 * centred / whole)
    expected = solve(moments if intercept else without_intercept(moments), start, damping)
    torch.testing.assert_close(found.rows[:, :-1], expected[:, :-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.rows[:, -1], expected[:, -1], rtol=1e-3, atol=1e-4)
    assert size == samples.inputs.shape[1]


def test_no_more_rows_are_held_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "MOST_ROWS", 70)
    x, _, goal = made(Product())
    looked = []

    def batches() -> Any:
        for number in range(5):
            looked.append(number)
            yield x, picked(Product(), goal, None), None, None

    assert len(wide.Samples.gathered(Product(), batches()).inputs) == 70
    assert looked == [0, 1]


def test_of_very_wide_layers_a_gibibyte_is_held() -> None:
    assert wide.most_rows(25_088) == 4096
    assert wide.most_rows(1_000_000) * 1_000_000 * 4 <= 2**30
    assert wide.most_rows(10**12) == 2


class Flat(nn.Module):
    """VGG's kind: the last map, flattened, is what a linear layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.read = nn.Sequential(nn.Linear(8 * 36, 12), nn.BatchNorm1d(12), nn.ReLU())
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.read(self.last(self.first(x)).flatten(1)))  # type: ignore[no-any-return]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "MOST_COLUMNS", 100)


def network_and_images() -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    dense, batches = Flat(), [torch.randn(32, 3, 6, 6) for _ in range(6)]
    with torch.no_grad():
        for batch in batches:
            dense(batch)
    return dense.eval(), batches


@torch.no_grad()
def distance(one: nn.Module, other: nn.Module, batches: list[Tensor]) -> float:
    given, wanted = (torch.cat([network(batch) for batch in batches]) for network in (one, other))
    return float((given - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def test_a_wide_layer_is_fitted_as_well_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, batches = network_and_images()
    plan = plan_structured(dense, batches[0][:2], score="l1", allocation="local", sparsity=0.5)
    found = cut_channels(dense, batches[0][:2], plan)
    fitted = {}
    for name, most, leave in (("wide", 100, {}), ("usual", 8192, {}), ("left", 100, {"read.0": "asked for"})):
        monkeypatch.setattr(sites, "MOST_COLUMNS", most)
        fitted[name] = copy.deepcopy(found.model)
        result = refit(dense, fitted[name], found.kept, lambda: iter(batches), leave=leave, rounds=0)
        assert ("read.0" in result.layers) == (name != "left")
        assert result.left == leave
    near = {name: distance(network, dense, batches) for name, network in fitted.items()}
    assert near["wide"] == pytest.approx(near["usual"], rel=0.05)
    assert near["wide"] < near["left"]


@pytest.mark.usefixtures("narrow")
def test_the_batch_norm_behind_it_has_the_statistics_of_its_inputs() -> None:
    dense, batches = network_and_images()
    plan = plan_structured(dense, batches[0][:2], score="l1", allocation="local", sparsity=0.5)
    found: Any = cut_channels(dense, batches[0][:2], plan)
    refit(dense, found.model, found.kept, lambda: iter(batches), rounds=0)
    network = found.model
    with torch.no_grad():
        given = torch.cat([network.read[0](network.last(network.first(batch)).flatten(1)) for batch in batches])
    torch.testing.assert_close(network.read[1].running_mean, given.mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(network.read[1].running_var, given.var(0, unbiased=False), rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("narrow")
def test_channels_that_a_wide_layer_reads_are_measured_too() -> None:
    dense, batches = network_and_images()
    asked = StructuredSettings(score=Choice("obs", {}), allocation="measured", sparsity=0.5)
    found = score_channels(dense, batches[0][:2], asked, images=lambda: iter(batches))
    assert set(found.scores) >= {"first.0", "last.0"}
    assert found.losses is not None
    assert bool((found.losses["last.0"][1:] > 0).all())


@pytest.mark.usefixtures("narrow")
def test_with_zeros_among_its_weights_it_is_left_and_that_is_said() -> None:
    dense, batches = network_and_images()
    pruned = copy.deepcopy(dense)
    masks = {"read.0.weight": torch.rand(12, 288, generator=torch.Generator().manual_seed(0)) > 0.5}
    apply_masks(pruned, masks)
    found = refit(dense, pruned, {}, lambda: iter(batches), masks=masks)
    assert found.left == {"read.0": "with zeros among its weights its 288 inputs are too many (8,192 are not)"}
