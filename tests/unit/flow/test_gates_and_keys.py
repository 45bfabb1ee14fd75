"""The parts of a pipeline that only decide: gates, keys, orders; and the lock and the status on their own."""

import fcntl
import io
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.live import Live

from pruning_bootcamp.config import load
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow import verdict as gates
from pruning_bootcamp.flow import view
from pruning_bootcamp.flow.commands import pipeline_plan
from pruning_bootcamp.flow.machine import RESULT, hashes_in, key_of, read_result
from pruning_bootcamp.flow.outcomes import Outcome
from pruning_bootcamp.flow.sections import GatesSettings
from pruning_bootcamp.flow.settings import quantizing
from pruning_bootcamp.flow.status import Progress, Status, StepStatus, WatchTraining, read_status
from pruning_bootcamp.flow.step import Done, Step
from pruning_bootcamp.locks import NAME, locked, owner_of
from pruning_bootcamp.plain import from_plain
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.results import ExportedFile, Gate, Metrics
from pruning_bootcamp.runs import write_yaml
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION

MADE = ("dense", "calibrate", "score", "prune", "fine-tune", "train")
NOTHING = lambda context: Outcome()  # noqa: E731
FIGURES = Metrics(
    accuracy=90.0,
    accuracy_drop=1.5,
    flops_reduction_pct=50.0,
    latency_reduction_pct=20.0,
    latency_measured="medians of 50 passes",
)


def file(**figures: Any) -> ExportedFile:
    content = {"file": "model", "size_mb": 1.0, "verified": True, "batch_sizes": [], "new_process": False}
    return from_plain(ExportedFile, content | figures)


def two_steps() -> list[Step[Any]]:
    stages = {"a": PruningStage.PRUNING, "b": PruningStage.EVALUATING}
    return [Step(name, name.upper(), NOTHING, Outcome, stage) for name, stage in stages.items()]


def met(verdicts: list[Gate]) -> dict[str, bool]:
    return {verdict.gate: verdict.met for verdict in verdicts}


def test_a_limit_itself_is_enough_and_a_hair_beyond_is_not() -> None:
    exact = GatesSettings(min_accuracy=90.0, max_accuracy_drop=1.5, min_flops_reduction_pct=50.0)
    assert all(met(gates.judge_accuracy(exact, 90.0, 1.5, "here") + gates.judge_cost(exact, FIGURES)).values())
    beyond = GatesSettings(min_accuracy=90.001, max_accuracy_drop=1.499, min_flops_reduction_pct=50.001)
    found = met(gates.judge_accuracy(beyond, 90.0, 1.5, "here") + gates.judge_cost(beyond, FIGURES))
    assert found == {"min_accuracy": False, "max_accuracy_drop": False, "min_flops_reduction_pct": False}


def test_a_figure_that_just_misses_does_not_look_like_the_limit() -> None:
    limits = GatesSettings(min_accuracy=90.0, max_accuracy_drop=1.5)
    near, drop = gates.judge_accuracy(limits, 89.9967, 1.5, "here")
    assert (near.met, near.found) == (False, "89.997% accuracy")
    assert (drop.met, drop.found) == (True, "1.50 points lost")


def test_gates_that_are_not_set_say_nothing() -> None:
    none = GatesSettings(export_verified=False)
    assert not gates.judge_accuracy(none, 90.0, 1.5, "here")
    assert not gates.judge_cost(none, replace(FIGURES, fall_backs=("something",)))
    assert not gates.judge_files(none, {"onnx": file(size_mb=1, verified=False)})


def test_a_fall_back_latency_size_and_proof() -> None:
    strict = GatesSettings(no_fall_back=True, min_latency_reduction_pct=21, max_size_mb=1.0)
    found = gates.judge_cost(strict, replace(FIGURES, fall_backs=("layer1: damped",)))
    assert met(found) == {"min_latency_reduction_pct": False, "no_fall_back": False}
    assert "layer1: damped" in str(found[1])
    assert ">= 21" in str(found[0])
    files = {"onnx": file(size_mb=1.01), "int8": file(size_mb=0.3, verified=False)}
    assert [verdict.met for verdict in gates.judge_files(strict, files)] == [False, True, True, False]


def test_a_file_that_rounds_is_judged_by_its_own_accuracy() -> None:
    """Found by reading: an int8 file could lose 3 points more (export.agreement) than the gates allow."""
    limits = GatesSettings(min_accuracy=90.0, max_accuracy_drop=1.5)
    rounded = file(agreement_images=500, accuracy=89.0, accuracy_drop=1.0)
    found = gates.judge_files(limits, {"int8": rounded, "onnx": file()})
    verdicts = [(verdict.gate, verdict.met) for verdict in found]
    assert verdicts[:2] == [("min_accuracy", False), ("max_accuracy_drop", True)]
    assert verdicts[2:] == [("export_verified", True)] * 2
    assert "the int8 file on 500 validation images" in str(found[0])


def test_a_key_changes_with_settings_and_inputs_and_with_nothing_else() -> None:
    step = Step("a", "A", NOTHING, Outcome, PruningStage.PRUNING, {"sparsity": 0.5}, {"before": "dense"})
    key = key_of(step, {"before": "1"})
    assert key_of(replace(step, title="B", stage=None), {"before": "1"}) == key
    assert key_of(replace(step, settings={"sparsity": 0.6}), {"before": "1"}) != key
    assert key_of(step, {"before": "2"}) != key


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("train.lr=0.3", ()),
        ("seed=1", ()),
        ("prune.calibration_images=99", ("dense",)),
        ("prune.sparsity=0.7", ("dense", "calibrate", "score")),
        ("fine_tune.lr=0.003", ("dense", "calibrate", "score", "prune")),
        ("recover.lr=0.003", "all"),
        ("recover.bn_images=99", ("dense", "calibrate", "score")),
        ("quantize.lr=0.003", ("dense", "calibrate", "score", "prune", "fine-tune")),
        (
            "export.format=onnx",
            ("dense", "calibrate", "score", "prune", "fine-tune", "train", "costs", "validation", "test"),
        ),
        ("gates.min_accuracy=99", "all"),
        ("data.batch_size=7", "all"),
        ("train.checkpoint_seconds=1", "all"),
    ],
)
def test_a_setting_concerns_the_steps_from_the_first_that_reads_it(override: str, same: tuple[str, ...] | str) -> None:
    common = ("prune.score=obd", "pipeline.steps=[prune-unstructured, quantize]")
    before = pipeline_plan(load(None, common))[1].keys()
    after = pipeline_plan(load(None, (*common, override)))[1].keys()
    assert before.keys() == after.keys()
    assert len(before) == 10
    unchanged = {name for name in before if before[name] == after[name]}
    expected = (
        set(before)
        if same == "all"
        else {name for name in before if name.split("-unstructured-")[-1].split("quantize-")[-1] in same}
    )
    assert unchanged == expected


def test_quantize_reads_nothing_of_fine_tune() -> None:
    """Found by reading: its batch size and weight decay were those of `fine_tune`, which its key does not hold."""
    plain = quantizing(load(None))
    other = (
        "batch_size=7",
        "weight_decay=0.1",
        "temperature=2",
        "lr=0.5",
        "features=1",
        "warmup=1ep",
        "schedule=cosine",
        "clip_grad_norm=3",
        "freeze_batch_norm=true",
        "lr_factors={conv1: 0}",
    )
    changed = quantizing(load(None, [f"fine_tune.{setting}" for setting in other]))
    assert changed.fine_tune == plain.fine_tune
    assert changed.fine_tune.after(changed.train) == plain.fine_tune.after(plain.train)
    assert plain.fine_tune.after(plain.train).batch_size == plain.train.batch_size


def test_a_latency_measured_with_other_threads_or_for_no_gate_is_another_step() -> None:
    def evaluation(*overrides: str) -> str:
        return pipeline_plan(load(None, overrides))[1].keys()["costs"]

    gate = "gates.min_latency_reduction_pct=10"
    assert evaluation(gate, "threads=1") == evaluation("gates.min_latency_reduction_pct=20", "threads=1")
    assert len({evaluation(gate, "threads=1"), evaluation(gate, "threads=3"), evaluation("threads=1")}) == 3
    assert evaluation("threads=1") == evaluation("threads=3"), "nothing but a latency depends on them"


def test_a_result_counts_only_while_its_files_are_whole(tmp_path: Path) -> None:
    (tmp_path / "network.pth").write_bytes(b"12345")
    cost = {"seconds": 1.0, "peak_memory_mb": 2.0, "first": 0}
    step = Step("a", "A", NOTHING, Outcome)
    content = {"key": "k", "outcome": {"summary": "done"}, "files": hashes_in(tmp_path), **cost}
    write_yaml(tmp_path / RESULT, content)
    found = read_result(step, tmp_path, "k")
    assert found is not None
    assert found.outcome == Outcome(summary="done")
    assert found.network == tmp_path / "network.pth"
    assert read_result(step, tmp_path, "other") is None
    for damaged in (b"1234", b"12354"):  # cut short; a bit that fell over on the disk
        (tmp_path / "network.pth").write_bytes(damaged)
        assert read_result(step, tmp_path, "k") is None
    (tmp_path / "network.pth").unlink()
    assert read_result(step, tmp_path, "k") is None


def test_a_lock_is_exclusive_says_whose_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    with locked(tmp_path, "first"):
        owner = owner_of(tmp_path)
        assert owner is not None
        assert owner.command == "first"
        assert owner.process == os.getpid()
        with pytest.raises(BootcampError, match=r"in use by `first` \(process \d+, since"), locked(tmp_path, "second"):
            pass
    assert list(tmp_path.iterdir()) == []
    assert owner_of(tmp_path) is None
    with locked(tmp_path, "third"):
        pass


def test_who_only_looks_whose_it_is_keeps_nobody_out(tmp_path: Path) -> None:
    """`pipeline status` takes a shared lock for a moment."""
    (tmp_path / NAME).touch()
    with open(tmp_path / NAME) as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = threading.Timer(0.05, lambda: fcntl.flock(looking, fcntl.LOCK_UN))
        timer.start()
        with locked(tmp_path, "run"):
            assert owner_of(tmp_path) is not None
        timer.join()


def test_the_lock_of_a_killed_process_locks_nothing(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from pruning_bootcamp.locks import locked\n"
        f"with locked(Path({str(tmp_path)!r}), 'killed'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert (tmp_path / NAME).exists()
    assert owner_of(tmp_path) is None
    with locked(tmp_path, "next"):
        assert owner_of(tmp_path) is not None


def test_a_lock_does_not_follow_a_planted_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / NAME).symlink_to(victim)
    with pytest.raises(BootcampError), locked(folder, "run"):
        pass
    assert victim.read_text() == "precious"


def test_a_status_of_a_process_that_is_gone_is_interrupted(tmp_path: Path) -> None:
    steps = [
        Step("a", "A", NOTHING, Outcome, PruningStage.PRUNING),
        Step("b", "B", None, Outcome, PruningStage.EVALUATING),
    ]
    progress = Progress(tmp_path, "name", "command", steps)
    progress.begin(steps[0])
    progress.tell(steps[0], 3, 10, "half")
    with locked(tmp_path, "command"):
        assert read_status(tmp_path).state == "running"
    found = read_status(tmp_path)
    assert found.state == "interrupted"
    assert found.steps[0].state == "interrupted"
    assert found.stage == "Pruning"


def test_a_stage_that_only_reused_claims_no_memory_and_one_that_failed_says_its_own(tmp_path: Path) -> None:
    """Found by reading: both said a peak of 0 MiB."""
    steps = [
        Step("a", "A", None, Outcome, PruningStage.PRUNING),
        Step("b", "B", None, Outcome, PruningStage.EVALUATING),
    ]
    progress = Progress(tmp_path, "name", "command", steps)
    progress.reuse(steps[0], Done("a", "k", tmp_path, Outcome(), 1.0, 300.0))
    progress.begin(steps[1])
    progress.fail("no reason")
    memory = {entry["from"]: entry["peak_memory_mb"] for entry in read_status(tmp_path).transitions}
    assert (memory["Idle"], memory["Pruning"]) == (None, None)
    assert memory["Evaluating"] > 10


def test_seconds_of_a_step_that_was_taken_up_say_from_where_they_count(tmp_path: Path) -> None:
    step = Step("a", "A", NOTHING, Outcome, PruningStage.PRUNING)
    progress = Progress(tmp_path, "name", "command", [step])
    progress.begin(step)
    watch = WatchTraining(progress, step, False, IMAGE_CLASSIFICATION.metric)
    watch.on_start(SimpleNamespace(step=40, total_steps=60))  # type: ignore[arg-type]
    progress.end(step, Done("a", "k", tmp_path, Outcome(), 1.0, 300.0, 40))
    assert progress.line(step).since == " since it was taken up at step 40"
    again = Progress(tmp_path, "name", "command", [step])
    again.reuse(step, Done("a", "k", tmp_path, Outcome(), 1.0, 300.0, 40))
    assert again.line(step).first == 40
    again.reuse(step, Done("a", "k", tmp_path, Outcome(), 1.0, 300.0))
    assert again.line(step).since == ""


@pytest.mark.parametrize(
    "content",
    [
        "steps: 3",
        "{steps: [3], name: a, command: b}",
        "{steps: [], name: a}",
        "{steps: [], name: a, command: b, begun: soon}",
        "{steps: [{name: a, title: b, stage: null, seconds: long}], name: a, command: b}",
        "{steps: [{name: a, title: b, stage: null, state: '[/x]'}], name: a, command: b}",
    ],
)
def test_a_damaged_status_is_a_message(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.yaml").write_text(content)
    with pytest.raises(BootcampError, match="damaged"):
        read_status(tmp_path)


def test_words_in_a_status_are_words_and_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "{name: a, title: '[/b] t', stage: '[/c]', state: running, begun: 1.0, done: 1, total: 2, text: '[/d]'}"
    (tmp_path / "status.yaml").write_text(f"{{steps: [{line}], name: '[/e]', command: b, begun: 1.0, updated: 2.0}}")
    with locked(tmp_path, "command"):
        view.show(read_status(tmp_path))
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("[/b] t", "[/c]", "[/d]", "[/e]"))


@pytest.mark.parametrize("running", [0, 17, 39])
def test_the_running_step_is_in_sight_however_low_the_terminal(running: int) -> None:
    """Found by trying: the lower end of a long pipeline was cut off, and what runs with it."""
    states: list[Any] = ["done"] * running + ["running"] + ["waiting"] * (39 - running)
    steps = [StepStatus(f"s{n}", f"Step {n}.", "Pruning", state=state) for n, state in enumerate(states)]
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    with Live(view.render(Status("n", "c", steps=steps), 24), console=console, auto_refresh=False) as live:
        live.refresh()
        text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"Step {running}." in text
    assert "Complete" in text
    assert "31 more" in text or ("more above" in text and "more below" in text)


def test_figures_are_the_same_read_or_made() -> None:
    from pruning_bootcamp.flow.machine import plain

    assert plain({"a": (1, 2), 3: torch.tensor(0.5), "b": None}) == {"a": [1, 2], "3": 0.5, "b": None}
