"""profile and eval on several backends: each is timed and kept, and the first is the main one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from pruning_bootcamp.results import Metrics, Profile
from pruning_bootcamp.runs import read_results

SMOKE = ("-c", str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml"))
DENSE = "dense/best_model.pth"
SEVERAL = ("--backend", "onnxruntime, torch,onnxruntime", "profile.runs=5")

Command = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("several")
    command(folder, "train", *SMOKE, "--save-dir", "dense")
    return folder


def test_profile_times_the_pair_on_each_and_the_first_is_the_main_one(trained: Path, command: Command) -> None:
    before = torch.get_num_threads()
    options = ("--baseline", DENSE, "--pruned", DENSE, *SEVERAL, "--batch-size", "2", "--threads", "1")
    try:
        text = command(trained, "profile", *SMOKE, *options)
    finally:
        torch.set_num_threads(before)
    found = read_results(Profile, trained / "dense" / "profile.yaml")
    assert found.backends is not None
    assert list(found.backends) == ["onnxruntime", "torch"], "each once"
    assert found.latency is not None
    assert found.latency.pruned == found.backends["onnxruntime"].pruned
    for name, pair in found.backends.items():
        assert pair.pruned is not None
        assert pair.paired is not None
        assert pair.paired.latency_pairs == pair.pruned.n
        assert (pair.pruned.backend, pair.pruned.batch_size, pair.pruned.threads) == (name, 2, 1)
    table = text[text.index("=== Backends") : text.index("What follows is of onnxruntime, which was named first.")]
    assert table.count("| onnxruntime ") == table.count("| torch ") == 1
    assert f"batch 2, torch {torch.__version__} in float32 on cpu" in table
    assert all(len(line) <= 80 for line in table.splitlines() if line.startswith("|"))


def test_profile_on_one_backend_has_no_table_of_backends(trained: Path, command: Command) -> None:
    options = ("--baseline", DENSE, "--pruned", DENSE, "--backend", "torch", "profile.runs=5")
    assert "=== Backends" not in command(trained, "profile", *SMOKE, *options)
    assert read_results(Profile, trained / "dense" / "profile.yaml").backends is None


def test_eval_times_each_and_keeps_the_main_one_in_front(trained: Path, command: Command) -> None:
    options = ("--checkpoint", DENSE, "--measure-latency", *SEVERAL, "--batch-size", "3")
    text = command(trained, "eval", *SMOKE, *options)
    assert text.count("Latency: ") == 2
    found = read_results(Metrics, trained / "dense" / "eval_metrics.yaml")
    assert found.latencies is not None
    assert list(found.latencies) == ["onnxruntime", "torch"]
    assert (found.latency_backend, found.latency_batch_size) == ("onnxruntime", 3)
    assert found.latency_ms == found.latencies["onnxruntime"].median_ms
    assert {latency.batch_size for latency in found.latencies.values()} == {3}


@pytest.mark.parametrize("changed", ["latency_precision", "latency_version", "latency_processor", "latency_threads"])
def test_eval_compares_no_latency_that_was_measured_otherwise(trained: Path, command: Command, changed: str) -> None:
    options = ("--checkpoint", DENSE, "--measure-latency", "profile.runs=3")
    command(trained, "eval", *SMOKE, *options, "--save-dir", "one")
    metrics = yaml.safe_load((trained / "one" / "eval_metrics.yaml").read_text())
    against = ("--baseline-metrics", "other.yaml", "--save-dir", "two")
    another = 99 if changed == "latency_threads" else "another"
    for value, compared in ((metrics[changed], True), (None, True), (another, False)):
        (trained / "other.yaml").write_text(yaml.safe_dump(metrics | {changed: value}))
        text = command(trained, "eval", *SMOKE, *options, *against)
        assert ("latency_reduction_pct" in text) is compared
        assert ("Latency is not compared" in text) is not compared


def test_a_backend_that_cannot_take_the_network_is_said_before_anything_is_timed(
    trained: Path, command: Command
) -> None:
    mine = trained / "mine.py"
    mine.write_text(
        "from pruning_bootcamp.backends import Runner\nfrom pruning_bootcamp.plugins import facts\n\n\n"
        '@facts(tolerance=1e-6)\ndef wrong(model, example, threads):\n    """Another network."""\n'
        '    return Runner("wrong", lambda batch: model(batch) + 1, example.device, threads)\n'
    )
    options = ("--baseline", DENSE, "--pruned", DENSE, "--backend", f"torch,{mine}:wrong", "profile.runs=3")
    text = command(trained, "profile", *SMOKE, *options, expect=2)
    assert "wrong: its outputs differ from torch's" in text
    assert "=== Backends" not in text
