"""What makes the channels that a plan drops: once it is zero, the cut changes nothing."""

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.channels.structured import cut_channels, doomed_weights, plan_structured


def test_filters_biases_scales_and_shifts_by_hand(example: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, 0.1, 0.9, 0.2]))
    plan = plan_structured(model, example, score="bn_scale", allocation="local", sparsity=0.5)
    assert plan.groups[0].keep.tolist() == [0, 2]
    doomed = doomed_weights(model, example, plan)
    goes = torch.tensor([False, True, False, True])
    assert doomed.keys() == {"0.weight", "0.bias", "1.weight", "1.bias"}
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(doomed[name], goes)
    assert torch.equal(doomed["0.weight"], goes[:, None, None, None].expand(4, 3, 3, 3))


def test_once_they_are_zero_the_cut_changes_nothing(network: nn.Module, example: Tensor) -> None:
    """In every kind of network, but where a norm over the channels sees fewer."""
    torch.manual_seed(1)
    network.eval()
    plan = plan_structured(network, example, score="random", allocation="local", sparsity=0.5)
    doomed = doomed_weights(network, example, plan)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert doomed
    assert not doomed.keys() & frozen
    with torch.no_grad():
        for name, where in doomed.items():
            network.get_parameter(name)[where] = 0
        whole = network(example)
        cut = cut_channels(network, example, plan).model(example)
    if any(isinstance(module, nn.LayerNorm | nn.GroupNorm) for module in network.modules()):
        pytest.skip("the norm over the channels that are left is another one")
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-5)
