"""The pruners with a memory: what was pruned stays pruned through training, and sparsity grows round by round."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.weights.magnitude_pruner import IterativeMagnitudePruner, MagnitudePruner


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.output_proj = nn.Linear(24, 16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.relu(self.output_proj(F.relu(self.qkv(x)))))


def train_steps(model: nn.Module, after_step: object, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 10, (16,))).backward()
        optimizer.step()
        after_step()  # type: ignore[operator]


def test_what_was_pruned_stays_pruned_through_training() -> None:
    model, pruner = Block(), MagnitudePruner(target_sparsity=0.5)
    result = pruner.prune_model(model, layer_names=["output_proj", "fc"])
    before = model.qkv.weight.detach().clone()
    train_steps(model, lambda: pruner.apply_masks(model))
    assert pruner.get_model_sparsity(model) == {"qkv.weight": 0.0, "output_proj.weight": 0.5, "fc.weight": 0.5}
    assert all((model.get_parameter(name)[~keep] == 0).all() for name, keep in result.masks.items())
    assert list(pruner.masks(model)) == ["output_proj.weight", "fc.weight"]
    assert not torch.equal(model.qkv.weight, before)


def test_a_threshold_prunes_what_is_smaller() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.009, -0.02], [-0.001, 0.01]]))
    MagnitudePruner(threshold=0.01).prune_layer(layer)
    assert torch.equal(layer.weight.detach(), torch.tensor([[0.0, -0.02], [0.0, 0.01]]))


def test_the_calls_sparsity_wins_over_the_pruners() -> None:
    for pruner in (MagnitudePruner(threshold=0.01, target_sparsity=0.25), MagnitudePruner(threshold=9.0)):
        assert pruner.prune_layer(nn.Linear(8, 8), sparsity=0.5).sparsity == 0.5
    assert MagnitudePruner(threshold=9.0, target_sparsity=0.25).prune_layer(nn.Linear(8, 8)).sparsity == 0.25


def test_a_layer_pruned_alone_is_the_same_layer_in_its_model() -> None:
    model, pruner = Block(), MagnitudePruner()
    keep = pruner.prune_layer(model.fc, sparsity=0.5).masks["weight"]
    assert torch.equal(pruner.masks(model)["fc.weight"], keep)
    further = pruner.prune_model(model, sparsity=0.7)
    assert not further.masks["fc.weight"][~keep].any()


def test_verbose_prints_each_layer(capsys: pytest.CaptureFixture[str]) -> None:
    MagnitudePruner().prune_model(Block(), sparsity=0.5, verbose=True)
    assert capsys.readouterr().out.splitlines() == [
        "qkv.weight: 50.00% of 192 weights",
        "output_proj.weight: 50.00% of 384 weights",
        "fc.weight: 50.00% of 160 weights",
        "in total: 50.00%",
    ]


def test_a_pruner_without_a_goal_or_for_another_model_says_so() -> None:
    with pytest.raises(BootcampError, match="give a sparsity"):
        MagnitudePruner().prune_model(Block())
    pruner = MagnitudePruner()
    pruner.prune_model(Block(), sparsity=0.5)
    with pytest.raises(BootcampError, match="has pruned no layer of this model"):
        pruner.apply_masks(Block())


def test_sparsity_grows_by_equal_factors_from_the_first_round_to_the_last() -> None:
    model = Block()
    pruner = IterativeMagnitudePruner(0.2, 0.8, num_iterations=5, prune_layers=["output_proj", "fc"])
    zeros: dict[str, torch.Tensor] = {}
    for iteration in range(5):
        figures = pruner.prune_step(model)
        asked = 0.2 * 4 ** (iteration / 4)
        assert figures["target_sparsity"] == pytest.approx(asked)
        assert figures["sparsity"] == pytest.approx(asked, abs=0.005)
        assert figures["weights"] == 384 + 160
        assert figures["compression_ratio"] == 544 / (544 - figures["weights_pruned"])
        train_steps(model, lambda: pruner.train_step_with_mask(model))
        for name, before in zeros.items():
            assert (model.get_parameter(name)[before] == 0).all()
        zeros = {name: ~keep for name, keep in pruner.masks(model).items()}
    assert pruner.get_pruning_summary()["iterations_done"] == 5
    assert pruner.get_pruning_summary()["current_sparsity"] == pytest.approx(0.8, abs=0.002)
    assert (model.qkv.weight != 0).all()
    with pytest.raises(BootcampError, match="all 5 rounds"):
        pruner.prune_step(model)


def test_one_round_goes_straight_to_the_end() -> None:
    assert IterativeMagnitudePruner(0.2, 0.8, num_iterations=1).prune_step(Block())["target_sparsity"] == 0.8


@pytest.mark.parametrize("arguments", [(0.9, 0.8, 3), (0.0, 0.8, 3), (0.2, 1.8, 3), (0.2, 0.8, 0)])
def test_impossible_rounds_are_refused(arguments: tuple[float, float, int]) -> None:
    with pytest.raises(BootcampError):
        IterativeMagnitudePruner(*arguments)
