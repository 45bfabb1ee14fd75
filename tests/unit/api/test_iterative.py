"""Prune and retrain in rounds on plain loaders: what is promised about the figures, the zeros and going on."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pruning_bootcamp.api.iterative import IterativePruningTrainer, create_iterative_pruning_trainer
from pruning_bootcamp.errors import BootcampError

CPU: dict[str, Any] = {"device": "cpu"}


class Language(nn.Module):
    """A next-token model: logits [batch, length, vocabulary]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(12, 16)
        self.output_proj = nn.Linear(16, 16)
        self.fc = nn.Linear(16, 12)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.dropout(torch.relu(self.output_proj(self.embedding(tokens)))))


def counting() -> tuple[DataLoader, DataLoader]:
    """Texts that count up modulo 12: the next token is learnable."""
    start = torch.randint(0, 12, (96, 1), generator=torch.Generator().manual_seed(1))
    tokens = (start + torch.arange(9)) % 12
    data = TensorDataset(tokens[:, :-1], tokens[:, 1:])
    train, val = torch.utils.data.Subset(data, range(64)), torch.utils.data.Subset(data, range(64, 96))
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(val, batch_size=16)


def trained() -> Language:
    model, (train, _) = Language(), counting()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    torch.manual_seed(0)
    for _ in range(20):
        for inputs, targets in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs).reshape(-1, 12), targets.reshape(-1)).backward()
            optimizer.step()
    return model.eval()


def trainer(model: nn.Module, **more: Any) -> IterativePruningTrainer:
    choices = {"initial_sparsity": 0.2, "final_sparsity": 0.8, "num_iterations": 3, **CPU, **more}
    return create_iterative_pruning_trainer(model, **choices)


def test_perplexity_is_exp_of_the_mean_cross_entropy() -> None:
    """Uniform logits over 12 tokens have perplexity 12; targets of -100 do not count."""
    model = Language().eval()
    nn.init.zeros_(model.fc.weight)
    nn.init.zeros_(model.fc.bias)
    targets = torch.tensor([[1, 2, -100], [3, -100, -100]])
    measured = trainer(model).perplexity([(torch.zeros(2, 3, dtype=torch.long), targets)])
    assert measured == pytest.approx(12)


def test_rounds_reach_the_sparsity_in_the_layers_asked_for_and_retraining_recovers() -> None:
    model = trained()
    embedding = model.embedding.weight.detach().clone()
    one = trainer(model, target_layers=["output_proj", "fc"])
    results = one.run_iterative_pruning(*counting(), retrain_epochs=8, learning_rate=0.01)
    assert results["achieved_sparsity"] == pytest.approx(0.8, abs=2e-3)
    assert results["compression_ratio"] == pytest.approx(5, abs=0.05)
    expected = [0.2, 0.2 * 4**0.5, 0.8]
    assert [entry["sparsity"] for entry in results["history"]] == pytest.approx(expected, abs=2e-3)
    last = results["history"][-1]
    assert last["perplexity"] < last["perplexity_pruned"]
    assert results["final_perplexity"] == last["perplexity"] == pytest.approx(one.perplexity(counting()[1]))
    assert results["perplexity_degradation"] == pytest.approx(last["perplexity"] / results["dense_perplexity"] - 1)
    zeros = sum(int((layer.weight == 0).sum()) for layer in (model.output_proj, model.fc))
    assert zeros == last["weights_pruned"]
    assert not torch.equal(model.embedding.weight, embedding), "it was retrained too"
    assert not model.training, "the mode is as before"


def test_a_classifier_with_batches_of_one_label_each() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    inputs = torch.randn(60, 4)
    data = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=20)
    results = trainer(model).run_iterative_pruning(data, data, retrain_epochs=2, learning_rate=0.01)
    assert results["achieved_sparsity"] == pytest.approx(0.8, abs=0.01)
    assert math.isfinite(results["perplexity_degradation"])


@pytest.mark.parametrize("finished", [1, 3])
def test_the_same_call_goes_on_after_the_last_finished_round(finished: int, tmp_path: Path) -> None:
    whole = trained()
    arguments: dict[str, Any] = {"retrain_epochs": 2, "learning_rate": 0.01}
    unbroken = trainer(whole).run_iterative_pruning(*counting(), **arguments, save_dir=tmp_path)
    for number in range(finished + 1, 4):
        (tmp_path / f"iteration_{number}.pth").unlink()
    model = trained()
    torch.manual_seed(99)  # whatever was drawn before
    results = trainer(model).run_iterative_pruning(*counting(), **arguments, save_dir=tmp_path)
    assert results == unbroken
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.state_dict().items())
    assert len(list(tmp_path.glob("iteration_*.pth"))) == 3
    assert not list(tmp_path.glob(".tmp-*"))


def test_rounds_of_another_pruning_are_refused(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"retrain_epochs": 0, "save_dir": tmp_path}
    trainer(trained()).run_iterative_pruning(*counting(), **arguments)
    with pytest.raises(BootcampError, match=r"final_sparsity was 0\.8 and is now 0\.9"):
        trainer(trained(), final_sparsity=0.9).run_iterative_pruning(*counting(), **arguments)
    with pytest.raises(BootcampError, match="dense model was"):
        trainer(Language()).run_iterative_pruning(*counting(), **arguments)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("history", [{"iteration": 1}], "'history' or 'dense_perplexity' is damaged"),
        ("masks", {"fc.weight": 3}, "fc.weight is int, not a tensor"),
        ("extra", 3, "'extra' is int, not a table"),
    ],
)
def test_a_damaged_round_is_told(part: str, value: Any, message: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"retrain_epochs": 0, "save_dir": tmp_path}
    trainer(trained()).run_iterative_pruning(*counting(), **arguments)
    last = tmp_path / "iteration_3.pth"
    torch.save({**torch.load(last, weights_only=True), part: value}, last)
    with pytest.raises(BootcampError, match=message):
        trainer(trained()).run_iterative_pruning(*counting(), **arguments)


def test_what_can_not_work_is_explained() -> None:
    model = Language()
    with pytest.raises(BootcampError, match="layer 'output_porj'"):
        trainer(model, target_layers=["output_porj"]).run_iterative_pruning(*counting())
    with pytest.raises(BootcampError, match="learning_rate 0 above 0"):
        trainer(model).run_iterative_pruning(*counting(), learning_rate=0)
    with pytest.raises(BootcampError, match=r"gives \(2, 3, 12\) for targets of shape \(2,\)"):
        trainer(model).perplexity([(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long))])
    with pytest.raises(BootcampError, match="gives no target"):
        trainer(model).perplexity([])
    with pytest.raises(BootcampError, match=r"'cuda' was asked for|is not a device"):
        trainer(model, device="cuda" if not torch.cuda.is_available() else "nowhere")
    done = trainer(trained())
    done.run_iterative_pruning(*counting(), retrain_epochs=0)
    with pytest.raises(BootcampError, match="has run"):
        done.run_iterative_pruning(*counting())


def test_random_state_is_left_as_found() -> None:
    model, (train, val) = trained(), counting()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trainer(model).run_iterative_pruning(train, val, retrain_epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
