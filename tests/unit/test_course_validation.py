"""What a week must have made: each check holds and fails when it should, and names a command that mends it."""

import shlex
from pathlib import Path

import pytest
import yaml

from pruning_bootcamp.course.validation import STAGES, CourseCheck, CourseResults, check_results_folder, validate_course
from pruning_bootcamp.errors import BootcampError


def write(path: Path, **content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


def pruned(results: Path, name: str, **figures: object) -> Path:
    folder = results / name
    write(folder / "metrics.yaml", status="complete", **figures)
    (folder / "pruned_model.pth").touch()
    return folder


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """Results in which everything holds."""
    results = tmp_path / "results"
    write(results / "baseline" / "metrics.yaml", accuracy=99.0, status="complete")
    (results / "baseline" / "best_model.pth").touch()
    for method in ("l1_layerwise", "global_global", "taylor_layerwise", "movement_layerwise"):
        pruned(results, f"unstructured/{method}_sp0.5", sparsity=0.5, accuracy_drop=1.0, flops_reduction_pct=0.0)
    folder = pruned(results, "structured/bn_scale_flops0.5", accuracy_drop=0.9, flops_reduction_pct=50.0, goal_met=True)
    (folder / "model.onnx").touch()
    write(results / "week2_validation.yaml", analysis={"discrepancy_points": 33.0})
    write(results / "sweep" / "digits" / "sweep.yaml", trials=[{"state": "complete"}] * 3, pareto=[0, 2])
    (results / "final_comparison.csv").write_text(
        "Method,Sparsity,FLOPs_Reduction,Accuracy_Drop,Goal_Met\na,0.5,0,1,true\nb,0.5,0,1,true\n"
    )
    (results / "summary.md").write_text("# Summary\n")
    return results


def failing(results: Path, stage: str) -> list[CourseCheck]:
    return [check for check in STAGES[stage](CourseResults(results)) if not check.ok]


@pytest.mark.parametrize("stage", STAGES)
def test_a_whole_course_holds(course: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate_course(stage, course)
    shown = capsys.readouterr().out
    assert "✗" not in shown
    assert "checks hold" in shown


@pytest.mark.parametrize("stage", STAGES)
def test_with_nothing_there_every_check_fails_with_a_command(tmp_path: Path, stage: str) -> None:
    from pruning_bootcamp.cli import app

    known = {entry.name or entry.callback.__name__ for entry in app.registered_commands}
    known |= {group.typer_instance.info.name for group in app.registered_groups} | {"sweep", "report"}
    checks = list(STAGES[stage](CourseResults(tmp_path / "results")))
    assert checks
    for check in checks:
        assert not check.ok, check
        words = shlex.split(check.mend)
        assert words[0] == "pruning-bootcamp"
        assert words[1] in known


BROKEN = {
    "baseline below 90%": ("week1", "baseline/metrics.yaml", {"accuracy": 89.9}, "--no-resume train.epochs=60ep"),
    "all lose more than 2": ("week1", "unstructured/*/metrics.yaml", {"accuracy_drop": 2.1}, "fine_tune.epochs=30ep"),
    "less than half zero": ("week1", "unstructured/*/metrics.yaml", {"sparsity": 0.4}, "--sparsity 0.5"),
    "too few FLOPs": ("week2", "structured/*/metrics.yaml", {"flops_reduction_pct": 39.0}, "fine_tune.distill=0.9"),
    "too much lost": ("week2", "structured/*/metrics.yaml", {"accuracy_drop": 1.6}, "fine_tune.distill=0.9"),
    "goal not met": ("week2", "structured/*/metrics.yaml", {"goal_met": False}, "--target-flops-reduction 0.5"),
    "no gap measured": ("week2", "week2_validation.yaml", {"analysis": None}, "profile"),
    "one trial": ("week3", "sweep/digits/sweep.yaml", {"trials": [{"state": "complete"}]}, "sweep"),
    "no front": ("week3", "sweep/digits/sweep.yaml", {"pareto": []}, "sweep"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_good_enough_fails(course: Path, name: str) -> None:
    stage, pattern, change, command = BROKEN[name]
    found = list(course.glob(pattern))
    assert found
    for path in found:
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    assert any(command in check.mend for check in failing(course, stage))
    assert failing(course, "final"), "the final check is all three weeks"


@pytest.mark.parametrize(
    "name", ["baseline/best_model.pth", "structured/bn_scale_flops0.5/model.onnx", "final_comparison.csv", "summary.md"]
)
def test_a_missing_file_fails(course: Path, name: str) -> None:
    (course / name).unlink()
    assert failing(course, "final")


def test_a_table_with_other_columns_fails(course: Path) -> None:
    table = course / "final_comparison.csv"
    table.write_text(table.read_text().replace("Goal_Met", "Goal"))
    assert [check.what for check in failing(course, "week3")] == ["the table of methods"]


def test_commands_go_where_the_results_are(tmp_path: Path) -> None:
    place = CourseResults(tmp_path / "mine")
    for check in STAGES["final"](place):
        assert str(tmp_path / "mine") in check.mend, check
    write(tmp_path / "other" / "baseline" / "config.yaml", data={"name": "cifar10", "root": "data/cifar10"})
    place = CourseResults(tmp_path / "other")
    assert "-c cfgs/cifar10_resnet18.yaml" in place.retrain()
    assert place.retrain().endswith("data.root=data/cifar10")


def test_a_wrong_folder_and_settings_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BootcampError) as caught:
        check_results_folder("week1", tmp_path / "nowhere", ["a=1"])
    assert len(caught.value.problems) == 2


def test_no_command_exports_a_network_that_missed_its_goal(course: Path) -> None:
    for path in course.glob("structured/*/metrics.yaml"):
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"goal_met": False}))
    mends = {check.what: check.mend for check in failing(course, "week2")}
    assert "prune-structured" in mends["a network that meets it as ONNX"]
    assert not any("pruning-bootcamp export" in mend for mend in mends.values())
