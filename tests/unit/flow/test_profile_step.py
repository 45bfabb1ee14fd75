"""profile: what it says of weights that only cost time."""

import torch
from torch import Tensor, nn

from pruning_bootcamp.flow.steps.profile import _tiny_weights


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).eval()


def test_they_are_counted_as_a_runtime_sees_them_with_batch_norm_folded() -> None:
    model = network()
    assert _tiny_weights(model, torch.zeros(1, 3, 8, 8)) == {}
    with torch.no_grad():
        model[1].weight[1] = 1e-37  # type: ignore[operator, index]
        model[1].bias.fill_(1)  # type: ignore[operator, union-attr]
    assert _tiny_weights(model, torch.zeros(1, 3, 8, 8)) == {"0.weight": 27}


def test_a_network_that_cannot_be_written_shows_its_own() -> None:
    class Fixed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).reshape(2, -1)

    model = Fixed(*network())
    with torch.no_grad():
        model[1].weight[1] = 1e-37  # type: ignore[operator, index]
    assert _tiny_weights(model, torch.zeros(2, 3, 8, 8)) == {"1.weight": 1}
