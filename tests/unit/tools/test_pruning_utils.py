"""The methods by their common names, each compared with an answer of its own."""

import io

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning_bootcamp.tools.pruning_utils import (
    global_magnitude_pruning,
    layerwise_magnitude_pruning,
    movement_pruning,
    n_m_sparsity,
    print_layerwise_sparsity,
    remove_pruning_reparameterization,
    taylor_importance_pruning,
)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


def lowest(scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Keep masks by one sort over everything (no ties)."""
    everything = torch.cat([score.reshape(-1) for score in scores.values()])
    limit = everything.sort().values[round(sparsity * len(everything)) - 1]
    return {name: score > limit for name, score in scores.items()}


def test_layerwise_and_global_magnitude() -> None:
    net = network()
    sizes = {name: value.detach().abs() for name, value in net.named_parameters() if value.ndim > 1}
    result = global_magnitude_pruning(net, 0.6)
    assert all(torch.equal(keep, result.masks[name]) for name, keep in lowest(sizes, 0.6).items())
    net = network()
    result = layerwise_magnitude_pruning(net, 0.25, p=2, exclude=["3"])
    assert [(layer.name, layer.zeros) for layer in result.layers] == [("1.weight", 32)]


@pytest.mark.parametrize("method", [taylor_importance_pruning, movement_pruning])
def test_gradient_scores_agree_with_autograd(method: object) -> None:
    net = network()
    images, labels = torch.randn(10, 1, 4, 4), torch.randint(0, 4, (10,))
    weights = {name: value for name, value in net.named_parameters() if value.ndim > 1}
    grads = torch.autograd.grad(F.cross_entropy(net(images), labels), list(weights.values()))
    products = {name: (w * g).detach() for (name, w), g in zip(weights.items(), grads, strict=True)}
    sign = {name: p.abs() if method is taylor_importance_pruning else -p for name, p in products.items()}
    expected = lowest(sign, 0.8)
    result = method(net, [(images, labels)], 0.8)  # type: ignore[operator]
    assert result.sparsity == pytest.approx(0.8, abs=0.01)
    assert all(torch.equal(keep, expected[name]) for name, keep in result.masks.items())


def test_n_m_keeps_two_of_every_four() -> None:
    net = network()
    result = n_m_sparsity(net, 2, 4)
    assert result.sparsity == 0.5
    assert ((net[1].weight.reshape(-1, 4) == 0).sum(1) == 2).all()


def test_torchs_reparametrisation_is_made_plain() -> None:
    net = network()
    prune.l1_unstructured(net[1], "weight", 0.5)
    assert remove_pruning_reparameterization(net) == ["1.weight"]
    assert sorted(net.state_dict()) == sorted(network().state_dict())
    assert int((net[1].weight == 0).sum()) == 64
    global_magnitude_pruning(net, 0.6)  # which refuses computed weights


def test_the_table_has_every_layer_and_the_total() -> None:
    net = network()
    layerwise_magnitude_pruning(net, 0.5, include=["1"])
    prune.identity(net[3], "weight")  # torch's own pruning may still be attached
    screen = io.StringIO()
    total = print_layerwise_sparsity(net, console=Console(file=screen, width=100))
    assert total == 64 / 160
    rows = {line.split()[1]: line for line in screen.getvalue().splitlines() if "%" in line}
    assert list(rows) == ["1.weight", "3.weight", "total"]
    assert "50.00%" in rows["1.weight"]
    assert "0.00%" in rows["3.weight"]
    assert "40.00%" in rows["total"]
    assert "160" in rows["total"]
