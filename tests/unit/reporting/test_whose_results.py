"""A report speaks for the runs of the folder that was named: not for published ones, nor another project's."""

from pathlib import Path

import pytest
import yaml
from result_folders import write_comparison, write_run, write_sweep

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.reporting.collect import Collected, collect
from pruning_bootcamp.reporting.command import report
from pruning_bootcamp.reporting.findings import find
from pruning_bootcamp.reporting.sections import made_by_sweeps

PUBLISHED = Path(__file__).resolve().parents[3] / "results" / "published"


def names(found: Collected) -> list[str]:
    return [run.name for run in found.runs]


@pytest.mark.parametrize("folder", ["published", "Published", "mine/published"])
def test_published_results_are_left_out_and_said_unless_they_are_named(tmp_path: Path, folder: str) -> None:
    write_run(tmp_path, "mine", "train") if folder != "mine/published" else write_run(
        tmp_path / "mine", "dense", "train"
    )
    write_run(tmp_path / folder / "theirs", "a", "prune-structured", fewer=50.0)
    write_run(tmp_path / folder, "b", "train")
    found = collect(tmp_path)
    assert len(found.runs) == 1
    (left_out,) = found.left_out
    assert left_out.name == folder
    assert left_out.reason.startswith("published results (2 with a metrics.yaml), which speak for those who")
    assert left_out.reason.endswith(f"name them: --results {tmp_path / folder}")
    assert names(collect(tmp_path / folder)) == ["b", "theirs/a"]
    assert names(collect(tmp_path / folder / "theirs")) == ["a"]


def test_this_projects_own_published_results_count_for_nobody_else(tmp_path: Path) -> None:
    """94 of 134 runs were these, in a report on the results of a checkout."""
    import shutil

    shutil.copytree(PUBLISHED, tmp_path / "published")
    write_comparison(tmp_path)
    assert len(find(collect(tmp_path)).records) == 6
    assert len(find(collect(tmp_path / "published")).records) > 90


@pytest.mark.parametrize("marker", ["folder", "file"])
def test_another_repository_below_is_another_project(tmp_path: Path, marker: str) -> None:
    """A worktree's `.git` is a file."""
    write_run(tmp_path, "mine", "train")
    write_run(tmp_path / "clone" / "results", "theirs", "train")
    git = tmp_path / "clone" / ".git"
    git.mkdir() if marker == "folder" else git.write_text("gitdir: elsewhere")
    found = collect(tmp_path)
    assert names(found) == ["mine"]
    assert [(one.name, "another project" in one.reason) for one in found.left_out] == [("clone", True)]
    assert names(collect(tmp_path / "clone")) == ["results/theirs"], "named, it is what was asked for"


def test_a_folder_with_nothing_else_says_what_was_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "published", "theirs", "train")
    with pytest.raises(BootcampError, match=rf"(?s)nothing finished.*--results {tmp_path / 'published'}"):
        collect(tmp_path)


def as_the_sweep_writes_them(root: Path) -> Path:
    """Two trials and the dense network, no test images read; a third trial that stopped early, a fourth that failed."""
    write_sweep(root)
    sweep = root / "sweep" / "half"
    for name, val in (("dense", 93.0), ("trials/0000", 92.0), ("trials/0001", 91.0)):
        path = sweep / name / "metrics.yaml"
        figures = yaml.safe_load(path.read_text())
        for key in ("accuracy", "accuracy_drop", "goal", "goal_met", "test_images"):
            figures.pop(key, None)
        weights = {"weights": "aaaa000011112222"}
        more = weights if name == "dense" else {"baseline": {"val_accuracy": 93.0} | weights, "flops_reduction_pct": 50}
        path.write_text(yaml.safe_dump(figures | {"val_accuracy": val, "val_images": 135, "fingerprint": name} | more))
    for name, state in (("trials/0002", "pruned"), ("trials/0003", "failed")):
        folder = write_run(sweep, name, "prune-structured")
        (folder / "metrics.yaml").unlink()
        (folder / "trial.yaml").write_text(f"number: 2\nstate: {state}\nreason: because\n")
    return sweep


@pytest.mark.parametrize("place", ["sweep/half", "sweep"])
def test_the_runs_of_a_sweeps_folder_are_its_trials(tmp_path: Path, place: str) -> None:
    sweep = as_the_sweep_writes_them(tmp_path)
    found = collect(tmp_path / place)
    inner = sweep.relative_to(tmp_path / place).as_posix()
    prefix = "" if inner == "." else f"{inner}/"
    assert names(found) == [f"{prefix}dense", f"{prefix}trials/0000", f"{prefix}trials/0001"]
    assert [(one.name, one.reason) for one in found.left_out] == [
        (f"{prefix}trials/0002", "a trial that its sweep stopped early: because")
    ]
    assert [(one.name, one.reason) for one in found.problems] == [
        (f"{prefix}trials/0003", "a trial that came to nothing (failed): because")
    ]
    assert made_by_sweeps(found) == f" Sweeps made the runs: 3 by {sweep}."


def test_the_trials_folder_and_a_single_trial_may_be_named(tmp_path: Path) -> None:
    sweep = as_the_sweep_writes_them(tmp_path)
    assert names(collect(sweep / "trials")) == ["0000", "0001"]
    assert names(collect(sweep / "trials" / "0001")) == ["0001"]


def test_beside_other_runs_a_sweeps_runs_are_counted_and_stand_in_its_section(tmp_path: Path) -> None:
    sweep = as_the_sweep_writes_them(tmp_path)
    write_run(tmp_path, "mine", "train")
    found = collect(tmp_path)
    assert names(found) == ["mine"]
    assert found.problems == found.left_out == []
    assert made_by_sweeps(found).startswith(
        f" 3 more runs were made by sweeps, each in its sweep's own section: 3 by {sweep}."
    )
    assert "3 more runs were made by sweeps" in report(tmp_path).read_text()


def test_runs_that_read_no_test_images_are_compared_on_validation(tmp_path: Path) -> None:
    sweep = as_the_sweep_writes_them(tmp_path)
    (only,) = find(collect(sweep)).experiments
    assert [setting.accuracy for setting in only.experiment.settings] == [None] * len(only.experiment.settings)
    assert only.experiment.title == "cifar_resnet20 on digits"
    text = report(sweep).read_text()
    assert "| trials/0000 |" in " ".join(text.split())
    (dense,) = [line for line in only.fairness if "same dense" in line.question]
    assert (dense.met, dense.found) == (True, "its weights are aaaa000011112222")
    (seeds,) = [line for line in only.fairness if "Several seeds" in line.question]
    assert f"--save-dir {tmp_path}/sweep/half_0000_seed1" in "\n".join(seeds.mend), "not among the trials"


def test_a_run_without_test_images_of_ones_own_is_no_problem(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "look", "train")
    (folder / "metrics.yaml").write_text("val_accuracy: 93.0\nstatus: complete\n")
    found = collect(tmp_path)
    assert (names(found), found.problems) == (["look"], [])
    (record,) = find(found).records
    assert (record.accuracy, record.val_accuracy) == (None, 93.0)
