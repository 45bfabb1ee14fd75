"""Re-estimated batch norm: the plain average over the batches given, and nothing else changes."""

import copy

import torch
from torch import nn

from pruning_bootcamp.training.recovery import reestimate_batch_norm


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_statistics_are_the_average_over_the_batches() -> None:
    model = network().eval()
    batches = [torch.randn(16, 2, 8, 8) * 3 + 1 for _ in range(3)]
    assert reestimate_batch_norm(model, batches)
    with torch.no_grad():
        outputs = [model[0](batch) for batch in batches]
    means = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variances = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    assert torch.allclose(model[1].running_mean, means, atol=1e-5)
    assert torch.allclose(model[1].running_var, variances, rtol=1e-4)


def test_weights_momentum_and_modes_are_left_as_found() -> None:
    model = network().eval()
    model[2].train()
    before = copy.deepcopy(model.state_dict())
    reestimate_batch_norm(model, [torch.randn(8, 2, 8, 8)])
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert model[1].momentum == 0.1
    assert [module.training for module in model] == [False, False, True, False, False]


def test_a_network_without_batch_norm_is_not_touched() -> None:
    model = nn.Linear(2, 2)
    assert not reestimate_batch_norm(model, [torch.randn(2, 2)])
