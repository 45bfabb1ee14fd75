"""Whatever lies in a folder of results is used or named: nothing is passed over in silence."""

import os
from pathlib import Path

import pytest
from result_folders import write_comparison, write_profile, write_run, write_scan, write_sweep

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.reporting.collect import collect


def test_every_kind_of_result_is_found_once(tmp_path: Path) -> None:
    write_comparison(tmp_path)
    write_profile(tmp_path / "l1_0")
    write_scan(tmp_path)
    write_sweep(tmp_path)
    found = collect(tmp_path)
    assert [run.name for run in found.runs] == ["dense", "l1_0", "l1_1", "l1_2", "random", "zeros"]
    assert {run.name: run.command for run in found.runs}["random"] == "prune-structured"
    assert [profile.name for profile in found.profiles] == ["l1_0"]
    assert [scan.name for scan in found.scans] == ["sensitivity/magnitude_layer"]
    assert [sweep.name for sweep in found.sweeps] == ["sweep/half"], "and its trials are not runs of the report"
    assert found.problems == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("accuracy: [1", "not valid YAML"),
        ("accuracy: many", "accuracy: 'many' is not a number"),
        ("accuracy: 912", "not in [0, 100]"),
        ("accuracy: .nan", "not a number"),
        ("flops_g: 1", "holds no accuracy"),
        ("perplexity: 9.5", "perplexity, which is not compared yet"),
        ("status: failed\nstopped: [min_accuracy]", "min_accuracy"),
        ("just text", "not a table"),
    ],
)
def test_what_can_not_be_used_is_named_with_the_reason(tmp_path: Path, content: str, said: str) -> None:
    write_run(tmp_path, "good", "train")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "metrics.yaml").write_text(content)
    found = collect(tmp_path)
    assert [run.name for run in found.runs] == ["good"]
    assert [problem.name for problem in found.problems] == ["bad"]
    assert said in found.problems[0].reason


def test_an_unfinished_run_is_named_with_the_command_that_goes_on(tmp_path: Path) -> None:
    write_run(tmp_path, "good", "train")
    folder = write_run(tmp_path, "half", "prune-structured")
    (folder / "metrics.yaml").unlink()
    (problem,) = collect(tmp_path).problems
    assert problem.name == "half"
    assert f"pruning-bootcamp prune-structured -c {folder / 'config.yaml'}" in problem.reason


def test_a_profile_is_found_under_any_name(tmp_path: Path) -> None:
    """`profile --save-results results/week2_validation.yaml` is the course's own command."""
    write_profile(write_run(tmp_path, "cut", "prune-structured"))
    (tmp_path / "cut" / "profile.yaml").rename(tmp_path / "week2_validation.yaml")
    (tmp_path / "notes.yaml").write_text("comparison: of apples")
    (tmp_path / "broken.yaml").write_text("a: [")
    found = collect(tmp_path)
    assert [profile.name for profile in found.profiles] == ["week2_validation"]
    assert found.problems == []


def test_a_sweep_that_is_not_over_is_shown_and_named(tmp_path: Path) -> None:
    write_sweep(tmp_path, status="interrupted")
    found = collect(tmp_path)
    assert [sweep.name for sweep in found.sweeps] == ["sweep/half"]
    (problem,) = found.problems
    assert problem.name == "sweep/half"
    assert "'interrupted'" in problem.reason
    assert f"pruning-bootcamp sweep -c {tmp_path / 'sweep' / 'half' / 'config.yaml'}" in problem.reason


def test_a_copy_and_a_summary_of_a_run_are_counted_once(tmp_path: Path) -> None:
    write_run(tmp_path, "one", "prune-structured", metrics={"fingerprint": "same"})
    write_run(tmp_path, "two", "prune-structured", metrics={"fingerprint": "same"})
    (tmp_path / "metrics.yaml").write_text("accuracy: 91\nfingerprint: same\nstatus: complete\n")
    found = collect(tmp_path)
    assert [run.name for run in found.runs] == ["one"]
    assert len(found.left_out) == 2
    assert all("same run as one" in left_out.reason for left_out in found.left_out)


def test_an_earlier_run_that_was_replaced_is_left_out_and_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "now", "train")
    write_run(folder, "previous-1", "train")
    found = collect(tmp_path)
    assert [run.name for run in found.runs] == ["now"]
    assert [left_out.name for left_out in found.left_out] == ["now/previous-1"]


def test_folders_of_ones_own_may_be_named_like_parts_of_a_run(tmp_path: Path) -> None:
    write_run(tmp_path / "export", "mine", "train")
    folder = write_run(tmp_path, "whole", "prune-structured")
    write_run(folder / "stages", "inner", "train")
    write_run(folder, "cycle_1", "train")
    assert [run.name for run in collect(tmp_path).runs] == ["export/mine", "whole"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write_run(outside, "secret", "train")
    write_run(tmp_path / "results", "good", "train")
    os.symlink(outside, tmp_path / "results" / "link")
    assert [run.name for run in collect(tmp_path / "results").runs] == ["good"]


def test_nothing_to_report_on_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match=r"(?s)nothing finished.*metrics\.yaml.*quickstart"):
        collect(tmp_path)
    with pytest.raises(BootcampError, match="there is no such folder"):
        collect(tmp_path / "resluts")
    (tmp_path / "file").write_text("")
    with pytest.raises(BootcampError, match="is a file"):
        collect(tmp_path / "file")
