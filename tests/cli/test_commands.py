"""Every command, in the order a user meets them, on the smoke config; and what running one again does."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

# a smoke run says nothing about accuracy, so the goal is none
ANY = "goal.accuracy_drop=100"
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")


Command = Callable[..., str]


def metrics(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command(folder, "train", "-c", SMOKE)
    return folder


def test_train_writes_what_a_run_must_hold(trained: Path) -> None:
    run = trained / "results" / "baseline"
    figures = metrics(run / "metrics.yaml")
    assert "Data: digits" in (run / "log.txt").read_text(), "what was said before the folder was taken"
    for key in ("accuracy", "val_accuracy", "flops_g", "params_m", "environment", "seed", "fingerprint", "status"):
        assert key in figures, key
    assert (run / "best_model.pth").exists()
    assert (run / "report.md").read_text().startswith("# Baseline")
    assert list((run / "logs").rglob("events.out.tfevents.*")), "no TensorBoard file"
    assert not list(run.rglob("training_state.pth")), "the resume point outlived the run"
    assert not list(run.rglob(".tmp-*"))


def test_training_again_is_a_no_op_and_another_config_keeps_the_old_run(trained: Path, command: Command) -> None:
    checkpoint = trained / "results" / "baseline" / "best_model.pth"
    before = checkpoint.stat().st_mtime_ns
    assert "already finished" in command(trained, "train", "-c", SMOKE)
    assert checkpoint.stat().st_mtime_ns == before
    command(trained, "train", "-c", SMOKE, "--save-dir", "results/other")
    text = command(trained, "train", "-c", SMOKE, "--save-dir", "results/other", "--seed", "1")
    assert "previous-1" in text
    assert (trained / "results" / "other" / "previous-1" / "best_model.pth").exists()


def test_the_same_seed_gives_the_same_network(trained: Path, command: Command) -> None:
    command(trained, "train", "-c", SMOKE, "--save-dir", "results/again")
    one = torch.load(trained / "results" / "baseline" / "best_model.pth", weights_only=True)
    two = torch.load(trained / "results" / "again" / "best_model.pth", weights_only=True)
    assert one["state_dict"].keys() == two["state_dict"].keys()
    assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in one["state_dict"])


def test_eval_agrees_with_training_and_compares(trained: Path, command: Command) -> None:
    baseline = trained / "results" / "baseline"
    text = command(
        trained, "eval", "-c", SMOKE, "--measure-latency", "--baseline-metrics", str(baseline / "metrics.yaml")
    )
    figures = metrics(baseline / "eval_metrics.yaml")
    assert figures["accuracy"] == metrics(baseline / "metrics.yaml")["accuracy"]
    assert figures["accuracy_drop"] == 0
    assert figures["latency_ms"] > 0
    assert (figures["latency_backend"], figures["latency_precision"]) == ("torch", "float32")
    assert figures["latency_version"] == torch.__version__
    assert figures["latency_threads"] == figures["environment"]["threads"]
    assert f"({figures['latency_processor']})" in figures["environment"]["device"]
    assert f"torch {torch.__version__} in float32 on cpu ({figures['latency_processor']})" in " ".join(text.split())
    assert "Accuracy:" in text


def test_unstructured_pruning_reaches_the_sparsity_and_keeps_it(trained: Path, command: Command) -> None:
    frozen = ("recover.method=none", "fine_tune.freeze_batch_norm=true")
    command(trained, "prune-unstructured", "-c", SMOKE, "--method", "global", "--sparsity", "0.8", ANY, *frozen)
    run = trained / "results" / "unstructured" / "global_global_sp0.8"
    figures = metrics(run / "metrics.yaml")
    assert figures["sparsity"] == pytest.approx(0.8, abs=1e-4)
    saved = torch.load(run / "pruned_model.pth", weights_only=True)
    zeros = sum(int((saved["state_dict"][name] == 0).sum()) for name in saved["state_dict"] if name.endswith("weight"))
    assert zeros >= 0.8 * figures["params_m"] * 1e6 * 0.95
    dense = torch.load(trained / "results" / "baseline" / "best_model.pth", weights_only=True)["state_dict"]
    kept = [name for name in dense if name.endswith(("running_mean", "running_var"))]
    assert all(torch.equal(saved["state_dict"][name], dense[name]) for name in kept), (
        "frozen, and nothing else was done"
    )
    assert not torch.equal(saved["state_dict"]["bn1.weight"], dense["bn1.weight"])


def test_iterative_n_of_m_pruning(trained: Path, command: Command) -> None:
    text = command(
        trained, "prune-unstructured", "-c", SMOKE, "--method", "l1", "--pattern", "2:4", "--no-fine-tune", ANY
    )  # fmt: skip
    assert "skipped" in text, "the first convolution has one channel: 2:4 can't fit it, and that must be said"
    command(
        trained, "prune-unstructured", "-c", SMOKE, "--iterative", "--num-iterations", "2", "--sparsity", "0.6", ANY
    )
    run = next((trained / "results" / "unstructured").glob("*_x2"))
    cycles = metrics(run / "metrics.yaml")["cycles"]
    assert [cycle["cycle"] for cycle in cycles] == [1, 2]
    assert cycles[0]["sparsity"] < cycles[1]["sparsity"] == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize(
    ("formats", "files"),
    [
        ("onnx,sparse", {"model.onnx", "model_sparse.safetensors"}),
        pytest.param(
            "all",
            {"model.onnx", "model.pt", "model.pt2", "model_int8.onnx", "model_sparse.pt", "model_sparse.safetensors"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_structured_pruning_to_deployment(
    formats: str, files: set[str], trained: Path, tmp_path: Path, command: Command
) -> None:
    shutil.copytree(trained / "results" / "baseline", tmp_path / "results" / "baseline")
    trained = tmp_path
    text = command(trained, "prune-structured", "-c", SMOKE, "--target-flops-reduction", "0.5", "--dry-run")
    assert "nothing was changed" in text
    assert "round_to: auto -> null (cpu: widths as they fall)" in text
    assert not (trained / "results" / "structured").exists()

    command(trained, "prune-structured", "-c", SMOKE, "--target-flops-reduction", "0.5", ANY)
    run = trained / "results" / "structured" / "bn_scale_flops0.5"
    figures = metrics(run / "metrics.yaml")
    assert figures["goal_met"] is True
    assert 50 <= figures["flops_reduction_pct"] <= 51
    assert figures["slice_proof"]["passed"]
    assert figures["round_to"] is None
    again = command(
        trained, "prune-structured", "-c", SMOKE, "--target-flops-reduction", "0.5", "--round-to", "none", ANY
    )
    assert "already finished" in again, "auto comes to none on a CPU: the same run"

    # a network of one epoch is not sure of its classes: int8 changes more of them than it may
    text = command(
        trained, "export", "-c", SMOKE, "--checkpoint", str(run / "pruned_model.pth"), "--format", formats,
        "export.agreement=0.5",
    )  # fmt: skip
    assert files <= {path.name for path in run.iterdir()}
    assert all(entry["verified"] for entry in metrics(run / "export_metrics.yaml")["formats"].values())

    text = command(
        trained, "profile", "-c", SMOKE, "--pruned", str(run / "pruned_model.pth"), "--save-results", "results/p.yaml",
        "profile.runs=12",
    )  # fmt: skip
    comparison = metrics(trained / "results" / "p.yaml")["comparison"]
    assert comparison["flops_reduction_pct"] == pytest.approx(figures["flops_reduction_pct"], abs=0.01)
    low, saved, high = (comparison[f"latency_reduction_{end}pct"] for end in ("low_", "", "high_"))
    assert low <= saved <= high
    pairs = f"n {comparison['latency_pairs']} pairs"
    assert f"Latency reduction: {saved:.1f}% (95% interval {low:.1f} to {high:.1f}, {pairs}" in text
    assert f"| {-saved:+.1f}% " in text, "the table has the same figure"
    assert ("may be noise.\n" in text) == (low <= 0 <= high)

    # the pruned network comes back in a new process with the same accuracy
    text = command(trained, "eval", "-c", SMOKE, "--checkpoint", str(run / "pruned_model.pth"))
    assert metrics(run / "eval_metrics.yaml")["accuracy"] == figures["accuracy"]


def test_a_goal_that_is_not_met_exits_3_and_keeps_the_result(trained: Path, command: Command) -> None:
    arguments = ("prune-structured", "-c", SMOKE, "--sparsity", "0.1", "--no-fine-tune")
    text = command(trained, *arguments, expect=3)
    assert "Goal NOT met" in text
    assert "% fewer FLOPs. Cut more, or set goal.flops_reduction_pct to what you need." in text
    assert metrics(trained / "results" / "structured" / "bn_scale_sp0.1" / "metrics.yaml")["goal_met"] is False
    assert "Goal NOT met" in command(trained, *arguments, expect=3), "done before, and still not met"


def test_list_names_everything(trained: Path, command: Command) -> None:
    text = command(trained, "list")
    for name in ("digits", "cifar_resnet20", "magnitude", "bn_scale", "onnx", "cosine"):
        assert name in text
    assert "Did you mean 'models'" in command(trained, "list", "model", expect=2)


def test_help_ends_in_examples(run: Callable[[tuple[str, ...]], tuple[int, str]]) -> None:
    from pruning_bootcamp.cli import app

    names = [entry.name or entry.callback.__name__ for entry in app.registered_commands]
    assert len(names) >= 9
    for name in names:
        code, text = run((name, "--help"))
        assert code == 0, name
        examples = text.partition("Examples:")[2]
        assert examples.count(f"pruning-bootcamp {name}") >= 2, name


def test_help_does_not_import_torch() -> None:
    code = "import sys, json; sys.argv = ['x', '--help']\n"
    code += "from pruning_bootcamp.__main__ import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print(json.dumps([n for n in ('torch', 'numpy', 'rich', 'omegaconf') if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_a_pruned_network_to_a_sparse_file_that_opens_like_a_checkpoint(trained: Path, command: Command) -> None:
    run = trained / "results" / "sparse_export"
    command(
        trained, "prune-unstructured", "-c", SMOKE, "--pattern", "2:4", "--no-fine-tune", "--save-dir", str(run), ANY
    )  # fmt: skip
    checkpoint = ("-c", SMOKE, "--checkpoint", str(run / "pruned_model.pth"))
    text = command(trained, "export", *checkpoint, "--format", "sparse")
    assert "Data:" not in text, "opened though nothing needs it"
    figures = metrics(run / "export_metrics.yaml")["formats"]["sparse"]
    path = run / "model_sparse.safetensors"
    assert figures["size_mb"] == path.stat().st_size / 1e6
    assert figures["times_smaller"] > 2
    assert figures["max_difference"] == 0
    assert f"{figures['dense_mb']:.3f} MB" in text
    command(trained, "eval", "-c", SMOKE, "--checkpoint", str(path))
    evaluated = metrics(run / "eval_metrics.yaml")
    pruned = metrics(run / "metrics.yaml")
    assert (evaluated["accuracy"], evaluated["sparsity"]) == (pruned["accuracy"], pruned["sparsity"])


def test_int8_is_calibrated_and_judged_on_real_images(trained: Path, command: Command) -> None:
    folder = trained / "results" / "int8"
    export = ("export", "-c", SMOKE, "--checkpoint", "results/baseline/best_model.pth", "--save-dir", str(folder))
    text = command(trained, *export, "--format", "int8", "export.calibration_images=100", "export.agreement=0.5")
    assert "calibrating on 100 training images, without their labels" in text
    figures = metrics(folder / "export_metrics.yaml")["formats"]["int8"]
    assert figures["agreement_images"] == 135, "the validation split"
    assert f"Same top-1 class as PyTorch for {figures['agreement']:.2%} of 135 real images" in text
    assert (folder / "model_int8.onnx").exists()
    text = command(
        trained, *export, "--format", "sparse", "export.sparse_values=int8", "export.agreement=0.5"
    )  # fmt: skip
    assert "calibrating" not in text
    assert metrics(folder / "export_metrics.yaml")["formats"]["sparse"]["times_smaller"] > 3

    text = command(trained, *export, "--format", "int8", "--opset", "12", expect=2)
    assert "export.opset: 12 is too old for int8, which needs 13 or up" in text
    text = command(trained, *export, "--format", "int8", "data.name=cifar10", "data.root=nowhere", expect=2)
    assert "nowhere" in text
    assert (folder / "model_int8.onnx").exists(), "a mistake costs nothing that was there"


@pytest.mark.slow
def test_help_takes_under_15_percent_of_importing_torch() -> None:
    def seconds(*arguments: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        return time.perf_counter() - began

    ratios = []
    for _ in range(5):
        ratios.append(seconds("-m", "pruning_bootcamp", "--help") / seconds("-c", "import torch"))
    assert sorted(ratios)[2] < 0.15, ratios
