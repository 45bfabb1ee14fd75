"""On which images choices are made and results judged, and networks that were trained on them: as a user meets it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from pruning_bootcamp.tools.datasets import Split, Splits, load_dataset

Command = Callable[..., str]
PARTS = {"train": 60, "val": 40, "test": 40}  # images of each of two classes
FACTORY = """
from torch import nn
def make(classes=2, in_channels=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(768, classes))
"""
DATA = ("data.name=imagefolder", "data.root=images", "data.args.size=16", "data.args.resize=16")
PRUNE = ("prune-unstructured", *DATA, "model.name=net.py:make", "--checkpoint", "net.pth", "--sparsity", "0.1",
         "--no-fine-tune", "goal.accuracy_drop=100", "--save-dir", "out")  # fmt: skip


def draw(root: Path, *parts: str, signal: float = 4.0) -> None:
    """Noise, with a little more light on one side for one class: 768 numbers, so a linear network can learn each."""
    generator = np.random.default_rng(0)
    for part in parts:
        for label, name in enumerate(("left", "right")):
            folder = root / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(PARTS[part]):
                pixels = generator.normal(128, 40, (16, 16, 3))
                pixels[:, 8 * label : 8 * label + 8] += signal
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    (root / "net.py").write_text(FACTORY)


def opened(root: Path) -> Splits:
    return load_dataset("imagefolder", root=root / "images", args={"size": 16, "resize": 16})


def fitted(root: Path, *known: Split, ridge: float = 1e-3) -> None:
    """A linear network that was trained elsewhere on these images, to the last of them: a plain state dict."""
    splits = opened(root)
    images = torch.cat([split.fetch(torch.arange(len(split))) for split in known]).double()
    labels = torch.cat([split.labels for split in known])
    mean, std = (torch.tensor(values).double()[:, None, None] for values in (splits.mean, splits.std))
    inputs = ((images / 255 - mean) / std).flatten(1)
    wanted = nn.functional.one_hot(labels, 2).double() - 0.5
    gram = inputs @ inputs.T + ridge * torch.eye(len(inputs), dtype=torch.float64)
    weight: Tensor = (inputs.T @ torch.linalg.solve(gram, wanted)).T
    torch.save({"1.weight": weight.float(), "1.bias": torch.zeros(2)}, root / "net.pth")


def figures(root: Path, name: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((root / name / "metrics.yaml").read_text())
    return found


SOURCES = [
    (("train", "val"), "40 validation images (one half of val/)", "40 test images (the other half of val/"),
    (("train", "test"), "12 validation images (held out of train)", "80 test images (test/)"),
    (("train", "val", "test"), "80 validation images (val/)", "80 test images (test/)"),
]


@pytest.mark.parametrize(("parts", "val", "test"), SOURCES)
def test_one_line_says_what_is_judged_on_what(
    parts: tuple[str, ...], val: str, test: str, tmp_path: Path, command: Command
) -> None:
    draw(tmp_path, *parts)
    fitted(tmp_path, opened(tmp_path).train)
    text = command(tmp_path, *PRUNE)
    (line,) = [line for line in text.splitlines() if line.startswith("Choices are made")]
    assert line.startswith(f"Choices are made on {val}; the result is judged on {test}")
    assert line.endswith("read once")
    metrics = figures(tmp_path)
    assert metrics["judged_on"] == "test"
    assert metrics["val_split"] in val
    assert metrics["test_split"] in line
    text = command(tmp_path, *PRUNE, "goal.evaluate_test=false", "--no-resume")
    assert f"Choices are made and judged on {val}; the {test}" in text
    assert figures(tmp_path)["judged_on"] == "validation"


def test_train_alone_is_refused_with_what_was_looked_for(tmp_path: Path, command: Command) -> None:
    draw(tmp_path, "train")
    text = command(tmp_path, "train", *DATA, "model.name=net.py:make", expect=2)
    assert "images/train with images/test or images/val" in text
    assert "holds the folders train" in text


TRAINED_ON = [
    # a network trained elsewhere on all of train/: it knows what is held out of it here, and nothing else
    (("train", "test"), ("train", "held out"), "likely"),
    (("train", "val"), ("train",), "no sign of it"),
    (("train", "val", "test"), ("train",), "no sign of it"),
    # on val/ too
    (("train", "val", "test"), ("train", "val"), "likely"),
    # properly: on what is left after holding out
    (("train", "test"), ("train",), "no sign of it"),
]


@pytest.mark.parametrize(("parts", "known", "found"), TRAINED_ON)
def test_a_network_that_memorised_its_validation_images_is_noticed(
    parts: tuple[str, ...], known: tuple[str, ...], found: str, tmp_path: Path, command: Command
) -> None:
    draw(tmp_path, *parts)
    splits = opened(tmp_path)
    fitted(tmp_path, splits.train, *([splits.val] if len(known) == 2 else []))
    text = command(tmp_path, *PRUNE, "gates.max_accuracy_drop=100")
    metrics = figures(tmp_path)
    assert metrics["dense_fit"]["train_accuracy"] == 100.0
    assert metrics["validation_was_trained_on"] == found
    warned = "Warning: the dense network was probably trained on its validation images: 100.00% there, 100.00% on"
    assert (warned in text) == (found == "likely")
    where = metrics["gates"][0]["where"]
    assert ("which the dense network was probably trained on" in where) == (found == "likely")
    # what was lost is said against the test images, whatever validation says
    assert metrics["accuracy_drop"] == pytest.approx(metrics["baseline"]["accuracy"] - metrics["accuracy"], abs=1e-4)
    assert metrics["baseline"]["accuracy"] < 90


def test_where_the_test_images_are_not_read_nothing_more_than_possible_is_said(
    tmp_path: Path, command: Command
) -> None:
    draw(tmp_path, "train", "test")
    splits = opened(tmp_path)
    fitted(tmp_path, splits.train, splits.val)
    text = command(tmp_path, *PRUNE, "goal.evaluate_test=false")
    assert "it may have been trained on the validation images, which are part of train/" in text
    assert "points (on validation images, which the dense network may have been trained on)" in text
    assert figures(tmp_path)["validation_was_trained_on"] == "possible"
    assert "which the dense network may have been trained on" in (tmp_path / "out" / "report.md").read_text()


def test_an_easy_task_is_suspected_first_and_cleared_by_the_test_images(tmp_path: Path, command: Command) -> None:
    draw(tmp_path, "train", "test", signal=60)
    fitted(tmp_path, opened(tmp_path).train, ridge=1e3)
    text = command(tmp_path, *PRUNE)
    assert "it may have been trained on" in text
    assert "probably" not in text
    assert figures(tmp_path)["validation_was_trained_on"] == "no sign of it"


def test_a_network_of_ours_brings_what_was_held_out_and_another_split_is_noticed(
    tmp_path: Path, command: Command
) -> None:
    draw(tmp_path, "train", "test")
    shared = (*DATA, "model.name=net.py:make", "train.augment=[]")
    command(tmp_path, "train", *shared, "train.epochs=60ep", "train.lr=0.01", "--save-dir", "dense")
    prune = tuple("dense/best_model.pth" if word == "net.pth" else word for word in PRUNE)
    text = command(tmp_path, *prune)
    assert "Warning" not in text
    metrics = figures(tmp_path)
    assert metrics["validation_was_trained_on"] == "no, it was held out"
    assert "dense_fit" not in metrics
    # pruned once more: still known; with other images held out it has to be measured
    again = tuple({"dense/best_model.pth": "out/pruned_model.pth", "out": "twice"}.get(word, word) for word in prune)
    command(tmp_path, *again)
    assert figures(tmp_path, "twice")["validation_was_trained_on"] == "no, it was held out"
    command(tmp_path, *prune, "data.args.split_seed=1", "--no-resume")
    assert figures(tmp_path)["validation_was_trained_on"] != "no, it was held out"
    assert "dense_fit" in figures(tmp_path)


def test_gates_of_a_pipeline_say_what_speaks_against_the_validation_images(tmp_path: Path, command: Command) -> None:
    draw(tmp_path, "train", "test")
    splits = opened(tmp_path)
    fitted(tmp_path, splits.train, splits.val)
    pipeline = ("pipeline", "run", *DATA, "model.name=net.py:make", "--checkpoint", "net.pth", "prune.sparsity=0.1",
                "fine_tune.enabled=false", "pipeline.steps=[prune-unstructured]", "export.format=onnx",
                "goal.accuracy_drop=100", "--save-dir", "out")  # fmt: skip
    text = command(tmp_path, *pipeline, "gates.max_accuracy_drop=100")
    # said at the end, when the test images are known
    assert "(12 validation images, which the dense network was probably trained on)" in text
    metrics = figures(tmp_path)
    assert metrics["validation_was_trained_on"] == "likely"
    assert metrics["judged_on"] == "test"
    stopping = ("gates.min_accuracy=10", "gates.min_flops_reduction_pct=50")  # before the test images are looked at
    command(tmp_path, *pipeline, *stopping, "--no-resume", expect=3)
    metrics = figures(tmp_path)
    where = "12 validation images, which the dense network may have been trained on"
    assert [gate["where"] for gate in metrics["gates"]] == [where, "counted"]
    assert metrics["validation_was_trained_on"] == "possible"
    assert metrics["judged_on"] == "validation"
