"""pipeline run, resume and status as a user types them: reuse, gates, locks, what is said and what is left."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from pruning_bootcamp import load_model
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.locks import locked
from pruning_bootcamp.runs import write_text
from pruning_bootcamp.runtime import processor_name

Command = Callable[..., str]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "pipeline.yaml")
RUN = ("pipeline", "run", "-c", SMOKE, "--save-dir", "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "said.txt").write_text(command(folder, *RUN))
    return folder


def content(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def done_in(text: str) -> int:
    return text.count(": took ")


def test_every_stage_runs_and_is_logged_with_time_and_memory(finished: Path) -> None:
    said = (finished / "said.txt").read_text()
    ways = [("Idle", "Calibrating"), ("Calibrating", "Computing Importance"), ("Computing Importance", "Pruning")]
    ways += [("Pruning", "Fine-tuning"), ("Fine-tuning", "Evaluating"), ("Evaluating", "Exporting")]
    for before, after in [*ways, ("Exporting", "Complete")]:
        assert f"Stage: {before} -> {after} (after " in said
    status = content(finished / "run" / "status.yaml")
    assert status["state"] == "complete"
    assert [(t["from"], t["to"]) for t in status["transitions"]] == [*ways, ("Exporting", "Complete")]
    assert all(line["seconds"] >= 0 and line["peak_memory_mb"] > 100 for line in status["steps"])


def test_what_ships_is_there_with_a_card_that_names_its_hash(finished: Path) -> None:
    export = finished / "run" / "export"
    card = (export / "model_card.md").read_text()
    file = export / "model_sparse.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert "in this order: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in card  # a score without its class is no use
    assert "the network in PyTorch, its weights and activations in 8 bits" in card
    assert "not stated" in card  # a licence that nobody named is not made up
    metrics = content(finished / "run" / "metrics.yaml")
    assert metrics["status"] == "complete"
    assert metrics["goal_met"] is True
    assert metrics["files"]["sparse"]["size_mb"] == pytest.approx(file.stat().st_size / 1e6, abs=1e-6)
    assert metrics["sparsity"] == pytest.approx(0.5, abs=1e-3)
    model = load_model(finished / "run" / "pruned_model.pth")
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_file_that_ships_and_is_gone_is_put_there_again(finished: Path, command: Command) -> None:
    file = finished / "run" / "export" / "model_sparse.safetensors"
    content = file.read_bytes()
    file.unlink()
    assert done_in(command(finished, *RUN)) == 0
    assert file.read_bytes() == content


def test_the_same_command_and_resume_are_no_ops(finished: Path, command: Command) -> None:
    before = (finished / "run" / "metrics.yaml").read_bytes()
    assert "already finished" in command(finished, *RUN)
    assert "already finished" in command(finished, "pipeline", "resume", "--save-dir", "run")
    assert (finished / "run" / "metrics.yaml").read_bytes() == before


def test_a_later_setting_reuses_the_earlier_steps_and_going_back_reuses_all(finished: Path, command: Command) -> None:
    first = content(finished / "run" / "metrics.yaml")
    text = command(finished, *RUN, "quantize.lr=0.001")
    assert text.count("already done, kept in") == 5  # dense, calibrate, score, prune, fine-tune
    assert done_in(text) == 5  # quantize, costs, two evaluations, export
    text = command(finished, *RUN)
    assert done_in(text) == 0
    assert text.count("already done, kept in") == 10
    again = content(finished / "run" / "metrics.yaml")
    first.pop("environment"), again.pop("environment")
    assert again == first


def test_the_sparsity_does_not_change_what_was_measured(finished: Path, command: Command) -> None:
    text = command(finished, "pipeline", "run", "-c", SMOKE, "--save-dir", "run", "prune.sparsity=0.6")
    assert text.count("already done, kept in") == 3  # dense, calibrate, score
    command(finished, *RUN)


def test_calibrating_is_skipped_for_magnitude(tmp_path: Path, finished: Path, command: Command) -> None:
    text = command(finished, *RUN[:4], "--save-dir", "magnitude", "prune.score=magnitude")
    assert "Calibrating: skipped, magnitude needs no images" in text
    lines = {line["title"]: line["state"] for line in content(finished / "magnitude" / "status.yaml")["steps"]}
    assert lines["Calibrating"] == "skipped"


def test_a_failed_gate_names_figure_and_limit_and_exports_nothing(finished: Path, command: Command) -> None:
    text = command(finished, *RUN[:4], "--save-dir", "gate", "gates.min_accuracy=99.9", expect=3)
    assert "gates.min_accuracy: " in text
    assert "asked for >= 99.9" in text
    assert "validation images" in text
    folder = finished / "gate"
    assert not (folder / "export").exists()
    assert not (folder / "pruned_model.pth").exists()
    assert not list((folder / "stages").glob("test-*")), "the test split is not read once validation says no"
    assert content(folder / "metrics.yaml")["status"] == "failed"
    assert "**failed**" in (folder / "report.md").read_text()
    assert content(folder / "status.yaml")["stage"] == "Failed"
    shown = command(finished, "pipeline", "status", "--save-dir", "gate")
    assert "failed" in shown
    assert "99.9" in shown
    assert "--watch: shown once" in command(finished, "pipeline", "status", "--save-dir", "gate", "--watch")
    text = command(finished, *RUN[:4], "--save-dir", "gate")  # the gate gone, what was done counts
    assert done_in(text) == 2
    assert (folder / "export" / "model_card.md").exists()


def test_a_latency_that_missed_its_gate_is_measured_anew(finished: Path, command: Command) -> None:
    arguments = (*RUN[:4], "--save-dir", "slow", "gates.min_latency_reduction_pct=99.9", "profile.runs=12", "threads=1")
    text = command(finished, *arguments, expect=3)
    assert "% less latency (medians of ratios, 95% interval " in text
    processor = processor_name(torch.device("cpu"))
    way = f"batch 1, torch {torch.__version__} in float32 on cpu ({processor}), 1 thread"
    assert f"passes, {way}), asked for >= 99.9" in " ".join(text.split())
    assert done_in(command(finished, *arguments, expect=3)) == 1


def test_a_file_that_is_too_big_is_not_left_lying_about(finished: Path, command: Command) -> None:
    text = command(finished, *RUN[:4], "--save-dir", "big", "gates.max_size_mb=0.001", expect=3)
    assert "gates.max_size_mb" in text
    assert "sparse on disk" in text
    assert not list((finished / "big").rglob("*.safetensors"))


def test_a_file_that_rounds_is_measured_and_judged_by_itself(finished: Path, command: Command) -> None:
    rounding = (
        "export.sparse_values=int8",
        "export.verify=true",
        "export.agreement=0.01",
        "gates.max_accuracy_drop=99",
    )
    text = command(finished, *RUN[:4], "--save-dir", "rounds", *rounding)
    assert "(the sparse file on 135 validation images)" in text
    metrics = content(finished / "rounds" / "metrics.yaml")
    file, network = metrics["files"]["sparse"], metrics["validation"]
    assert file["agreement_images"] == network["images"] == 135
    assert file["dense_accuracy"] == network["baseline_accuracy"]
    assert file["accuracy_drop"] == pytest.approx(file["dense_accuracy"] - file["accuracy"], abs=1e-3)
    assert f"accuracy {file['accuracy']:.2f}%" in (finished / "rounds" / "export" / "model_card.md").read_text()


@pytest.mark.slow
def test_where_one_file_is_not_the_network_no_other_is_left_either(finished: Path, command: Command) -> None:
    arguments = ("export.format=sparse,onnx", "export.verify=true", "export.tolerance=1e-30")
    text = command(finished, *RUN[:4], "--save-dir", "differs", *arguments, expect=3)
    assert "✓ sparse safetensors export verified" in text
    assert "the file and the network differ by" in text
    assert not list((finished / "differs").rglob("model*"))


def test_a_fall_back_can_be_a_gate(finished: Path, command: Command) -> None:
    arguments = ("prune.pattern=2:4", "prune.sparsity=null", "gates.no_fall_back=true")
    text = command(finished, *RUN[:4], "--save-dir", "fall", *arguments, expect=3)
    assert "gates.no_fall_back" in text
    assert "skipped" in text


def test_a_fall_back_while_pruning_gradually_is_one_too(finished: Path, command: Command) -> None:
    arguments = ("prune.gradual=true", "prune.score=magnitude", "prune.pattern=block", "gates.no_fall_back=true")
    text = command(finished, *RUN[:4], "--save-dir", "gradual", *arguments, expect=3)
    assert "gates.no_fall_back: 2 fall-backs, the first: conv1.weight: skipped" in text


def test_a_failed_gate_of_another_config_takes_the_finished_export_away(tmp_path: Path, command: Command) -> None:
    command(tmp_path, *RUN)
    command(tmp_path, *RUN, "gates.min_accuracy=99.9", expect=3)
    assert not (tmp_path / "run" / "export").exists()
    assert (tmp_path / "run" / "previous-1" / "export" / "model_card.md").exists(), "moved, not lost"


def test_two_runs_on_one_folder_cannot_clash(finished: Path, command: Command) -> None:
    with locked(finished / "run", "pruning-bootcamp pipeline run -c other.yaml"):
        text = command(finished, *RUN, expect=2)
        assert "is in use by `pruning-bootcamp pipeline run -c other.yaml`" in text
        assert f"process {os.getpid()}" in text
    assert not (finished / "run" / ".lock").exists()
    command(finished, *RUN)


@pytest.mark.slow
def test_cut_then_zero_in_cycles_then_follow_the_dense_network_then_eight_bits(
    tmp_path: Path, command: Command
) -> None:
    steps = "pipeline.steps=[prune-structured, prune-unstructured, distill, quantize, fine-tune]"
    shorter = ("recover.steps=3", "recover.images=64", "recover.batch_size=32", "structured.score=l1")
    arguments = (
        steps,
        *shorter,
        "prune.iterations=2",
        "prune.score=magnitude",
        "structured.target_flops_reduction=0.3",
        "goal.flops_reduction_pct=25",
    )
    text = command(tmp_path, *RUN, *arguments)
    assert "Slice proof: passed" in text
    assert "cycle 2 of 2" in text
    metrics = content(tmp_path / "run" / "metrics.yaml")
    assert metrics["flops_reduction_pct"] == pytest.approx(30, abs=1.1)
    assert metrics["sparsity"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.slow
def test_gradual_pruning_and_two_cycles_with_distillation(tmp_path: Path, command: Command) -> None:
    command(tmp_path, *RUN, "prune.gradual=true", "pipeline.steps=[prune-unstructured]", "prune.score=magnitude")
    assert content(tmp_path / "run" / "metrics.yaml")["sparsity"] == pytest.approx(0.5, abs=1e-3)
    recover = ("recover.method=distill", "recover.steps=4", "recover.images=64", "recover.batch_size=32")
    arguments = ("prune.iterations=2", "recover.grow=0.3", "pipeline.steps=[prune-unstructured]")
    command(tmp_path, *RUN, *recover, *arguments, "fine_tune.enabled=false")
    assert content(tmp_path / "run" / "metrics.yaml")["sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_from_a_checkpoint(tmp_path: Path, finished: Path, command: Command) -> None:
    checkpoint = str(finished / "run" / "pruned_model.pth")
    text = command(tmp_path, *RUN, "--checkpoint", checkpoint, "prune.sparsity=0.7")
    assert "Opening the dense network" in text
    assert content(tmp_path / "run" / "metrics.yaml")["sparsity"] == pytest.approx(0.7, abs=1e-3)


FACTORY = """
from torch import nn

def build(classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.{activation}(), nn.Flatten(), nn.Linear(288, classes))
"""


def test_a_factory_of_ones_own_that_was_edited_is_trained_anew(tmp_path: Path, command: Command) -> None:
    """Found by reading: its weights fit the edited network too, so the old accuracy was given for the new one."""
    file = tmp_path / "own_network_of_a_pipeline.py"
    arguments = (*RUN, "model.name=own_network_of_a_pipeline:build", "prune.score=magnitude")
    file.write_text(FACTORY.format(activation="ReLU"))
    command(tmp_path, *arguments)
    assert "already finished" in command(tmp_path, *arguments)
    file.write_text(FACTORY.format(activation="Tanh"))
    sys.modules.pop(file.stem, None)
    text = command(tmp_path, *arguments)
    assert "already" not in text
    assert done_in(text) > 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pipeline.steps=[]",), "is empty"),
        (("pipeline.steps=[prune-unstructured, quantise]",), "Did you mean 'quantize'?"),
        (("pipeline.steps=[distill, prune-unstructured]",), "nothing to recover from yet"),
        (("pipeline.steps=[quantize, prune-structured]",), "Put it before 'quantize'"),
        (("pipeline.steps=[quantize, quantize]",), "comes twice"),
        (("gates.export_verified=true",), "can't be met with export.verify=false"),
        (("gates.min_acuracy=3",), "Did you mean 'min_accuracy'?"),
        (("prune.rewind=0it",), "no step that the training writes. Set train.save_steps=[0it]"),
        (("prune.gradual=true", "recover.method=distill"), "prune.gradual: recover.method=distill would follow"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    tmp_path: Path, command: Command, arguments: tuple[str, ...], said: str
) -> None:
    text = command(tmp_path, *RUN, *arguments, expect=2)
    assert said in text
    assert not (tmp_path / "run").exists()


def test_layers_that_are_not_there_are_named_before_the_network_is_trained(tmp_path: Path, command: Command) -> None:
    steps = "pipeline.steps=[prune-structured, prune-unstructured, quantize]"
    wrong = ("structured.exclude=[layer9]", "prune.exclude=[fc9]", "quantize.exclude=[layer1, stem]")
    wrong += tuple(f"{section}.lr_factors={{{section}_layer: 2, conv1: 1}}" for section in ("train", "recover"))
    text = command(tmp_path, *RUN, steps, *wrong, expect=2)
    for said in ("structured.exclude: unknown layer 'layer9'", "prune.exclude: unknown layer 'fc9'", "'stem'"):
        assert said in text
    for section in ("train", "recover"):
        assert f"{section}.lr_factors: unknown layer '{section}_layer'" in text
    assert "'layer1'" not in text
    assert "Training the dense network" not in text


def test_a_disk_that_fails_at_the_last_file_is_no_completed_pipeline(
    finished: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        if path.name == "report.md":
            raise BootcampError(f"{path}: no room")
        write_text(path, text)

    (finished / "run" / "metrics.yaml").unlink()
    monkeypatch.setattr("pruning_bootcamp.flow.commands.pipelining.write_text", full)
    assert "no room" in command(finished, *RUN, expect=2)
    assert content(finished / "run" / "status.yaml")["state"] == "failed"
    monkeypatch.undo()
    command(finished, *RUN)
    assert content(finished / "run" / "status.yaml")["state"] == "complete"


def test_resume_and_status_where_there_is_nothing(tmp_path: Path, command: Command) -> None:
    assert "no pipeline to go on with" in command(tmp_path, "pipeline", "resume", "--save-dir", "none", expect=2)
    assert "there is no pipeline in" in command(tmp_path, "pipeline", "status", "--save-dir", "none", expect=2)


def test_resume_leaves_the_run_of_another_command_alone(tmp_path: Path, command: Command) -> None:
    arguments = ("train", "-c", SMOKE, "--save-dir", "trained", "train.epochs=1it")
    command(tmp_path, *arguments)
    before = sorted(path.name for path in (tmp_path / "trained").iterdir())
    assert "a run of `train`, not a pipeline" in command(
        tmp_path, "pipeline", "resume", "--save-dir", "trained", expect=2
    )
    assert sorted(path.name for path in (tmp_path / "trained").iterdir()) == before


def test_a_folder_named_export_that_is_the_users_own_is_left_alone(tmp_path: Path, command: Command) -> None:
    own = tmp_path / "run" / "export" / "thesis.txt"
    own.parent.mkdir(parents=True)
    own.write_text("precious")
    assert "no run of ours wrote" in command(tmp_path, *RUN, expect=2)
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [own]
    assert own.read_text() == "precious"


@pytest.mark.parametrize("name", ["pruned_model.pth", "export/model_sparse.safetensors"])
def test_a_checkpoint_that_the_run_would_move_aside_is_refused(finished: Path, command: Command, name: str) -> None:
    checkpoint = finished / "run" / name
    arguments = ("--checkpoint", str(checkpoint), "prune.sparsity=0.7")
    assert "holds the checkpoint to start from" in command(finished, *RUN, *arguments, expect=2)
    assert checkpoint.exists()


def test_status_from_another_terminal_while_it_runs_and_after_a_kill(tmp_path: Path, command: Command) -> None:
    arguments = ["-c", SMOKE, "--save-dir", "run", "train.epochs=400ep"]
    program = [sys.executable, "-m", "pruning_bootcamp", "pipeline", "run", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.DEVNULL, env=environment) as process:
        status = tmp_path / "run" / "status.yaml"
        deadline = time.monotonic() + 200
        while not (status.exists() and any(line["done"] for line in content(status)["steps"])):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        shown = command(tmp_path, "pipeline", "status", "--save-dir", "run")
        assert "running" in shown
        assert "left" in shown
        assert f"process {process.pid}" in shown
        assert "is in use by" in command(tmp_path, "pipeline", "resume", "--save-dir", "run", expect=2)
        process.kill()
    shown = command(tmp_path, "pipeline", "status", "--save-dir", "run")
    assert "interrupted" in shown
    assert "pipeline resume --save-dir run" in shown


def test_a_damaged_result_is_made_again(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning_bootcamp.flow.machine.device_memory_mb", lambda: 512.0)
    command(tmp_path, *RUN)
    [folder] = (tmp_path / "run" / "stages").glob("2-quantize-train-*")
    whole = (folder / "network.pth").read_bytes()
    (folder / "network.pth").write_bytes(whole[:100])
    (tmp_path / "run" / "metrics.yaml").unlink()
    text = command(tmp_path, *RUN)
    assert "its files are not as they were left" in text
    assert text.count("peak memory of the device 512 MiB") == 1
    assert done_in(text) == 1
    assert (folder / "network.pth").read_bytes() == whole
