"""eval, export, profile and quickstart on the machine: --dry-run changes nothing, and what was stopped goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

SMOKE = ("-c", str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml"))
DENSE = "dense/best_model.pth"
LOOKS = {
    "eval": ("eval", *SMOKE, "--checkpoint", DENSE, "--measure-latency"),
    "export": ("export", *SMOKE, "--checkpoint", DENSE, "--format", "onnx,sparse", "--no-verify"),
    "profile": ("profile", *SMOKE, "--baseline", DENSE, "--pruned", DENSE, "--no-measure-latency"),
}
FILES = {"eval": "eval_metrics.yaml", "export": "export_metrics.yaml", "profile": "profile.yaml"}

Command = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("looked_at")
    command(folder, "train", *SMOKE, "--save-dir", "dense")
    return folder


def tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def stopped(trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch, look: str) -> None:
    """As Ctrl-C or a kill leaves it: all steps done, the file not written."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pruning_bootcamp.flow.commands.inspecting.write_yaml", interrupt)
        command(trained, *LOOKS[look], expect=130)


@pytest.mark.parametrize("look", LOOKS)
def test_a_dry_run_names_the_steps_and_changes_nothing(trained: Path, command: Command, look: str) -> None:
    before = tree(trained)
    text = command(trained, *LOOKS[look], "--dry-run")
    assert f"results in dense/{FILES[look]}" in text
    assert text.count(": to do") >= 3
    assert "nothing was changed" in text
    assert tree(trained) == before


@pytest.mark.parametrize("look", ["eval", "profile", pytest.param("export", marks=pytest.mark.slow)])
def test_what_was_stopped_goes_on_and_what_is_finished_is_measured_anew(
    trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    stopped(trained, command, monkeypatch, look)
    assert ": to do" not in command(trained, *LOOKS[look], "--dry-run")
    text = command(trained, *LOOKS[look])
    assert text.count(": already done, kept in") >= 3
    assert not list((trained / "dense").glob(".*")), "what was kept goes when the file is there"
    once = yaml.safe_load((trained / "dense" / FILES[look]).read_text())
    assert "already done" not in command(trained, *LOOKS[look])
    again = yaml.safe_load((trained / "dense" / FILES[look]).read_text())
    for metrics in (once, again):
        metrics.pop("environment")
    assert {key for key in once if once[key] != again[key]} <= {"latency_ms", "throughput_fps"}


def test_a_changed_checkpoint_is_not_answered_from_what_was_kept(
    trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(trained, command, monkeypatch, "eval")
    command(trained, "train", *SMOKE, "--save-dir", "other", "--seed", "1")
    (trained / DENSE).write_bytes((trained / "other" / "best_model.pth").read_bytes())
    assert "already done" not in command(trained, *LOOKS["eval"])
    found = yaml.safe_load((trained / "dense" / "eval_metrics.yaml").read_text())
    assert found["accuracy"] == yaml.safe_load((trained / "other" / "metrics.yaml").read_text())["accuracy"]


def test_a_folder_is_no_baseline(trained: Path, command: Command) -> None:
    text = command(trained, "profile", *SMOKE, "--baseline", "dense", "--pruned", DENSE, expect=2)
    assert "--baseline: dense is a folder" in text


def test_a_dry_run_of_quickstart_names_its_plans(tmp_path: Path, command: Command) -> None:
    text = command(tmp_path, "quickstart", *SMOKE, "--dry-run")
    assert "Training the dense network: to do" in text
    assert text.count("To do, once results/quickstart/") == 3
    assert not list(tmp_path.iterdir())
