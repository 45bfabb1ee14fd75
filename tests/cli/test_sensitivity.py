"""`sensitivity` from the command line: its files, killed and typed again, refused with reasons, and pruned by."""

import csv
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.steps import scan

REPOSITORY = Path(__file__).resolve().parents[2]
SMOKE = str(REPOSITORY / "cfgs" / "smoke" / "digits.yaml")
FILES = ("sensitivity.yaml", "sensitivity.csv", "report.md")
Command = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command(folder, "train", "-c", SMOKE, "--save-dir", "base", "train.epochs=3")
    return folder / "base" / "best_model.pth"


def scanning(trained: Path, *more: str) -> tuple[str, ...]:
    return ("sensitivity", "-c", SMOKE, "--checkpoint", str(trained), *more)


@pytest.fixture(scope="module")
def scanned(trained: Path, tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("scanned")
    command(folder, *scanning(trained, "--sparsities", "0.9,0.5,0.97"))
    return folder / "results" / "sensitivity" / "magnitude_layer"


def test_what_a_scan_leaves(scanned: Path, trained: Path, command: Command) -> None:
    result = yaml.safe_load((scanned / "sensitivity.yaml").read_text())
    assert {key: result[key] for key in ("by", "score", "pattern", "split")} == {
        "by": "layer",
        "score": "magnitude",
        "pattern": "unstructured",
        "split": "validation",
    }
    assert result["sparsities"] == [0.5, 0.9, 0.97]
    assert len(result["rows"]) == 20
    assert result["rows"][0]["name"] == "conv1"
    assert result["rows"][0]["weights"] == ["conv1.weight"]
    for row in result["rows"]:
        assert [point["sparsity"] for point in row["points"]] == [0.5, 0.9, 0.97]
    losses = {point["loss"] for row in result["rows"] for point in row["points"]}
    assert len(losses) > 30  # the layers really were pruned, each in its own way
    with open(scanned / "sensitivity.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 60
    metrics = yaml.safe_load((scanned / "metrics.yaml").read_text())
    assert metrics["status"] == "complete"
    assert metrics["val_accuracy"] == result["dense"]["accuracy"]
    assert "accuracy" not in metrics  # that is the test split's name, which is not read
    assert not points_in(scanned)
    before = (scanned / "metrics.yaml").stat().st_mtime_ns
    text = command(scanned.parents[2], *scanning(trained, "--sparsities", "0.5,0.9,0.97"))
    assert "already finished" in text
    assert "Most sensitive" in text
    assert (scanned / "metrics.yaml").stat().st_mtime_ns == before


def test_a_point_is_what_pruning_that_layer_alone_gives(scanned: Path, trained: Path) -> None:
    from pruning_bootcamp import load_model
    from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, evaluate
    from pruning_bootcamp.tools.datasets import eval_batches, load_dataset

    splits = load_dataset("digits", root="data", val_fraction=0.1, limit=256, args={})
    model = load_model(trained)
    weight = model.get_parameter("layer2.0.conv1.weight")
    order = weight.detach().abs().flatten().argsort(stable=True)
    weight.data.view(-1)[order[: round(0.97 * weight.numel())]] = 0
    batches = eval_batches(splits.val, batch_size=256, mean=splits.mean, std=splits.std, device="cpu")
    found = evaluate(model, batches, IMAGE_CLASSIFICATION)
    result = yaml.safe_load((scanned / "sensitivity.yaml").read_text())
    row = next(row for row in result["rows"] if row["name"] == "layer2.0.conv1")
    assert row["points"][2]["accuracy"] == pytest.approx(found.score, abs=1e-3)
    assert row["points"][2]["loss"] == pytest.approx(found.loss, abs=1e-4)


def points_in(folder: Path) -> list[Path]:
    """What an unfinished scan has measured so far, in the folder of its step."""
    return list(folder.rglob("points.json"))


def stop_after(count: int, patch: pytest.MonkeyPatch) -> None:
    """The scan's measurements fail from then on."""
    measured, real = itertools.count(), scan.evaluate_on

    def evaluate(*given: Any, **more: Any) -> Any:
        if next(measured) >= count:
            raise BootcampError("no more of it")
        return real(*given, **more)

    patch.setattr(scan, "evaluate_on", evaluate)


@pytest.mark.slow
def test_a_scan_that_was_killed_goes_on_to_the_same_files(
    scanned: Path, trained: Path, tmp_path: Path, command: Command
) -> None:
    arguments = scanning(trained, "--sparsities", "0.9,0.5,0.97")
    process = subprocess.Popen(
        [sys.executable, "-m", "pruning_bootcamp", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not points_in(tmp_path) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, said
    run = tmp_path / "results" / "sensitivity" / "magnitude_layer"
    assert not (run / "metrics.yaml").exists()
    text = command(tmp_path, *arguments)
    assert "of 60 points are known from an earlier start" in text
    for name in FILES:
        assert (run / name).read_bytes() == (scanned / name).read_bytes()
    assert not points_in(tmp_path)


def test_a_scan_that_failed_keeps_what_it_measured(
    scanned: Path, trained: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = scanning(trained, "--sparsities", "0.9,0.5,0.97")
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        command(tmp_path, *arguments, expect=2)
    assert "4 of 60 points are known from an earlier start" in command(tmp_path, *arguments)
    again = tmp_path / "results" / "sensitivity" / "magnitude_layer" / "sensitivity.yaml"
    assert again.read_bytes() == (scanned / "sensitivity.yaml").read_bytes()


def test_points_of_a_damaged_file_are_measured_anew(
    scanned: Path, trained: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = scanning(trained, "--sparsities", "0.9,0.5,0.97")
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        command(tmp_path, *arguments, expect=2)
    [points] = points_in(tmp_path)
    points.write_text('{"fingerprint": "another", "points": [["conv1", 0.5, 99.0, 0.0]]}')
    text = command(tmp_path, *arguments)
    assert "begins anew" in text
    again = tmp_path / "results" / "sensitivity" / "magnitude_layer" / "sensitivity.yaml"
    assert again.read_bytes() == (scanned / "sensitivity.yaml").read_bytes()


def test_blocks_n_of_m_and_batch_norm(trained: Path, tmp_path: Path, command: Command) -> None:
    more = ("--by", "block", "prune.pattern=2:4", "sensitivity.bn_images=64", "prune.score=wanda")
    text = command(tmp_path, *scanning(trained, *more, "prune.calibration_images=32"))
    assert "skipped conv1.weight" in text
    result = yaml.safe_load((tmp_path / "results/sensitivity/wanda_block/sensitivity.yaml").read_text())
    assert result["sparsities"] == [0.5]
    assert result["pattern"] == "2:4"
    assert result["rows"][0]["weights"] == ["layer1.0.conv1.weight", "layer1.0.conv2.weight"]
    assert len(result["rows"]) == 10


def test_new_batch_norm_statistics_are_no_layers_doing(trained: Path, tmp_path: Path, command: Command) -> None:
    """At 0.1% a layer of 144 weights loses none: it costs nothing, whatever re-estimation does to the network."""
    command(tmp_path, *scanning(trained, "--sparsities", "0.001", "sensitivity.bn_images=64", "prune.include=[conv1*]"))
    result = yaml.safe_load((tmp_path / "results/sensitivity/magnitude_layer/sensitivity.yaml").read_text())
    assert result["rows"][0]["points"][0] == {"sparsity": 0.001, **result["dense"]}


def test_everything_wrong_is_said_at_once_and_nothing_is_written(tmp_path: Path, command: Command) -> None:
    text = command(
        tmp_path,
        *("sensitivity", "-c", SMOKE, "--checkpoint", "gone.pth", "--sparsities", "0.5,1.2,0.5"),
        *("prune.score=magntude", "--device", "cuda:9"),
        expect=2,
    )
    assert "5 problems" in text
    expected = ("no file gone.pth", "1.2 is not in (0, 1)", "0.5 is there twice", "Did you mean 'magnitude'", "cuda:9")
    for words in expected:
        assert words in text
    assert not list(tmp_path.iterdir())
    text = command(tmp_path, "sensitivity", "-c", SMOKE, "--sparsities", "half", "--by", "layers", expect=2)
    assert "'half' is not a number" in text
    assert "Did you mean 'layer'" in text
    text = command(tmp_path, "sensitivity", "-c", SMOKE, "prune.pattern=2:4", "--sparsities", "0.5,0.7", expect=2)
    assert "prunes exactly 0.5" in text
    text = command(tmp_path, "sensitivity", "-c", SMOKE, "prune.pattern=threshold", expect=2)
    assert "no sparsity to compare" in text
    assert "1.5 is not in (0, 1)" in command(tmp_path, "validate", SMOKE, "sensitivity.sparsities=[0.5,1.5]", expect=2)


def pruning(trained: Path, file: Path, *more: str) -> tuple[str, ...]:
    head = ("prune-unstructured", "-c", SMOKE, "--checkpoint", str(trained), "--mode", "sensitivity")
    rest = (f"prune.allocation.args.file={file}", "--no-fine-tune", "goal.accuracy_drop=100", "--save-dir", "pruned")
    return (*head, *rest, *more)


def test_pruning_by_a_scan_is_exact_and_a_changed_file_is_another_run(
    scanned: Path, trained: Path, tmp_path: Path, command: Command
) -> None:
    from pruning_bootcamp.checkpoints import load_checkpoint

    file = tmp_path / "scan.yaml"
    file.write_bytes((scanned / "sensitivity.yaml").read_bytes())
    command(tmp_path, *pruning(trained, file, "--sparsity", "0.8"))
    masks = load_checkpoint(tmp_path / "pruned" / "pruned_model.pth").masks
    total = sum(keep.numel() for keep in masks.values())
    assert sum(int((~keep).sum()) for keep in masks.values()) == round(0.8 * total)
    shares = [float((~keep).float().mean()) for keep in masks.values()]
    assert max(shares) - min(shares) > 0.1  # not the same in every layer
    assert "already finished" in command(tmp_path, *pruning(trained, file, "--sparsity", "0.8"))
    content = yaml.safe_load(file.read_text())
    for row in content["rows"]:
        row["points"] = [{**point, "loss": content["dense"]["loss"]} for point in row["points"]]
    file.write_text(yaml.safe_dump(content))
    text = command(tmp_path, *pruning(trained, file, "--sparsity", "0.8"))
    assert "held another run" in text
    masks = load_checkpoint(tmp_path / "pruned" / "pruned_model.pth").masks
    shares = [float((~keep).float().mean()) for keep in masks.values()]
    assert max(shares) - min(shares) < 0.01  # all flat: the same share of each


def test_a_scan_that_is_missing_wrong_or_too_short_stops_before_any_work(
    scanned: Path, trained: Path, tmp_path: Path, command: Command
) -> None:
    text = command(tmp_path, *pruning(trained, scanned / "sensitivty.yaml", "prune.score=wnada"), expect=2)
    assert "prune.allocation.args.file: there is no file" in text
    assert "sensitivity.yaml'?" in text
    assert "'wanda'" in text
    assert "is no sensitivity scan" in command(tmp_path, *pruning(trained, scanned / "metrics.yaml"), expect=2)
    text = command(tmp_path, *pruning(trained, scanned / "sensitivity.yaml", "--sparsity", "0.99"), expect=2)
    assert "lies beyond the scan" in text
    assert "at most 0.97" in text
    needed = ("prune-unstructured", "-c", SMOKE, "--checkpoint", str(trained), "--mode", "sensitivity")
    assert "prune.allocation.args.file: needed and not given" in command(tmp_path, *needed, expect=2)


@pytest.mark.slow
def test_a_pipeline_prunes_by_a_scan_and_notices_another(trained: Path, tmp_path: Path, command: Command) -> None:
    smoke = str(REPOSITORY / "cfgs" / "smoke" / "pipeline.yaml")
    command(
        tmp_path, "sensitivity", "-c", smoke, "--checkpoint", str(trained), "--sparsities", "0.4,0.9", "--save-dir", "s"
    )
    file = tmp_path / "s" / "sensitivity.yaml"
    arguments = (
        *("pipeline", "run", "-c", smoke, "--checkpoint", str(trained), "--save-dir", "p"),
        *(
            "prune.allocation.name=sensitivity",
            f"prune.allocation.args.file={file}",
            "pipeline.steps=[prune-unstructured]",
        ),
        *("fine_tune.enabled=false", "prune.score=magnitude"),
    )
    command(tmp_path, *arguments)
    assert "already finished" in command(tmp_path, *arguments)
    kept = {path.name for path in (tmp_path / "p" / "stages").iterdir()}
    content = yaml.safe_load(file.read_text())
    content["rows"][0]["points"][0]["loss"] += 1.0
    file.write_text(yaml.safe_dump(content))
    command(tmp_path, *arguments)
    new = {path.name for path in (tmp_path / "p" / "stages").iterdir()} - kept
    assert any("prune-" in name for name in new)
    assert not any(name.startswith("dense") for name in new)


def test_without_plotly_there_is_no_page_and_a_line_says_so(
    trained: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)  # as if it were not installed
    text = command(tmp_path, *scanning(trained, "--sparsities", "0.9", "--by", "block", "--save-dir", "s"))
    assert "plotly is not installed" in text
    assert not (tmp_path / "s" / "sensitivity.html").exists()
    assert (tmp_path / "s" / "metrics.yaml").exists()
