"""Zeros through the commands: profile, eval and export say what was skipped, and keep it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pruning_bootcamp.backends import zeros
from pruning_bootcamp.results import Exports, Metrics, Profile
from pruning_bootcamp.runs import read_results

MODEL = '''
from torch import nn


def wide(*, classes, in_channels=1):
    """A wide linear layer and a classifier."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 768), nn.ReLU(), nn.Linear(768, 768), nn.Linear(768, classes))
'''
SMOKE = Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml"

Command = Callable[..., str]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("zeros")
    (folder / "wide.py").write_text(MODEL)
    settings = ("-c", str(SMOKE), "model.name=wide.py:wide", "threads=1")
    command(folder, "train", *settings, "--save-dir", "dense")
    options = ("--checkpoint", "dense/best_model.pth", "--sparsity", "0.97", "--no-fine-tune", "--save-dir", "pruned")
    command(folder, "prune-unstructured", *settings, *options, expect=None)
    return folder


def test_profile_and_eval_say_what_was_chosen(pruned: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeros, "skipping_on", lambda device: ["torch_sparse", "openvino_int8_sparse"])
    files = ("-c", "pruned/config.yaml", "--batch-size", "16")
    pair = ("--baseline", "dense/best_model.pth", "--pruned", "pruned/pruned_model.pth")
    text = command(pruned, "profile", *files, *pair, "--backend", "torch,torch_sparse")
    found = read_results(Profile, pruned / "pruned" / "profile.yaml")
    assert found.backends is not None
    dense, sparse = found.backends["torch_sparse"].baseline, found.backends["torch_sparse"].pruned
    assert dense is not None
    assert sparse is not None
    assert dense.note == "dense: no linear layer with half of its weights zero (the most: 0.0% in 1)"
    assert sparse.note is not None
    assert " of 3 linear layers as CSR: " in sparse.note
    assert f"  baseline: {dense.note}\n" in text
    assert f"  pruned: {sparse.note}\n" in text
    assert found.alternatives is not None
    assert {"torch CSR, batch 1", "torch CSR, batch 16"} <= set(found.alternatives)
    assert "torch CSR, batch 16: " in text, "what it chose for that batch"
    assert "97.0% in linear layers; --backend openvino_int8_sparse skips them where that is quicker." in text

    text = command(
        *(pruned, "eval", *files, "--checkpoint", "pruned/pruned_model.pth", "--measure-latency"),
        *("--backend", "torch_sparse"),
    )
    metrics = read_results(Metrics, pruned / "pruned" / "eval_metrics.yaml")
    assert metrics.latency_note is not None
    assert f"1 thread ({metrics.latency_note})" in text
    assert metrics.noted_latency_way.endswith(f"({metrics.latency_note})")


@pytest.mark.slow
def test_export_says_what_is_skipped_in_the_file(pruned: Path, command: Command) -> None:
    options = ("--checkpoint", "pruned/pruned_model.pth", "--format", "torchscript_sparse,sparse", "--verify")
    text = command(pruned, "export", "-c", "pruned/config.yaml", *options)
    files = read_results(Exports, pruned / "pruned" / "export_metrics.yaml").formats
    assert files["torchscript_sparse"].notes is not None
    assert f"! {files['torchscript_sparse'].notes[0]}" in text
    assert Path(pruned / files["torchscript_sparse"].file).name == "model_sparse.pt"
