"""prune() and compress(): five lines, the dense module untouched, figures that an independent count agrees with."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pruning_bootcamp
from pruning_bootcamp import BootcampError, compress, prune
from pruning_bootcamp.checkpoints import load_model


class Small(nn.Module):
    """Takes an argument and is defined here: no name of ours opens it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        )
        self.head = nn.Linear(width, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))


def loader(count: int, seed: int) -> DataLoader[Any]:
    """Bright or dark noise, 2 classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randn(count, 1, 8, 8, generator=generator) + labels[:, None, None, None]
    return DataLoader(TensorDataset(images, labels), batch_size=16)


def trained() -> Small:
    torch.manual_seed(0)
    model = Small(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        for images, labels in loader(128, 0):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model


SHORT: dict[str, object] = {"fine_tune.epochs": 1, "prune.calibration_images": 16, "goal.accuracy_drop": 100}


@pytest.fixture
def model() -> Small:
    return trained()


def macs(module: Any) -> int:
    """By hand: each convolution's weights are used at each of 64 places, the head's once."""
    return 64 * (module.body[0].weight.numel() + module.body[3].weight.numel()) + module.head.weight.numel()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_five_lines_cut_channels_until_the_budget_is_met(model: Small) -> None:
    before, training = state(model), model.training
    train_loader, val_loader, test_loader = loader(128, 0), loader(64, 1), loader(64, 2)
    result = prune(
        model, train=train_loader, validation=val_loader, test=test_loader, flops_reduction=0.5, settings=SHORT
    )
    assert same(state(model), before)
    assert model.training is training
    assert result.metrics.flops_reduction_pct >= 50
    counted = 1 - macs(result.model) / macs(model)
    assert result.metrics.flops_reduction_pct == pytest.approx(100 * counted, abs=0.01)
    with torch.inference_mode():
        right = sum(int((result.model(x).argmax(1) == y).sum()) for x, y in test_loader)
    assert result.metrics.accuracy == pytest.approx(100 * right / 64)
    assert "FLOPs" in result.report()
    assert result.folder is None


def test_channels_go_in_cycles_under_a_penalty(model: Small) -> None:
    cycles = {"structured.iterations": 2, "structured.grow_penalty": "16it", "structured.calibration_images": 64}
    result = prune(
        model, train=loader(64, 0), validation=loader(32, 1), flops_reduction=0.5, settings={**SHORT, **cycles}
    )
    assert result.metrics.cycles is not None
    first, last = (cycle.flops_reduction_pct for cycle in result.metrics.cycles)
    assert first == pytest.approx(0.875 * 50, abs=1)
    assert last == pytest.approx(100 * (1 - macs(result.model) / macs(model)), abs=0.01)
    assert result.metrics.grown_penalty is not None
    assert result.metrics.grown_penalty.norm_left < 1
    assert "fewer FLOPs (%)" in result.report()


@pytest.mark.parametrize(("pattern", "sparsity"), [(None, 0.7), ("2:4", None), ("per_output", 0.25)])
def test_weights_become_zero(model: Small, pattern: str | None, sparsity: float | None) -> None:
    result = prune(
        model,
        train=loader(64, 0),
        validation=loader(64, 1),
        sparsity=sparsity,
        pattern=pattern,
        recover="batch_norm",
        settings=SHORT,
    )
    assert result.metrics.accuracy is None  # no test images, so none are claimed
    assert result.metrics.val_accuracy is not None
    weights = torch.cat([m.weight.flatten() for m in result.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    zeros = int((weights == 0).sum()) / weights.numel()
    assert zeros == pytest.approx(result.metrics.sparsity, abs=1e-4)
    assert zeros > (sparsity or 0.4) - 0.02


@pytest.mark.parametrize("recover", ["none", "batch_norm", "distill", "fine_tune"])
def test_twice_gives_the_same_bits_whatever_was_drawn_between(model: Small, recover: Any) -> None:
    asked = {"train": loader(64, 0), "validation": loader(32, 1), "sparsity": 0.5, "recover": recover}
    settings = {**SHORT, "recover.steps": 3, "recover.images": 32}
    once = prune(model, **asked, settings=settings, seed=3)
    torch.rand(7)
    after = torch.get_rng_state()
    again = prune(model, **asked, settings=settings, seed=3)
    assert same(state(once.model), state(again.model))
    assert torch.equal(torch.get_rng_state(), after)


def test_a_whole_pipeline_ships_a_file(model: Small, tmp_path: Path) -> None:
    result = compress(
        model,
        train=loader(128, 0),
        validation=loader(64, 1),
        test=loader(64, 2),
        config={
            **SHORT,
            "pipeline.steps": ["prune-structured", "prune-unstructured"],
            "structured.target_flops_reduction": 0.4,
            "prune.sparsity": 0.5,
            "export.format": "onnx",
        },
        save_dir=tmp_path / "out",
    )
    assert result.folder == tmp_path / "out" / "run"
    assert (result.folder / "export" / "pruned_model.onnx").exists() or list((result.folder / "export").glob("*.onnx"))
    assert result.metrics.sparsity > 0.4
    assert result.metrics.flops_reduction_pct == pytest.approx(40, abs=2)


def test_the_same_call_takes_up_what_is_there_and_changes_nothing(model: Small, tmp_path: Path) -> None:
    asked = {"train": loader(64, 0), "validation": loader(32, 1), "sparsity": 0.5, "settings": SHORT}
    once = prune(model, **asked, save_dir=tmp_path / "out")
    written = (tmp_path / "out" / "run" / "pruned_model.pth").stat().st_mtime_ns
    again = prune(copy.deepcopy(model), **asked, save_dir=tmp_path / "out")
    assert same(state(once.model), state(again.model))
    assert (tmp_path / "out" / "run" / "pruned_model.pth").stat().st_mtime_ns == written


def test_what_was_kept_says_that_its_network_was_an_object(model: Small, tmp_path: Path) -> None:
    prune(
        model,
        train=loader(64, 0),
        validation=loader(32, 1),
        sparsity=0.5,
        recover="none",
        settings=SHORT,
        save_dir=tmp_path / "out",
    )
    with pytest.raises(BootcampError, match="was an object in Python"):
        load_model(tmp_path / "out" / "run" / "pruned_model.pth", trust_code=True)


def test_inputs_alone_are_judged_by_what_the_network_itself_decides(model: Small) -> None:
    learnt, chosen = (torch.cat([images for images, _ in loader(*given)]) for given in ((64, 0), (32, 1)))
    result = prune(
        model,
        train=learnt.split(16),
        validation=DataLoader(TensorDataset(chosen), batch_size=16),  # gives lists of one tensor
        flops_reduction=0.5,
        recover="none",
        settings={"structured.calibration_images": 64, "structured.refit_rounds": 1},
        verbose=False,
    )
    with torch.inference_mode():
        alike = result.model(chosen).argmax(1) == model.eval()(chosen).argmax(1)
    assert result.metrics.baseline is not None
    assert result.metrics.baseline.val_accuracy == 100
    assert result.metrics.val_accuracy == pytest.approx(100 * float(alike.float().mean()))
    assert result.metrics.refit is not None
    assert result.metrics.refit.layers > 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "none is given. Give exactly one of sparsity, flops_reduction, params_reduction"),
        ({"sparsity": 0.5, "flops_reduction": 0.5}, "sparsity, flops_reduction are given"),
        ({"pattern": "2:4", "params_reduction": 0.5}, "params_reduction cuts channels"),
        ({"sparsity": 1.5}, "sparsity"),
        ({"sparsity": 0.5, "score": "l7"}, "unknown score 'l7'"),
        ({"sparsity": 0.5, "settings": {"fine_tune.epoch": 3}}, "fine_tune.epoch"),
        ({"sparsity": 0.5, "train": []}, "train: gives no batch"),
        ({"sparsity": 0.5, "train": [{"pixels": torch.zeros(2, 1, 8, 8)}]}, "train: a batch holds (str)"),
        ({"sparsity": 0.5, "task": "image_clasification"}, "image_classification"),
    ],
)
def test_wrong_calls_are_refused_before_any_work(model: Small, asked: dict[str, Any], words: str) -> None:
    given = {"train": loader(64, 0), "validation": loader(32, 1)} | asked
    before = state(model)
    with pytest.raises(BootcampError) as caught:
        prune(model, **given)
    assert words in str(caught.value)
    assert same(state(model), before)


def test_both_are_names_of_the_package() -> None:
    assert {"prune", "compress"} <= set(dir(pruning_bootcamp)) | set(pruning_bootcamp._PLACES)


def test_budgets_in_time_and_accuracy_are_the_commands_own(model: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    seen: dict[str, Any] = {}

    def note(command: str) -> Any:
        def run(cfg: Any, *_: Any, **__: Any) -> None:
            seen[command] = cfg
            raise Seen

        return run

    for name in ("prune_structured", "prune_within_drop"):
        monkeypatch.setattr(f"pruning_bootcamp.flow.commands.{name}", note(name))
    data: dict[str, Any] = {"train": loader(32, 0), "validation": loader(32, 1)}
    with pytest.raises(Seen):
        prune(model, **data, latency_reduction=0.4, backend="onnxruntime")
    cfg = seen["prune_structured"]
    assert (cfg.structured.target_latency_reduction, cfg.profile.backend) == (0.4, "onnxruntime")
    assert cfg.goal.latency_reduction_pct is None
    with pytest.raises(Seen):
        prune(model, **data, max_accuracy_drop=1.5)
    cfg = seen["prune_within_drop"]
    assert (cfg.structured.max_accuracy_drop, cfg.goal.latency_reduction_pct) == (1.5, None)
    with pytest.raises(Seen):
        prune(model, **data, max_accuracy_drop=1.5, backend="torch")
    assert seen["prune_within_drop"].goal.latency_reduction_pct == 0
    with pytest.raises(BootcampError, match="zeros alone save none"):
        prune(model, **data, sparsity=0.5, backend="torch")
    with pytest.raises(BootcampError, match="Give exactly one"):
        prune(model, **data, flops_reduction=0.5, latency_reduction=0.5)
