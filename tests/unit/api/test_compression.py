"""Quantise, prune, distil: the size asked for is met on disk or explained, and the file holds what was judged."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pruning_bootcamp
from pruning_bootcamp.api.compression import CompressionPipeline, check_stages, load_compressed, needed_sparsity
from pruning_bootcamp.checkpoints.sparse import read_sparse, write_sparse
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.training.quantize import quantized_evaluation, round_weights

CPU: dict[str, Any] = {"device": "cpu"}
SHORT: dict[str, Any] = {"qat_epochs": 1, "pruning_epochs": 2, "distillation_epochs": 1, "learning_rate": 3e-3}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


@pytest.fixture(scope="module")
def loaders() -> tuple[DataLoader, DataLoader]:
    digits = load_digits()
    images = torch.tensor(digits.images / 16 - 0.3).float()[:, None]
    data = TensorDataset(images, torch.tensor(digits.target))
    train, val = torch.utils.data.Subset(data, range(800)), torch.utils.data.Subset(data, range(800, 1100))
    return DataLoader(train, batch_size=50, shuffle=True), DataLoader(val, batch_size=100)


@pytest.fixture(scope="module")
def trained(loaders: tuple[DataLoader, DataLoader]) -> nn.Module:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(3):
        for inputs, targets in loaders[0]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, loader: DataLoader) -> float:
    with torch.no_grad():
        right = torch.cat([model(inputs).argmax(1) == targets for inputs, targets in loader])
    return float(right.float().mean() * 100)


def test_the_file_is_as_small_as_asked_and_holds_the_network_that_was_judged(
    trained: nn.Module, loaders: tuple[DataLoader, DataLoader], tmp_path: Path
) -> None:
    model = copy.deepcopy(trained)
    pipeline = pruning_bootcamp.CompressionPipeline(model, target_compression=10.0, **CPU)
    results = pipeline.run_pipeline(*loaders, **SHORT)
    pipeline.save(tmp_path / "small.safetensors")
    dense = tmp_path / "dense.safetensors"
    safetensors.torch.save_file(trained.state_dict(), dense)
    sizes = dense.stat().st_size, (tmp_path / "small.safetensors").stat().st_size
    assert (results["dense_bytes"], results["compressed_bytes"]) == sizes
    assert results["compression_ratio"] == sizes[0] / sizes[1] >= 10
    assert results["target_reached"]
    assert results["limit"] is None
    assert sizes[0] / sizes[1] < 11, "no more is pruned than is needed"

    other = network()
    ranges = load_compressed(other, tmp_path / "small.safetensors")
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    with quantized_evaluation(other, ranges):
        assert accuracy(other, loaders[1]) == pytest.approx(results["final_accuracy"])
    file = read_sparse(tmp_path / "small.safetensors")
    rounded = {name for name, encoding in file.encodings.items() if encoding.scales is not None}
    assert rounded == {"0.weight", "3.weight", "7.weight", "9.weight"}

    zeros = sum(int((~keep).sum()) for keep in pipeline.masks.values())
    assert results["achieved_sparsity"] == pytest.approx(zeros / sum(keep.numel() for keep in pipeline.masks.values()))
    for name, keep in pipeline.masks.items():
        assert not model.get_parameter(name)[~keep].any()
    assert results["dense_accuracy"] == pytest.approx(accuracy(trained, loaders[1]))
    assert results["final_accuracy"] >= results["dense_accuracy"] - 4  # of 300 images
    assert [entry["stage"] for entry in results["stages"]][:3] == ["quantize", "prune", "distill"]
    assert [round(entry["sparsity"], 6) > 0 for entry in results["stages"]][:2] == [False, True]
    first = results["stages"][0]
    assert 3.5 < first["compression_ratio"] < 5, "int8 alone"
    assert all(math.isfinite(entry["perplexity"]) for entry in results["stages"])
    with pytest.raises(BootcampError, match="has run"):
        pipeline.run_pipeline(*loaders)


def test_a_target_out_of_reach_is_explained(trained: nn.Module, loaders: tuple[DataLoader, DataLoader]) -> None:
    def run(target: float, **more: Any) -> dict[str, Any]:
        short = dict.fromkeys(("qat_epochs", "pruning_epochs", "distillation_epochs"), 0)
        return CompressionPipeline(copy.deepcopy(trained), target, **CPU, **more).run_pipeline(*loaders, **short)

    results = run(1000.0)
    assert not results["target_reached"]
    assert results["achieved_sparsity"] == pytest.approx(0.95, abs=1e-3)
    assert 10 < results["compression_ratio"] < 1000
    assert "1000x is out of reach for pruning" in results["limit"]
    results = run(20.0, max_sparsity=0.5)
    assert results["achieved_sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert "max_sparsity is 50.0%" in results["limit"]
    assert "Raise max_sparsity" in results["limit"]
    results = run(20.0, stages=["quantize"])
    assert results["limit"].startswith("stages has no 'prune'")
    assert results["achieved_sparsity"] == 0


def test_what_is_small_enough_is_not_pruned(trained: nn.Module, loaders: tuple[DataLoader, DataLoader]) -> None:
    results = CompressionPipeline(copy.deepcopy(trained), 3.0, **CPU).run_pipeline(*loaders, **SHORT)
    assert results["target_reached"]
    assert results["achieved_sparsity"] == 0


@pytest.mark.parametrize("stages", [("prune",), ("prune", "distill", "quantize"), ("quantize", "distill", "prune")])
def test_other_orders(
    stages: tuple[str, ...], trained: nn.Module, loaders: tuple[DataLoader, DataLoader], tmp_path: Path
) -> None:
    model = copy.deepcopy(trained)
    pipeline = CompressionPipeline(model, 6.0, stages=stages, exclude=["9"], **CPU)
    results = pipeline.run_pipeline(*loaders, **SHORT)
    assert results["target_reached"]
    assert [entry["stage"] for entry in results["stages"]][: len(stages)] == list(stages)
    pipeline.save(tmp_path / "file")
    other = network()
    ranges = load_compressed(other, tmp_path / "file")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    if "quantize" in stages:
        assert ranges.keys() == {"0", "3", "7"}
        assert results["not_quantized"] == {"9.weight": "excluded by '9'"}
        before = model[7].weight.clone()
        round_weights(model)
        assert torch.equal(model[7].weight, before)
    else:
        assert ranges == {}
        assert accuracy(other.eval(), loaders[1]) == pytest.approx(results["final_accuracy"])


class Language(nn.Module):
    """A next-token model whose two ends share their weights; a tuple comes out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(12, 64)
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, 12)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, None]:
        return self.head(torch.relu(self.hidden(self.embedding(tokens)))), None


def test_a_language_model_with_shared_weights(tmp_path: Path) -> None:
    start = torch.randint(0, 12, (96, 1), generator=torch.Generator().manual_seed(1))
    tokens = (start + torch.arange(9)) % 12
    targets = tokens[:, 1:].clone()
    targets[:, 0] = -100
    loader = DataLoader(TensorDataset(tokens[:, :-1], targets), batch_size=16)
    model = Language()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for inputs, wanted in [batch for _ in range(15) for batch in loader]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs)[0].flatten(0, 1), wanted.flatten()).backward()
        optimizer.step()
    pipeline = CompressionPipeline(model, 5.0, target_layers=["hidden"], **CPU)
    results = pipeline.run_pipeline(loader, loader, learning_rate=1e-2)
    assert results["target_reached"]
    assert pipeline.masks.keys() == {"hidden.weight"}
    assert results["final_perplexity"] < 1.5
    assert results["final_accuracy"] > 95
    pipeline.save(tmp_path / "file")
    other = Language()
    ranges = load_compressed(other, tmp_path / "file")
    assert other.head.weight is other.embedding.weight
    assert torch.equal(other.head.weight, model.head.weight)
    with quantized_evaluation(other, ranges), torch.no_grad():
        right = (other(tokens[:, :-1])[0].argmax(-1) == targets)[targets != -100]
    assert float(right.float().mean() * 100) == pytest.approx(results["final_accuracy"])


def test_zeros_that_are_there_stay_and_count(trained: nn.Module, loaders: tuple[DataLoader, DataLoader]) -> None:
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model[7].weight[:, ::2] = 0
    pipeline = CompressionPipeline(model, 7.0, **CPU)
    before = pipeline.sparsity
    results = pipeline.run_pipeline(*loaders, **SHORT)
    assert before == pytest.approx(16384 / 42912, abs=1e-3)
    assert results["achieved_sparsity"] > before
    assert not model[7].weight[:, ::2].any()
    sparse = CompressionPipeline(copy.deepcopy(model), 500.0, max_sparsity=0.1, **CPU)
    assert not sparse.run_pipeline(*loaders, **SHORT)["target_reached"], "sparser than max_sparsity from the beginning"


def test_distillation_follows_the_network_as_given(trained: nn.Module, loaders: tuple[DataLoader, DataLoader]) -> None:
    """Where the teacher alone counts, labels that are all wrong teach nothing."""
    model = copy.deepcopy(trained)
    train, _ = loaders
    inputs = torch.cat([batch for batch, _ in train])
    with torch.no_grad():
        dense = model(inputs).argmax(1)
    wrong = DataLoader(TensorDataset(inputs, (dense + 1) % 10), batch_size=50)
    pipeline = CompressionPipeline(model, 3.0, stages=("quantize", "distill"), distill_weight=1.0, **CPU)
    results = pipeline.run_pipeline(wrong, wrong, qat_epochs=0, distillation_epochs=2, learning_rate=1e-3)
    assert results["final_accuracy"] < 5
    with quantized_evaluation(model, pipeline.ranges), torch.no_grad():
        assert float((model(inputs).argmax(1) == dense).float().mean()) > 0.95


def test_the_same_seed_gives_the_same_file_and_random_state_is_left_as_found(
    trained: nn.Module, loaders: tuple[DataLoader, DataLoader], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        torch.manual_seed(len(name) if name == "one" else 99)
        before = torch.get_rng_state()
        pipeline = CompressionPipeline(copy.deepcopy(trained), 8.0, **CPU)
        pipeline.run_pipeline(*loaders, **SHORT)
        assert torch.equal(torch.get_rng_state(), before)
        pipeline.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_sparsity_is_searched_on_measured_sizes() -> None:
    measured: list[float] = []

    def curved(sparsity: float) -> int:
        measured.append(sparsity)
        return round(1000 * (1 - sparsity**2) + 100)

    found = needed_sparsity(curved, 500, 0.0, 0.95)
    assert found is not None
    assert 495 <= curved(found) <= 500
    assert found == pytest.approx(math.sqrt(0.6), abs=0.005)
    assert len(measured) < 12
    assert needed_sparsity(curved, 150, 0.0, 0.95) is None
    assert needed_sparsity(curved, 1100, 0.3, 0.95) == 0.3
    assert needed_sparsity(curved, 150, 0.97, 0.95) is None
    steps = needed_sparsity(lambda sparsity: 100 if sparsity > 0.4321 else 1000, 500, 0.0, 0.9)
    assert steps == pytest.approx(0.4321, abs=0.0011)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "there is none"),
        (("prune", "qunatize"), "unknown stage 'qunatize'. Did you mean 'quantize'"),
        (("prune", "prune"), "'prune' is there 2 times"),
        (("distill", "prune"), "'distill' is first"),
        (("distill",), "'distill' is first"),
    ],
)
def test_senseless_stages_are_refused(stages: tuple[str, ...], message: str) -> None:
    assert any(message in str(problem) for problem in check_stages(stages))
    with pytest.raises(BootcampError, match="stages: "):
        CompressionPipeline(network(), stages=stages)


def test_what_can_not_work_is_explained(trained: nn.Module, loaders: tuple[DataLoader, DataLoader]) -> None:
    with pytest.raises(BootcampError, match=r"target_compression: 0\.5.*\n.*max_sparsity: 1"):
        CompressionPipeline(trained, 0.5, max_sparsity=1.0)
    with pytest.raises(BootcampError, match="layer 'haed'"):
        CompressionPipeline(trained, target_layers=["haed"], **CPU)
    model = copy.deepcopy(trained)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BootcampError, match="unknown layer 'conv9'"):
        CompressionPipeline(model, exclude=["conv9"], **CPU).run_pipeline(*loaders)
    with pytest.raises(BootcampError, match="learning_rate above 0"):
        CompressionPipeline(model, **CPU).run_pipeline(*loaders, learning_rate=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(BootcampError, match="bfloat16 can't hold"):
        CompressionPipeline(copy.deepcopy(trained).bfloat16(), **CPU).run_pipeline(*loaders)
    with pytest.raises(BootcampError, match="run_pipeline first"):
        CompressionPipeline(model, **CPU).save("nowhere")


def test_another_networks_file_is_refused(
    trained: nn.Module, loaders: tuple[DataLoader, DataLoader], tmp_path: Path
) -> None:
    pipeline = CompressionPipeline(copy.deepcopy(trained), 2.0, stages=["quantize"], **CPU)
    pipeline.run_pipeline(*loaders, qat_epochs=0)
    pipeline.save(tmp_path / "file")
    with pytest.raises(BootcampError, match="another network's file"):
        load_compressed(nn.Linear(3, 3), tmp_path / "file")


@pytest.mark.parametrize("ranges", ["[]", "3", '{"a": "x"}', '{"a": [1, "b"]}', "{", "[" * 100_000])
def test_damaged_ranges_in_a_file_are_a_message_and_the_model_stays(ranges: str, tmp_path: Path) -> None:
    model, other = nn.Linear(3, 3), nn.Linear(3, 3)
    write_sparse(tmp_path / "file", other.state_dict(), metadata={"activation_ranges": ranges})
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BootcampError, match="ranges in it are damaged"):
        load_compressed(model, tmp_path / "file")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
