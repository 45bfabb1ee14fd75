"""Gradients over labelled batches: right, and nothing of the model disturbed."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.stats import gather
from pruning_bootcamp.pruning.targets import find_targets


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 4)
    )


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(size, 1, 4, 4), torch.randint(0, 4, (size,))) for size in sizes]


def test_the_mean_gradient_is_that_of_one_big_batch() -> None:
    net, data = network(), batches(5, 3)
    targets = find_targets(net)
    found = gather(net, targets, ("grad",), data)["grad"]
    net.eval()
    images, labels = torch.cat([data[0][0], data[1][0]]), torch.cat([data[0][1], data[1][1]])
    expected = torch.autograd.grad(F.cross_entropy(net(images), labels), list(targets.values()))
    assert list(found) == ["0.weight", "5.weight"]
    for grad, other in zip(found.values(), expected, strict=True):
        assert torch.allclose(grad, other, atol=1e-6)


def test_absolute_gradients_are_taken_batch_by_batch() -> None:
    net, data = network(), batches(4, 2)
    targets = find_targets(net)
    found = gather(net, targets, ("grad", "abs_grad"), iter(data))  # two statistics, data that can be read once
    singles = [gather(net, targets, ("grad",), [batch])["grad"] for batch in data]
    for name in targets:
        expected = (4 * singles[0][name].abs() + 2 * singles[1][name].abs()) / 6
        assert torch.allclose(found["abs_grad"][name], expected, atol=1e-6)
        assert (found["abs_grad"][name] >= found["grad"][name].abs() - 1e-6).all()


def test_the_model_is_left_as_found() -> None:
    net = network().train()
    net[1].eval()  # a frozen batch norm inside a training network
    net[0].weight.requires_grad_(False)
    net[5].weight.grad = torch.ones_like(net[5].weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    with torch.no_grad():
        gather(net, find_targets(net, include=["0", "5"]), ("grad",), batches(3))
    # only the data itself was drawn in between
    torch.set_rng_state(random_state)
    batches(3)
    after_data = torch.get_rng_state()
    torch.set_rng_state(random_state)
    with torch.no_grad():
        gather(net, find_targets(net, include=["0", "5"]), ("grad",), batches(3))
    assert torch.equal(torch.get_rng_state(), after_data)
    assert [module.training for module in (net, net[0], net[1], net[3])] == [True, True, False, True]
    assert not net[0].weight.requires_grad
    assert net[0].weight.grad is None
    assert torch.equal(net[5].weight.grad, torch.ones_like(net[5].weight))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "without labelled batches"),
        ([], "holds no batch"),
        ([(torch.randn(2, 1, 4, 4), torch.tensor([0, 9]))], "labels 0 to 9 don't fit outputs"),
    ],
)
def test_data_that_gives_no_gradient_is_explained(data: list | None, message: str) -> None:
    net = network()
    with pytest.raises(BootcampError, match=message):
        gather(net, find_targets(net), ("grad",), data)
