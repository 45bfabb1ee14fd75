"""Quickstart keeps its promise: an accurate network, 1.5 times as quick, little lost, files proven, all measured."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.commands import starting
from pruning_bootcamp.pruning.sections import BUDGETS

SHORTER = ("train.epochs=12", "fine_tune.epochs=8", "goal.accuracy_drop=6")


@pytest.mark.slow  # a minute, which the smoke config's quickstart among the golden commands does not take
@pytest.mark.parametrize("shorter", [pytest.param(SHORTER, id="shorter"), pytest.param((), id="as it comes")])
def test_quickstart_meets_its_goal(shorter: tuple[str, ...], tmp_path: Path, command: Callable[..., str]) -> None:
    """Every default but the lengths of the trainings, then those too."""
    text = command(tmp_path, "quickstart", *shorter)
    assert text.rstrip().splitlines()[-1].startswith("Goal MET (>= 33.4% less time (onnxruntime, batch 1 and 16)")
    root = tmp_path / "results" / "quickstart"
    figures = yaml.safe_load((root / "metrics.yaml").read_text())
    assert figures["baseline"]["accuracy"] >= 97
    assert figures["latency_reduction_pct"] > 25, "the profile's own timing, once more"
    assert figures["accuracy_drop"] <= (6 if shorter else 1.5)
    dense, cut = (yaml.safe_load((root / name / "metrics.yaml").read_text()) for name in ("baseline", "structured"))
    assert dense["weights"] == cut["baseline"]["weights"], "the report tells by them which network was pruned"
    assert figures["latency_ms"] > 0
    assert figures["baseline"]["latency_ms"] > 0
    assert figures["export"]["onnx"]["verified"]
    assert (root / "report.md").read_text().count("Goal MET") == 1
    other_files = ("export.format=sparse", "export.verify=false", "profile.measure_latency=false")
    again = command(tmp_path, "quickstart", *shorter, *other_files)
    assert again.count("already finished") == 2, "training and pruning are not done twice"


@pytest.mark.parametrize(
    "budget", ["target_flops_reduction=0.3", "max_accuracy_drop=100", "target_latency_reduction=0.2"]
)
def test_another_budget_takes_the_place_of_its_own(
    budget: str, tmp_path: Path, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "train", lambda cfg, **_: None)
    asked: list[dict[str, object]] = []

    def pruned(cfg: Config, **_: object) -> None:
        budgets = {name: getattr(cfg.structured, name) for name in BUDGETS.values()}
        asked.append({name: value for name, value in budgets.items() if value is not None})
        raise BootcampError("far enough")

    for name in ("prune_structured", "prune_within_drop"):
        monkeypatch.setattr(starting, name, pruned)
    assert "far enough" in command(tmp_path, "quickstart", f"structured.{budget}", expect=2)
    name, value = budget.split("=")
    assert asked == [{name: float(value)}]
