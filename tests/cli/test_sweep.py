"""sweep: trials on validation images only, each an ordinary run; killed anywhere, it goes on and repeats nothing."""

import csv
import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pruning_bootcamp import load_model
from pruning_bootcamp.sweep.executors import Event
from pruning_bootcamp.sweep.settings import SweepSettings

SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "sweep.yaml")
SWEEP = ("sweep", "-c", SMOKE, "--save-dir", "sweep")


class Inline:
    """An executor in this process: the trials' own work, without starting processes."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []
        self.ran: list[int] = []

    def free(self) -> int:
        return 1 - len(self.tasks)

    def submit(self, spec: Any) -> None:
        self.tasks.append(spec)

    def events(self, seconds: float) -> list[Event]:
        from pruning_bootcamp.sweep.trial import run_trial

        spec = self.tasks.pop()
        self.ran.append(spec.number)
        return [Event(spec.number, "done", run_trial(spec, lambda text: None))]

    def close(self) -> None:
        pass


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    executor = Inline()
    monkeypatch.setattr("pruning_bootcamp.sweep.commands._executor", lambda *_: executor)
    return executor


def content_of(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "sweep" / "sweep.yaml").read_text())


def outcome(folder: Path) -> dict[str, dict[str, float]]:
    """Settings of each trial -> its figures, without those that a clock gives."""
    return {
        str(sorted(trial["params"].items())): {k: v for k, v in trial["values"].items() if k != "latency_ms"}
        for trial in content_of(folder)["trials"]
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., str]) -> tuple[Path, str]:
    """A grid that ran through, and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        executor = Inline()
        patch.setattr("pruning_bootcamp.sweep.commands._executor", lambda *_: executor)
        text = command(folder, *SWEEP)
    assert sorted(executor.ran) == [0, 1, 2, 3]
    return folder, text


def test_a_grid_tries_every_combination_and_writes_what_others_read(whole: tuple[Path, str]) -> None:
    folder, text = whole
    content = content_of(folder)
    assert content["command"] == "prune-structured"
    assert content["sampler"] == "grid"
    assert content["objectives"] == [
        {"name": "accuracy", "direction": "maximize"},
        {"name": "flops_g", "direction": "minimize"},
    ]
    settings = {
        (t["params"]["structured.score"], t["params"]["structured.target_flops_reduction"]) for t in content["trials"]
    }
    assert settings == {("l1", 0.3), ("l1", 0.6), ("random", 0.3), ("random", 0.6)}
    for trial in content["trials"]:
        assert trial["state"] == "complete"
        assert trial["values"].keys() == {"accuracy", "flops_g", "latency_ms", "size_mb", "params_m", "sparsity"}
        asked = trial["params"]["structured.target_flops_reduction"]
        assert 1 - trial["values"]["flops_g"] / content["dense"]["flops_g"] == pytest.approx(asked, abs=0.01)
        assert trial["values"]["size_mb"] < content["dense"]["size_mb"]
        assert (folder / "sweep" / trial["folder"] / "pruned_model.pth").exists()
    points = {t["number"]: (t["values"]["accuracy"], t["values"]["flops_g"]) for t in content["trials"]}
    for number in content["pareto"]:
        accuracy, cost = points[number]
        assert not any(a >= accuracy and c <= cost and (a, c) != (accuracy, cost) for a, c in points.values())
    rows = list(csv.DictReader((folder / "sweep" / "trials.csv").read_text().splitlines()))
    assert {int(row["number"]) for row in rows} == set(points)
    assert {int(row["number"]) for row in rows if row["on_front"] == "True"} == set(content["pareto"])
    assert (folder / "sweep" / "study.db").exists()
    assert (folder / "sweep" / "config.yaml").read_text().startswith("# pruning-bootcamp sweep -c")
    assert "Pareto front of accuracy against flops_g" in text


def test_no_trial_reads_the_test_images(whole: tuple[Path, str]) -> None:
    folder, text = whole
    read = [yaml.safe_load(path.read_text()) for path in (folder / "sweep").rglob("metrics.yaml")]
    assert len(read) == 5  # four trials and the dense network
    for metrics in read:
        assert not {"accuracy", "test_images", "goal_met", "loss"} & metrics.keys()
        assert "accuracy" not in metrics.get("baseline", {})
        assert metrics["val_images"] == 135
    assert "The test images were not read" in (folder / "sweep" / "dense" / "log.txt").read_text()
    assert "have not been read" in text


def test_the_command_that_is_printed_reads_them_once(whole: tuple[Path, str], command: Callable[..., str]) -> None:
    folder, text = whole
    line = next(line for line in text.splitlines() if line.strip().startswith("pruning-bootcamp eval"))
    said = command(folder, *line.split()[1:])
    assert "449 test images" in said


def test_the_same_command_again_does_nothing(whole: tuple[Path, str], command: Callable[..., str]) -> None:
    folder, _ = whole
    files = {path: path.stat().st_mtime_ns for path in (folder / "sweep").rglob("*") if path.is_file()}
    began = time.perf_counter()
    text = command(folder, *SWEEP)
    assert time.perf_counter() - began < 5
    assert "already finished" in text
    assert {path: path.stat().st_mtime_ns for path in (folder / "sweep").rglob("*") if path.is_file()} == files


def test_another_allowed_drop_is_another_choice_among_the_same_trials(
    whole: tuple[Path, str], tmp_path: Path, command: Callable[..., str], inline: Inline
) -> None:
    shutil.copytree(whole[0] / "sweep", tmp_path / "sweep")
    text = command(tmp_path, *SWEEP, "goal.accuracy_drop=100")
    content = content_of(tmp_path)
    assert inline.ran == []
    assert content["max_drop"] == 100
    assert content["chosen"] == content["pareto"][0], "the cheapest"
    assert "at most 100 points less accurate" in text


@pytest.mark.slow
def test_the_backend_of_the_profile_times_the_trials_and_a_published_checkpoint_is_swept(
    whole: tuple[Path, str], tmp_path: Path, command: Callable[..., str], inline: Inline
) -> None:
    network = load_model(whole[0] / "sweep" / "dense" / "best_model.pth")
    torch.save({"state_dict": network.state_dict(), "best_prec1": 91.7}, tmp_path / "published.th")
    space = "sweep.space={structured.score: [l1], structured.target_flops_reduction: [0.3]}"
    backends = ("profile.backend=onnxruntime,torch", "profile.batch_size=2", "sweep.objectives=[accuracy, latency_ms]")
    text = command(tmp_path, *SWEEP, "--checkpoint", "published.th", space, *backends)
    content = content_of(tmp_path)
    assert inline.ran == [0]
    (trial,) = content["trials"]
    assert trial["state"] == "complete"
    for timed in (content["dense"], trial):
        assert timed["latency_way"].startswith("batch 2, onnxruntime ")
        assert "in float32 on cpu" in timed["latency_way"]
    assert trial["values"]["latency_ms"] > 0
    assert content["dense"]["latency_ms"] > 0
    assert content["dense"]["accuracy"] == content_of(whole[0])["dense"]["accuracy"]
    assert "ms: batch 2, onnxruntime " in " ".join(text.split())


def test_a_shared_study_is_not_begun_anew(whole: tuple[Path, str], tmp_path: Path, command: Callable[..., str]) -> None:
    dense = ("--checkpoint", str(whole[0] / "sweep" / "dense" / "best_model.pth"))
    text = command(tmp_path, *SWEEP, *dense, "--storage", "sqlite:///shared.db", "--no-resume", expect=2)
    assert "the trials stay in the database" in text
    assert "another name" in text
    assert not (tmp_path / "sweep").exists()


def test_two_machines_share_a_study_and_wait_for_nobody_in_vain(
    whole: tuple[Path, str], tmp_path: Path, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins while the first trains, and is only given the settings that train there."""
    monkeypatch.setattr("pruning_bootcamp.sweep.loop._MOST_REPEATS", 3)
    space = "sweep.space={structured.score: [l1, {name: l1}], structured.target_flops_reduction: [0.3]}"
    shared = ("--sampler=random", "--trials=2", "--storage=sqlite:///shared.db", space)
    dense = ("--checkpoint", str(whole[0] / "sweep" / "dense" / "best_model.pth"))

    def sweep(name: str) -> str:
        return command(tmp_path, *SWEEP[:3], "--save-dir", name, *shared, *dense)

    class First(Inline):
        def events(self, seconds: float) -> list[Event]:
            said.append(sweep("second"))
            return super().events(seconds)

    said: list[str] = []
    executors = {"first": First(), "second": Inline()}
    monkeypatch.setattr("pruning_bootcamp.sweep.commands._executor", lambda _, folder, *__: executors[folder.name])
    text = sweep("first")
    assert "still run on other machines: 1" in said[0]
    assert "other machines" not in text
    assert [executors[name].ran for name in executors] == [[0], []]
    (trial,) = yaml.safe_load((tmp_path / "first" / "sweep.yaml").read_text())["trials"]
    again = yaml.safe_load((tmp_path / "second" / "sweep.yaml").read_text())
    assert again["status"] == "running"
    sweep("second")
    again = yaml.safe_load((tmp_path / "second" / "sweep.yaml").read_text())
    assert again["status"] == "complete"
    assert again["trials"][0]["values"] == trial["values"]
    assert {entry["of"] for entry in again["repeats"]} == {0}


def test_show_prints_the_table(whole: tuple[Path, str], command: Callable[..., str]) -> None:
    folder, _ = whole
    text = command(folder, "sweep", "show", "--save-dir", "sweep")
    assert "complete" in text
    assert text.count("front") >= len(content_of(folder)["pareto"])

    assert "holds no sweep" in command(folder, "sweep", "show", "--save-dir", "nothing", expect=2)
    assert "takes --save-dir" in command(folder, "sweep", "show", expect=2)


def test_equal_settings_are_run_once_and_it_is_said(
    tmp_path: Path, command: Callable[..., str], inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two spellings of one score are the same work."""
    monkeypatch.setattr("pruning_bootcamp.sweep.loop._MOST_REPEATS", 6)
    text = command(
        tmp_path,
        *SWEEP,
        "--sampler=random",
        "--trials=9",
        "sweep.space={structured.score: [l1, {name: l1}], structured.target_flops_reduction: [0.5]}",
    )
    content = content_of(tmp_path)
    assert len(inline.ran) == 1
    assert len(content["trials"]) == 1
    assert content["repeats"]
    assert {entry["of"] for entry in content["repeats"]} == {content["trials"][0]["number"]}
    assert "would repeat trial 0" in text
    assert "only repeats itself" in text


@pytest.mark.slow
def test_a_trial_that_cannot_be_done_is_recorded_and_the_others_go_on(
    tmp_path: Path, command: Callable[..., str], inline: Inline
) -> None:
    space = "sweep.space={structured.target_flops_reduction: [0.2, 0.9], structured.score: [random]}"
    text = command(tmp_path, *SWEEP, space, "structured.max_sparsity=0.3")
    states = {t["params"]["structured.target_flops_reduction"]: t["state"] for t in content_of(tmp_path)["trials"]}
    assert states == {0.2: "complete", 0.9: "failed"}
    assert "failed:" in text
    all_wrong = space.replace("0.2, 0.9", "0.9")
    assert "all 1 trials failed" in command(tmp_path, *SWEEP, all_wrong, "structured.max_sparsity=0.3", expect=2)
    assert (tmp_path / "sweep" / "previous-1" / "sweep.yaml").exists(), "another sweep's files are kept"


def test_a_hopeless_trial_is_stopped_and_called_pruned(whole: tuple[Path, str], tmp_path: Path) -> None:
    from pruning_bootcamp.config import as_dict, load
    from pruning_bootcamp.flow.commands import fingerprint_of
    from pruning_bootcamp.sweep.median_pruner import Finished
    from pruning_bootcamp.sweep.trial import TrialSpec, config_for, run_trial

    cfg = config_for(load(SMOKE, ["fine_tune.epochs=3"]), {}, tmp_path / "t", whole[0] / "sweep/dense/best_model.pth")
    fingerprint = fingerprint_of("prune-structured", cfg)
    others = tuple(Finished(0.0, {1: 101.0, 2: 101.0}) for _ in range(2))  # cheaper and better than anything
    early = SweepSettings(startup_trials=2, warmup_epochs=2)
    spec = TrialSpec(3, "prune-structured", as_dict(cfg), str(tmp_path / "t"), fingerprint, "flops_g", others, early)
    said: list[str] = []
    result = run_trial(spec, said.append)
    assert result.state == "pruned"
    assert sorted(result.curve) == [1, 2]
    assert len(said) == 2
    assert not (tmp_path / "t" / "metrics.yaml").exists()
    assert not list((tmp_path / "t").rglob("training_state.pth"))
    again = run_trial(spec, said.append)
    assert again.state == "pruned"
    assert len(said) == 2, "what is over is not run again"
    dear = TrialSpec(4, "prune-structured", as_dict(cfg), str(tmp_path / "t"), "x", "flops_g", (), early)
    assert run_trial(dear, said.append).state == "complete", "nobody to compare with"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep.space.structured.scor=[l1]"], ["sweep.space.structured.scor: unknown key", "Did you mean 'score'"]),
        (["sweep.space.structured.score=[l1, l7]"], ["structured.score='l7'", "unknown channel score 'l7'"]),
        (["sweep.space.fine_tune.lr=[0.1, x, -1]"], ["'x' is not a number", "-1.0 is not above 0"]),
        (["sweep.space.export.format=[onnx]"], ["changes nothing in prune-structured"]),
        (["sweep.space.data.limit=[100]"], ["other images can't be compared"]),
        (["sweep.space.model.name=[a, b]"], ["the trials prune one and the same network"]),
        (["sweep.space.train.epochs=[1, 2]"], ["changes nothing in prune-structured", "mean fine_tune.epochs?"]),
        (["sweep.space.train.lr=[0.1, 0.2]", "fine_tune.lr=0.1"], ["train.lr: changes nothing"]),
        (["--storage=sqlite:///a.db"], ["each machine would train a dense network of its own"]),
        (["sweep.space.fine_tune.lr={low: 0.1, high: 1}"], ["a grid needs an end of values"]),
        (["--trials=3"], ["3 is less than the grid's 4 combinations"]),
        (["--workers=0", "--sampler=gird"], ["is not at least 1", "Did you mean 'grid'"]),
        (["sweep.objectives=[accuracy, latency_ms]", "--workers=2"], ["disturb each other's latency"]),
        (["sweep.command=prune-unstructured"], ["zeros alone save no FLOPs"]),
        (["sweep.objectives=[flops_g]"], ["is not accuracy and one of"]),
        (["goal.accuracy_drop=x"], ["'x' is not a number"]),
        (
            ["sweep.space.structured.score=[l7]", "sweep.space.fine_tune.lr=[]", "sweep.objectives=[a]"],
            ["l7", "has no value to try", "sweep.objectives"],
        ),
    ],
)
def test_mistakes_are_named_all_at_once_before_any_work(
    arguments: list[str], said: list[str], tmp_path: Path, command: Callable[..., str]
) -> None:
    text = command(tmp_path, *SWEEP, *arguments, expect=2)
    for words in said:
        assert words in text
    assert not (tmp_path / "sweep").exists()


def test_what_fine_tuning_takes_from_train_may_be_searched() -> None:
    from pruning_bootcamp.config import load
    from pruning_bootcamp.preflight import check

    check(load(SMOKE, ["sweep.space={train.lr: [0.1, 0.2], train.augment: [[], [flip]]}"]), "sweep", "here")


def test_no_space_and_a_bad_storage_are_mistakes(tmp_path: Path, command: Callable[..., str]) -> None:
    assert "sweep.space: is empty" in command(tmp_path, "sweep", "--save-dir", "x", expect=2)


def test_the_test_images_are_not_left_unread_where_they_are_the_point(
    tmp_path: Path, command: Callable[..., str]
) -> None:
    text = command(tmp_path, "quickstart", "-c", SMOKE, "goal.evaluate_test=false", expect=2)
    assert "goal.evaluate_test" in text


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pruning_bootcamp", *SWEEP, *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str, count: int = 1) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "it was over before it could be stopped"


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [pid for pid in map(int, children) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_was_stopped_goes_on_to_the_same_trials(
    number: signal.Signals, whole: tuple[Path, str], tmp_path: Path, command: Callable[..., str], inline: Inline
) -> None:
    process = start(tmp_path)
    wait_for(process, tmp_path, "sweep/trials/*/trial.yaml", 2)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/trials/*/metrics.yaml")}
    assert len(before) >= 2
    assert "interrupted" in command(tmp_path, "sweep", "show", "--save-dir", "sweep")
    time.sleep(1)  # its workers see that it is gone
    command(tmp_path, *SWEEP)
    assert outcome(tmp_path) == outcome(whole[0])
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished work is not done again"
    assert len(inline.ran) <= 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the worker in /proc")
def test_the_trial_of_a_killed_worker_is_tried_again(whole: tuple[Path, str], tmp_path: Path) -> None:
    import os

    process = start(tmp_path, "--workers", "2")
    wait_for(process, tmp_path, "sweep/trials/*/config.yaml")
    os.kill(workers_of(process)[0], signal.SIGKILL)
    text, _ = process.communicate(timeout=180)
    assert process.returncode == 0, text
    assert "ended by SIGKILL" in text
    assert "it is tried again" in text
    assert outcome(tmp_path) == outcome(whole[0])


@pytest.mark.slow
def test_a_full_disk_stops_the_sweep_and_fails_no_trial(
    tmp_path: Path, command: Callable[..., str], inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pruning_bootcamp.runs import disk_error
    from pruning_bootcamp.sweep import trial

    def full(*_: Any, **__: Any) -> None:
        cause = OSError(28, "No space left on device")
        raise disk_error(cause, Path("x")) from cause

    with monkeypatch.context() as patch:
        patch.setattr(trial, "prune_structured", full)
        text = command(tmp_path, *SWEEP, expect=2)
    assert "no space left" in text
    assert [entry["state"] for entry in content_of(tmp_path)["trials"]] == ["running"]
    text = command(tmp_path, *SWEEP)
    assert "Going on with 1 trials" in text
    assert {entry["state"] for entry in content_of(tmp_path)["trials"]} == {"complete"}


def test_a_damaged_summary_is_a_message(tmp_path: Path, command: Callable[..., str]) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.yaml").write_text("command: 3\n")
    assert "is damaged" in command(tmp_path, "sweep", "show", "--save-dir", "sweep", expect=2)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (the extra `cluster`)")
def test_ray_comes_to_the_same_figures(whole: tuple[Path, str], tmp_path: Path) -> None:
    process = start(tmp_path, "--executor", "ray", "--workers", "2", "threads=1")
    text, _ = process.communicate(timeout=400)
    assert process.returncode == 0, text
    assert outcome(tmp_path) == outcome(whole[0])
