"""eval, export, profile and quickstart on the machine: --dry-run changes nothing, and what was stopped goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
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


def cut_to_odd_widths(trained: Path, folder: str) -> None:
    """The dense network without the last of every group's channels."""
    from pruning_bootcamp.checkpoints import example_input, load_checkpoint, save_checkpoint
    from pruning_bootcamp.pruning.graph import cut_members, find_groups

    found = load_checkpoint(trained / DENSE)
    groups = [group for group in find_groups(found.model, example_input(found.recipe)) if group.reason is None]
    assert groups
    cut_members(found.model, groups, {group.name: torch.arange(group.width) < group.width - 1 for group in groups})
    (trained / folder).mkdir()
    save_checkpoint(trained / folder / "cut.pth", found.model, found.recipe)


def test_every_file_of_an_export_is_as_wide_as_asked_and_the_checkpoint_stays(trained: Path, command: Command) -> None:
    from pruning_bootcamp.checkpoints import load_model

    cut_to_odd_widths(trained, "odd")
    before = (trained / "odd" / "cut.pth").read_bytes()
    asked = ("export", *SMOKE, "--checkpoint", "odd/cut.pth", "--format", "torchscript,sparse", "--no-verify")
    text = command(trained, *asked, "--pad-to", "8")
    assert "=== Widening with zero channels: 8 ===" in text
    assert "layer1.0.conv1 15 -> 16" in text
    assert (trained / "odd" / "cut.pth").read_bytes() == before
    padding = yaml.safe_load((trained / "odd" / "export_metrics.yaml").read_text())["padding"]
    assert padding["multiple"] == padding["asked"] == 8
    assert padding["max_difference"] < 1e-9
    cut, sparse = (load_model(trained / "odd" / name) for name in ("cut.pth", "model_sparse.safetensors"))
    script = torch.jit.load(str(trained / "odd" / "model.pt"))
    inputs = torch.randn(3, 1, 8, 8)
    assert (cut.layer1[0].conv1.out_channels, sparse.layer1[0].conv1.out_channels) == (15, 16)  # type: ignore[index]
    with torch.inference_mode():
        for wide in (sparse, script):
            torch.testing.assert_close(wide(inputs), cut(inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("faster", "chosen"), [pytest.param(1.0, None, marks=pytest.mark.slow), (0.5, 4)])
def test_auto_takes_the_quickest_widths_only_where_they_are_quicker(
    trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch, faster: float, chosen: int | None
) -> None:
    from pruning_bootcamp.flow.steps import padding
    from pruning_bootcamp.tools.latency import LatencyStats

    def timed(candidates: dict[str, object], **_: object) -> dict[str, LatencyStats]:
        assert list(candidates) == ["as they are", "4"], "with 15 channels every multiple comes to 16, or 32 and 64"
        return {
            name: LatencyStats(*(time, time, 0.0, time, time, 20, 1, "cpu", 1, "onnxruntime"), rounds_ms=(time,) * 20)
            for name, time in (("as they are", 1.0), ("4", faster))
        }

    folder = f"auto{faster}"
    cut_to_odd_widths(trained, folder)
    monkeypatch.setattr(padding, "compare_latencies", timed)
    text = command(
        trained,
        "export",
        *SMOKE,
        "--checkpoint",
        f"{folder}/cut.pth",
        "--format",
        "pt2",
        "--no-verify",
        "--pad-to",
        "auto",
    )
    found = yaml.safe_load((trained / folder / "export_metrics.yaml").read_text())["padding"]
    assert found["multiple"] == chosen
    assert ("Widths stay as they are: none of the others is quicker for certain" in text) is (chosen is None)
    assert "| multiples of 4 |" in text


def test_widths_that_cannot_be_are_refused_before_anything_runs(trained: Path, command: Command) -> None:
    for wrong, says in (("1", "1 is not in [2, 64]"), ("autp", "'autp'"), ("0.5", "'0.5'")):
        text = command(trained, "export", *SMOKE, "--checkpoint", DENSE, "--pad-to", wrong, expect=2)
        assert "export.pad_to: " in text
        assert says in text


@pytest.mark.slow
def test_weights_that_only_cost_time_are_named_by_profile_and_zero_in_an_exported_file(
    trained: Path, command: Command
) -> None:
    from pruning_bootcamp.checkpoints import load_checkpoint, save_checkpoint

    found = load_checkpoint(trained / DENSE)
    name, norm = next((n, m) for n, m in found.model.named_modules() if isinstance(m, torch.nn.BatchNorm2d))
    torch.nn.init.constant_(norm.weight[:1].detach(), 1e-37)
    (trained / "tiny").mkdir()
    save_checkpoint(trained / "tiny" / "tiny.pth", found.model, found.recipe)

    text = command(
        trained, "profile", *SMOKE, "--baseline", DENSE, "--pruned", "tiny/tiny.pth", "profile.runs=3", "threads=1"
    )
    assert "! pruned: " in text
    assert "! baseline: " not in text
    profile = yaml.safe_load((trained / "tiny" / "profile.yaml").read_text())
    counted = profile["tiny_weights"]["pruned"]
    assert f"{sum(counted.values())} weights below 1e-30" in text

    text = command(trained, "export", *SMOKE, "--checkpoint", "tiny/tiny.pth", "--format", "onnx,sparse")
    exported = yaml.safe_load((trained / "tiny" / "export_metrics.yaml").read_text())["formats"]
    assert exported["onnx"]["zeroed_weights"] == counted
    assert exported["sparse"]["zeroed_weights"] == {f"{name}.weight": 1}
    assert text.count("set to 0 in the file") == 2
    assert all(file["notes"][0] in text for file in exported.values())
