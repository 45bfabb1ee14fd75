"""A segmentation task (dict outputs) and a token model (int64 inputs) go the whole way, typed as a user types it."""

import contextlib
import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
import yaml

from pruning_bootcamp import load_model
from pruning_bootcamp.checkpoints import load_checkpoint
from pruning_bootcamp.config import load
from pruning_bootcamp.flow.commands import fingerprint_of

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "tasks.md").read_text()
TOKENS = """
name: tokens
task: tokens.py:NextToken
data: {name: "tokens.py:sequences"}
model: {name: "tokens.py:build"}
train: {epochs: 8, batch_size: 16, lr: 0.01, optimizer: adamw}
prune: {score: taylor, sparsity: 0.6, solver: none, pattern: unstructured}
structured: {score: l1, target_flops_reduction: 0.4, round_to: null}
recover: {method: distill, steps: 30, batch_size: 32, lr: 0.1}
fine_tune: {epochs: 2}
goal: {accuracy_drop: 5}
export: {format: onnx}
"""

Command = Callable[..., str]


def figures(path: Path) -> dict[str, object]:
    return yaml.safe_load(path.read_text())


def prepare(folder: Path, name: str) -> tuple[str, ...]:
    """The file of the task and its config, in the folder; quick settings."""
    shutil.copy(TESTS / "own_tasks" / f"{name}.py", folder)
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (folder / f"{name}.yaml").write_text(block if name == "shapes" else TOKENS)
    return "-c", f"{name}.yaml", "device=cpu", "threads=1", "profile.runs=5"


@pytest.fixture(scope="module", params=["shapes", "tokens"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    text = command(folder, "train", *prepare(folder, request.param), "--save-dir", "dense")
    assert "Task: running your own code" in text
    return folder


def metric_of(folder: Path) -> tuple[str, str, bool]:
    """Its name, the name of its loss, and whether higher is better."""
    shapes = (folder / "shapes.py").exists()
    return ("mean_iou", "mean_iou_drop", True) if shapes else ("perplexity", "perplexity_rise", False)


def options(folder: Path, *more: str) -> tuple[str, ...]:
    name = "shapes" if (folder / "shapes.py").exists() else "tokens"
    return "-c", f"{name}.yaml", "device=cpu", "threads=1", "profile.runs=5", *more


def test_the_page_shows_the_file_that_is_tested() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert block == (TESTS / "own_tasks" / "shapes.py").read_text()


def test_training_is_judged_by_the_tasks_own_metric(trained: Path) -> None:
    name, _, higher = metric_of(trained)
    metrics = figures(trained / "dense" / "metrics.yaml")
    assert not [key for key in metrics if "accuracy" in key]
    assert (metrics[name] > 50) if higher else (metrics[name] < 4)  # type: ignore[operator]
    assert f"val_{name}" in metrics
    report = (trained / "dense" / "report.md").read_text()
    assert "ccuracy" not in report
    assert name.replace("_", " ") in report.lower()


@pytest.mark.slow
def test_channels_are_cut_and_proved_recovered_exported_and_timed(trained: Path, command: Command) -> None:
    name, lost, higher = metric_of(trained)
    dense, cut = "dense/best_model.pth", "cut/pruned_model.pth"
    text = command(trained, "prune-structured", *options(trained), "--checkpoint", dense, "--save-dir", "cut")
    assert "Slice proof: passed" in text
    metrics = figures(trained / "cut" / "metrics.yaml")
    assert metrics["slice_proof"]["passed"] is True  # type: ignore[index]
    assert metrics["flops_reduction_pct"] == pytest.approx(40, abs=1)
    before, after = metrics["baseline"][name], metrics[name]  # type: ignore[index]
    assert metrics[lost] == pytest.approx(before - after if higher else after - before, abs=1e-3)
    assert metrics["goal_met"] is True
    assert f"points of {name.replace('_', ' ')} lost" in str(metrics["goal"])
    again = command(trained, "prune-structured", *options(trained), "--checkpoint", dense, "--save-dir", "cut")
    assert "already finished" in again
    assert figures(trained / "cut" / "metrics.yaml") == metrics

    command(trained, "export", *options(trained), "--checkpoint", cut)
    session = onnxruntime.InferenceSession(str(trained / "cut" / "model.onnx"))
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert taken.type == ("tensor(float)" if higher else "tensor(int64)")
    assert given.name == "output"

    text = command(trained, "profile", *options(trained), "--baseline", dense, "--pruned", cut)
    assert "FLOPs reduction:   40" in text
    command(trained, "eval", *options(trained), "--checkpoint", cut, "--baseline-metrics", "dense/metrics.yaml")
    evaluated = figures(trained / "cut" / "eval_metrics.yaml")
    assert evaluated[name] == pytest.approx(after, abs=1e-3)
    assert evaluated[lost] == pytest.approx(metrics[lost], abs=1e-3)


def test_weights_are_pruned_by_the_tasks_own_gradients(trained: Path, command: Command) -> None:
    name, lost, _ = metric_of(trained)
    command(
        trained, "prune-unstructured", *options(trained, "recover.method=bn"), "--checkpoint", "dense/best_model.pth",
        "--method", "taylor", "--sparsity", "0.5", "--no-fine-tune", "--save-dir", "zeros", "goal.accuracy_drop=1000",
    )  # fmt: skip
    metrics = figures(trained / "zeros" / "metrics.yaml")
    assert metrics["sparsity"] == pytest.approx(0.5, abs=0.001)
    assert lost in metrics
    assert name in metrics


def test_a_changed_line_of_the_task_is_another_run(trained: Path) -> None:
    (path,) = trained.glob("*.py")
    with contextlib.chdir(trained):
        cfg = load(Path(f"{path.stem}.yaml"))
        before = fingerprint_of("train", cfg)
        path.write_text(path.read_text() + "\n# another line\n")
        assert fingerprint_of("train", cfg) != before


def test_a_scan_is_judged_by_the_tasks_own_metric(trained: Path, command: Command) -> None:
    name, _, higher = metric_of(trained)
    title, noun = name.replace("_", " "), "images" if higher else "sequences"
    dense = ("--checkpoint", "dense/best_model.pth")
    scan = ("sensitivity", *options(trained, "prune.score=magnitude"), *dense, "--sparsities", "0.5,0.98")
    text = command(trained, *scan, "--save-dir", "scan")
    assert f"points of {title} lost on " in text
    assert f" validation {noun} (dense: " in text
    found = figures(trained / "scan" / "sensitivity.yaml")
    assert found["metric"]["name"] == name  # type: ignore[index]
    before = found["dense"][name]  # type: ignore[index]
    assert before == pytest.approx(figures(trained / "dense" / "metrics.yaml")[f"val_{name}"], abs=1e-3)
    at_most = [row["points"][-1][name] for row in found["rows"]]  # type: ignore[attr-defined]
    assert min(at_most) < before - 1 if higher else max(at_most) > before + 1, "0.98 of a layer gone and nothing lost"
    with open(trained / "scan" / "sensitivity.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    worse = [before - float(row[name]) if higher else float(row[name]) - before for row in rows]
    assert [float(row["points_lost"]) for row in rows] == pytest.approx(worse, abs=1e-3)
    assert f"val_{name}" in figures(trained / "scan" / "metrics.yaml")
    for file in ("sensitivity.yaml", "sensitivity.csv", "sensitivity.html", "report.md"):
        assert "ccuracy" not in (trained / "scan" / file).read_text(), file

    again = command(trained, *scan, "--save-dir", "scan")
    assert "already finished" in again
    assert f"points of {title} lost on " in again
    by = "prune.allocation.args={file: scan/sensitivity.yaml, by: accuracy}"
    prune = ("prune-unstructured", *options(trained, by, "recover.method=bn", "prune.score=magnitude"), *dense)
    zeros = ("--mode", "sensitivity", "--sparsity", "0.5", "--no-fine-tune", "--save-dir", "by_scan")
    command(trained, *prune, *zeros, "goal.accuracy_drop=1000")
    assert figures(trained / "by_scan" / "metrics.yaml")["sparsity"] == pytest.approx(0.5, abs=0.001)
    command(trained, "report", "--results", "scan", "--save-dir", "pages")
    (page,) = (trained / "pages").glob("*.md")
    assert f"validation {title}" in page.read_text()


def test_what_weighs_accuracy_refuses_another_metric(trained: Path, command: Command) -> None:
    text = command(trained, "sweep", *options(trained), "--checkpoint", "dense/best_model.pth", expect=2)
    assert "is judged by" in text
    assert "weighs accuracy" in text


def test_a_checkpoint_opens_without_its_task(trained: Path) -> None:
    with contextlib.chdir(trained):
        recipe = load_checkpoint("dense/best_model.pth", trust_code=True).recipe
        network = load_model("dense/best_model.pth", trust_code=True)
    _, _, images = metric_of(trained)
    assert recipe.input_below == (None if images else 12)
    example = recipe.inputs.example(2, torch.Generator().manual_seed(0))
    assert example.dtype == (torch.float32 if images else torch.int64)
    network(example)
