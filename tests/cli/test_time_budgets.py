"""Budgets in time, end to end, on a runtime whose time is known: it takes so long for every filter, in eights."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import yaml
from clockwork import PACED, clockwork

from pruning_bootcamp.checkpoints import load_model
from pruning_bootcamp.flow.steps import ways
from pruning_bootcamp.models.silent import mute_layers
from pruning_bootcamp.pruning.channels import race, staircase

Command = Callable[..., str]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
DENSE = ("--checkpoint", "results/baseline/best_model.pth")
CUT = ("prune-structured", "-c", SMOKE, *DENSE, "--no-fine-tune", "data.limit=96")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command(folder, "train", "-c", SMOKE)
    (folder / "own.py").write_text(PACED)
    return folder


@pytest.fixture(autouse=True)
def _clockwork(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("PRUNING_BOOTCAMP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for module in (race, staircase, ways):
        monkeypatch.setattr(module, "compare_latencies", clockwork)


def metrics(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "metrics.yaml").read_text())


def test_a_share_of_the_time(trained: Path, command: Command) -> None:
    said = command(
        trained,
        *(*CUT, "--target-latency-reduction", "0.3", "--backend", "own.py:paced", "--save-dir", "share"),
        *("structured.score=l1", "structured.allocation=global", "goal.accuracy_drop=100"),
    )
    found = metrics(trained / "share")
    assert found["latency_reduction_pct"] == pytest.approx(30, abs=2.5)
    assert found["goal_met"]
    assert "% less time (own.py:paced, batch 1)" in found["goal"]
    assert "fewer FLOPs" not in found["goal"]
    assert re.search(r"Timed: \d+\.\d+ ms, [67]\d\.\d% of", said)
    assert "Timing layers at other widths (own.py:paced, batch 1)" in said
    (forecast,) = found["forecasts"]
    sentence = f"The layers' times foresaw {forecast['foreseen_pct']:.1f}% of the time"
    assert f"when the widths were chosen: {sentence}" in said
    assert sentence in (trained / "share" / "report.md").read_text()
    assert forecast["foreseen_pct"] == pytest.approx(forecast["taken_pct"], abs=5)
    [way] = yaml.safe_load((trained / "share" / "layer_times.yaml").read_text())["ways"]
    assert (way["way"], way["threads"]) == ("own.py:paced, batch 1", 1)
    cut = load_model(trained / "share" / "pruned_model.pth")
    chosen = {name: widths for alike in way["layers"] for name, widths in alike["chosen"].items()}
    assert chosen
    for name, widths in chosen.items():
        layer = cut.get_submodule(name)
        assert widths == [layer.weight.shape[1], layer.weight.shape[0]]
    command(trained, "report", "--results", "share")
    summary = (trained / "share" / "summary.md").read_text()
    assert "Time over width" in summary
    assert "30% less time" in summary
    assert re.search(r"Latency reduction: (2|3)\d\.\d%, ", said)
    assert all(width % 8 == 0 for _, width in found["widths"].values())
    again = command(
        trained,
        *CUT,
        "--target-latency-reduction",
        "0.3",
        "--backend",
        "own.py:paced",
        "--save-dir",
        "share",
        "structured.score=l1",
        "structured.allocation=global",
        "goal.accuracy_drop=100",
    )
    assert "already finished" in again


def test_milliseconds_are_a_share_of_what_it_takes(trained: Path, command: Command) -> None:
    layers = [m for m in load_model(trained / "results/baseline/best_model.pth").modules() if hasattr(m, "weight")]
    whole = sum(0.005 + 0.01 * -(-len(m.weight) // 8) for m in layers if type(m).__name__ in ("Conv2d", "Linear"))
    asked = round(0.75 * whole, 3)
    command(
        trained,
        *(*CUT, "--target-latency-ms", str(asked), "--backend", "own.py:paced", "--save-dir", "ms"),
        *("structured.score=l1", "structured.allocation=global", "goal.accuracy_drop=100"),
    )
    found = metrics(trained / "ms")
    assert found["latency_ms"] <= 1.06 * asked
    assert "ms (own.py:paced, batch 1)" in found["goal"]
    assert found["goal_met"]


@pytest.mark.slow
def test_branches_go_where_that_is_best(trained: Path, command: Command) -> None:
    command(
        trained,
        *(*CUT, "--target-latency-reduction", "0.4", "--backend", "own.py:paced", "--save-dir", "branches"),
        *("structured.refit=closed_form", "structured.refit_rounds=0", "structured.calibration_images=64"),
        *("goal.accuracy_drop=100", "recover.method=none", "structured.exclude=[conv2]"),
    )
    found = metrics(trained / "branches")
    gone = [name for name, (_, width) in found["widths"].items() if width == 0]
    assert gone
    assert found["latency_reduction_pct"] == pytest.approx(40, abs=3)
    model = load_model(trained / "branches" / "pruned_model.pth").eval()
    assert len(mute_layers(model)) == 2 * len(gone)
    command(
        trained,
        "export",
        "--checkpoint",
        "branches/pruned_model.pth",
        "--format",
        "onnx",
        "--verify",
        "--save-dir",
        "branches",
    )
    [path] = (trained / "branches").rglob("*.onnx")
    batch = torch.randn(2, 1, 8, 8)
    session = onnxruntime.InferenceSession(str(path))
    given = session.run(None, {session.get_inputs()[0].name: batch.numpy()})[0]
    with torch.inference_mode():
        assert torch.allclose(torch.from_numpy(given), model(batch), atol=1e-4)
    before = metrics(trained / "branches")["params_m"]
    assert before == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e6, rel=1e-3)


def test_out_of_reach_before_any_work(trained: Path, command: Command) -> None:
    said = command(
        trained,
        *(*CUT, "--target-latency-reduction", "0.9", "--backend", "own.py:paced", "--save-dir", "reach"),
        "structured.max_sparsity=0.5",
        expect=3,
    )
    assert "90.0% less time can't be had: cut as far as the limits allow" in said
    assert "Computing importance" not in said
    assert not (trained / "reach").exists()
    advised = float(re.search(r"Ask for (\d+)% or less", said)[1]) / 100
    command(
        trained,
        *(*CUT, "--target-latency-reduction", f"{advised:g}", "--backend", "own.py:paced", "--save-dir", "reach"),
        *("structured.max_sparsity=0.5", "structured.score=l1", "structured.allocation=global", "--dry-run"),
    )


def test_a_network_that_is_no_quicker_is_a_missed_goal(trained: Path, command: Command) -> None:
    said = command(
        trained,
        *(*CUT, "--target-flops-reduction", "0.4", "--backend", "own.py:even", "--save-dir", "even"),
        "goal.accuracy_drop=100",
        expect=3,
    )
    assert "not certainly quicker (own.py:even, batch 1)" in said
    assert "--target-latency-reduction SHARE --backend NAME" in said
    said = command(
        trained,
        *(*CUT, "--target-flops-reduction", "0.7", "--backend", "own.py:paced", "--save-dir", "quicker"),
        "goal.accuracy_drop=100",
    )
    assert "quicker (own.py:paced, batch 1)" in metrics(trained / "quicker")["goal"]


def test_as_much_as_keeps_within_the_drop(trained: Path, command: Command) -> None:
    asked = ("--max-accuracy-drop", "5", "--save-dir", "drop", "structured.score=l1")
    said = command(trained, *CUT, *asked, expect=None)
    found = yaml.safe_load((trained / "drop" / "search.yaml").read_text())
    assert found["limit"] == 5
    within = [trial for trial in found["trials"] if trial["drop"] is not None and trial["drop"] <= 5]
    beyond = [trial for trial in found["trials"] if trial not in within]
    best = max(trial["share"] for trial in within)
    assert all(trial["share"] > best for trial in beyond)
    final = metrics(trained / "drop")
    assert final["flops_reduction_pct"] == pytest.approx(100 * best, abs=1.1)
    assert final["judged_on"] == "test"
    assert said.count("read once") >= 1
    assert not list((trained / "drop" / "trials").glob("*/stages"))
    for trial in found["trials"]:
        if trial["drop"] is not None:
            one = metrics(trained / "drop" / "trials" / f"{trial['share']:g}")
            assert one["val_accuracy_drop"] == pytest.approx(trial["drop"], abs=1e-3)
            assert "accuracy" not in one
    again = command(trained, *CUT, *asked, expect=None)
    assert again.count("already finished") == len(found["trials"]) + 1
    command(trained, "report", "--results", "drop")
    summary = (trained / "drop" / "summary.md").read_text()
    assert "at most 5 points lost on validation samples" in summary
    assert summary.count("✓ taken") == 1
    command(trained, *CUT, "--max-accuracy-drop", "4.9", *asked[2:], "--seed", "1", expect=None)
    assert yaml.safe_load((trained / "drop" / "search.yaml").read_text())["limit"] == 4.9
    assert yaml.safe_load((trained / "drop" / "previous-1" / "search.yaml").read_text())


def test_a_pipeline_does_not_search(trained: Path, command: Command) -> None:
    said = command(
        trained,
        *("pipeline", "run", "-c", SMOKE, *DENSE, "pipeline.steps=[prune-structured]"),
        "structured.max_accuracy_drop=1",
        expect=2,
    )
    assert "only the command prune-structured searches for it" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--target-latency-reduction", "1.4"), "1.4 is not in [0, 1)"),
        (("--target-latency-ms", "-3"), "-3"),
        (("--target-latency-reduction", "0.3", "--target-flops-reduction", "0.3"), "give exactly one budget"),
        (("--target-latency-reduction", "0.3", "structured.allocation=local"), "a budget in time chooses by time"),
        (("--target-latency-ms", "3", "structured.iterations=2"), "cut shares of a budget, not milliseconds"),
        (("--target-latency-reduction", "0.3", "--backend", "onxruntime"), "Did you mean 'onnxruntime'?"),
        (("--max-accuracy-drop", "0"), "max_accuracy_drop"),
        (("--target-latency-reduction", "0.3", "profile.more_batch_sizes=[0]"), "0 is not a whole number from 1 up"),
    ],
)
def test_wrong_budgets(trained: Path, command: Command, given: tuple[str, ...], said: str) -> None:
    assert said in command(trained, *CUT, *given, expect=2)
