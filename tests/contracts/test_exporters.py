"""What every export format promises: the file is the network, for any batch, on its own; or it is not there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Recipe
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.exporters import EXPORTERS, deployable_copy, export_model, proof_of

AGREEMENT = 0.9  # of an untrained network, whose classes are close


class Plain(nn.Sequential):
    """Convolution, batch norm, classifier."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        )


class Residual(nn.Module):
    """A strided, grouped, residual block of widths that are no multiple of 8, as pruning leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.down = nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(6, 10, 1, stride=2)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.norm(self.grouped(x)))
        x = torch.relu(self.down(x) + self.shortcut(x))
        return self.head(self.dropout(x.mean((2, 3))))


def network(kind: type[nn.Module]) -> nn.Module:
    """With running statistics unlike a fresh batch norm's, so that a wrong fold or mode shows."""
    model = kind().train()
    with torch.no_grad():
        for _ in range(3):
            model(2 * torch.randn(16, 3, 8, 8) + 1)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2.0)
    return model


def real_images(count: int) -> Tensor:
    """Like those that the networks have normalised: noise around a colour, so that they tell the images apart."""
    return torch.randn(count, 3, 8, 8) + 2 * torch.randn(count, 3, 1, 1)


def given(kind: type[nn.Module]) -> dict[str, Any]:
    """What the engine has for the formats that need it."""
    recipe = Recipe(f"{Path(__file__).resolve()}:{kind.__name__}", {}, 5, 3, (3, 8, 8), (0.5,) * 3, (0.25,) * 3)
    return {"calibration": real_images(128), "recipe": recipe, "masks": {}}


def needed(name: str, kind: type[nn.Module]) -> dict[str, Any]:
    return {key: value for key, value in given(kind).items() if key in EXPORTERS[name].facts.get("needs", ())}


# every format with its default settings, and the other values that change how it is proven
CASES = [(name, {}) for name in EXPORTERS] + [("sparse", {"values": "int8"})]


def test_the_cases_are_every_way_of_proof() -> None:
    assert {proof_of(name, args) for name, args in CASES} == {"close", "equal", "agreement"}


@pytest.mark.parametrize(("name", "args"), CASES)
def test_the_file_is_the_network(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    model = network(Residual).to(memory_format=torch.channels_last)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = export_model(
        model,
        torch.zeros(1, 3, 8, 8),
        tmp_path,
        format=name,
        examples=real_images(200),
        agreement=AGREEMENT,
        args=args,
        **given(Residual),
    )

    assert report.path == tmp_path / f"model{EXPORTERS[name].facts['suffix']}"
    assert list(tmp_path.iterdir()) == [report.path], "one file and nothing else"
    assert report.size_mb == report.path.stat().st_size / 1e6
    assert report.verified
    assert report.new_process
    assert report.batch_sizes == (1, 2, 7)
    proof = proof_of(name, args)
    assert report.relative_difference is not None
    if proof == "agreement":
        assert report.agreement is not None
        assert AGREEMENT <= report.agreement <= 1
        assert report.images == 200
    else:
        assert report.agreement is None
        assert report.relative_difference < (1e-5 if proof == "close" else 1e-99)
    assert "verified successfully" in str(report)
    assert report.warning is None
    assert (report.dense_mb is not None) == EXPORTERS[name].facts.get("compact", False)

    assert model.training, "the model is left as it was"
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.state_dict()[next(key for key in before if before[key].ndim == 4)].is_contiguous(
        memory_format=torch.channels_last
    )


@pytest.mark.parametrize("kind", [Plain, Residual])
@pytest.mark.parametrize(("name", "args"), CASES)
def test_the_runner_agrees_on_batches_it_has_never_seen(
    name: str, args: dict[str, Any], kind: type[nn.Module], tmp_path: Path
) -> None:
    model = deployable_copy(network(kind))
    path = tmp_path / f"m{EXPORTERS[name].facts['suffix']}"
    runner = EXPORTERS[name](model, torch.zeros(2, 3, 8, 8), path, **args, **needed(name, kind))
    for size in (1, 2, 5, 200):
        images = real_images(size)
        with torch.inference_mode():
            expected, found = model(images), runner(images)
        assert found.shape == expected.shape
        if proof_of(name, args) != "agreement":
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        elif size == 200:
            assert (found.argmax(1) == expected.argmax(1)).float().mean() >= AGREEMENT
    assert runner.backend


@pytest.mark.parametrize(("name", "args"), CASES)
def test_a_file_of_other_weights_is_caught_and_removed(
    name: str, args: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EXPORTERS[name]
    agreement = proof_of(name, args) == "agreement"

    def others(model: nn.Module, example: Tensor, path: Path, **rest: Any) -> object:
        other = deployable_copy(model)
        with torch.no_grad():
            if agreement:  # small errors are what rounding makes
                list(other.parameters())[-2].neg_()
            else:
                next(other.parameters()).view(-1)[0] += 0.01
        return entry.function(other, example, path, **rest)

    monkeypatch.setitem(EXPORTERS._entries, name, replace(entry, function=others))
    (tmp_path / f"model{entry.facts['suffix']}").write_text("an older export")
    with pytest.raises(GoalNotMet, match="decide alike in" if agreement else "differ by") as caught:
        export_model(
            network(Plain),
            torch.zeros(1, 3, 8, 8),
            tmp_path,
            format=name,
            args=args,
            examples=real_images(200),
            **given(Plain),
        )
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "args"), CASES)
def test_weights_that_only_cost_time_are_zero_and_counted(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    model = network(Plain)
    with torch.no_grad():
        model[1].weight[:3] = 1e-37  # type: ignore[operator, index]
        nn.init.ones_(model[1].bias)  # type: ignore[arg-type, index]
        model[5].weight[0, :2] = -1e-40  # type: ignore[operator, index]
    some = {"examples": real_images(200), "agreement": AGREEMENT} | given(Plain)
    report = export_model(model, torch.zeros(1, 3, 8, 8), tmp_path, format=name, args=args, **some)
    assert report.verified
    folds = EXPORTERS[name].facts.get("folds", False)
    assert dict(report.zeroed) == {"5.weight": 2, **({"0.weight": 3 * 27} if folds else {"1.weight": 3})}
    assert f"{2 + (81 if folds else 3)} weights below 1e-30" in str(report)
    assert model[1].weight[0].item() == pytest.approx(1e-37), "the model is left as it was"  # type: ignore[index]


@pytest.mark.parametrize("name", list(EXPORTERS))
def test_settings_are_checked_before_any_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match=r"unknown setting 'optset'"):
        export_model(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path, format=name, args={"optset": 18})
    for engines in ("calibration", "recipe", "masks"):
        with pytest.raises(BootcampError, match=f"unknown setting '{engines}'"):
            export_model(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path, format=name, args={engines: None})
    assert list(tmp_path.iterdir()) == []
