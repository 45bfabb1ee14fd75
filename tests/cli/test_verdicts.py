"""One network, one verdict: every command that can judge it says the same, and ends with the same exit code."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

Command = Callable[..., str]
Run = Callable[[tuple[str, ...]], tuple[int, str]]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
SHIP = ("export.format=sparse", "export.verify=false", "gates.export_verified=false")
WAYS = {
    "zeros": ("prune.sparsity=0.8", "prune.iterations=2"),
    "channels": ("structured.target_flops_reduction=0.5", "pipeline.steps=[prune-structured]"),
}
PLAIN = {"zeros": "prune-unstructured", "channels": "prune-structured"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """A dense network with some accuracy to lose, and both ways of pruning it by the plain command and the pipeline."""
    folder = tmp_path_factory.mktemp("verdicts")
    command(folder, "train", "-c", SMOKE, "data.limit=1000", "train.epochs=4", "--save-dir", "dense")
    return folder


def doors(folder: Path, way: str, *more: str) -> dict[str, tuple[str, ...]]:
    start = ("-c", SMOKE, "--checkpoint", str(folder / "dense" / "best_model.pth"), *WAYS[way], *more)
    plain, piped = str(folder / way / "plain"), str(folder / way / "piped")
    return {
        "plain": (PLAIN[way], *start, "--save-dir", plain),
        "pipeline": ("pipeline", "run", *start, *SHIP, "--save-dir", piped),
        "eval": (
            *(
                "eval",
                "-c",
                SMOKE,
                "--checkpoint",
                f"{plain}/pruned_model.pth",
                "--save-dir",
                str(folder / way / "eval"),
            ),
            *("--baseline-metrics", str(folder / "dense" / "metrics.yaml"), *more),
        ),
    }


def metrics(folder: Path) -> dict:
    return yaml.safe_load((folder / "metrics.yaml").read_text())


@pytest.mark.parametrize("way", ["zeros", pytest.param("channels", marks=pytest.mark.slow)])
def test_every_door_gives_the_same_verdict_for_the_same_weights(trained: Path, way: str, run: Run) -> None:
    for door, arguments in doors(trained, way, "goal.accuracy_drop=100").items():
        code, text = run(arguments)
        assert code == 0, f"{door}\n{text}"
        assert "Goal MET (" in text, door
    plain, piped = trained / way / "plain", trained / way / "piped"
    weights = [torch.load(at / "pruned_model.pth", weights_only=True)["state_dict"] for at in (plain, piped)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    drop = metrics(plain)["accuracy_drop"]
    assert metrics(piped)["accuracy_drop"] == drop
    loose = "goal.accuracy_drop=100"
    asked = {
        (f"goal.accuracy_drop={drop}",): True,  # the limit itself is enough
        (f"goal.accuracy_drop={drop - 1e-6:.7f}",): False,
        (f"goal.accuracy_drop={drop - 1:.4f}",): False,
        (loose, "goal.flops_reduction_pct=51"): way == "zeros",  # zeros are not asked for FLOPs
        (loose, "gates.max_accuracy_drop=100"): True,
    }
    for goal, met in asked.items():
        for door, arguments in doors(trained, way, *goal).items():
            code, text = run(arguments)
            assert code == (0 if met else 3), f"{door} {goal}\n{text}"
            assert (f"Goal {'MET' if met else 'NOT met'} (" in text, "missed: " in text) == (True, not met), text
    for door, arguments in doors(trained, way, loose, "gates.min_accuracy=99.9").items():
        code, text = run(arguments)
        assert (code, "✗ gates.min_accuracy: " in text, "asked for >= 99.9" in text) == (3, True, True), (door, text)


def test_a_missed_goal_keeps_what_the_pipeline_made_and_says_so_everywhere(trained: Path, run: Run) -> None:
    arguments = doors(trained, "zeros", "goal.accuracy_drop=-100")["pipeline"]
    code, text = run((*arguments, "--save-dir", str(trained / "kept")))
    assert code == 3
    assert "missed: " in text
    assert (trained / "kept" / "export" / "model_sparse.safetensors").exists()
    assert metrics(trained / "kept")["goal_met"] is False
    assert metrics(trained / "kept")["status"] == "complete"
    assert "**Goal NOT met** (<= -100 points" in (trained / "kept" / "report.md").read_text()
    code, text = run(("pipeline", "status", "--save-dir", str(trained / "kept")))
    assert (code, "Goal NOT met" in text) == (0, True)
    code, text = run(("pipeline", "resume", "--save-dir", str(trained / "kept")))
    assert (code, "already finished" in text, "missed: " in text) == (3, True, True)
    code, text = run(
        (*doors(trained, "zeros", "goal.accuracy_drop=100")["pipeline"], "--save-dir", str(trained / "kept"))
    )
    assert (code, "already finished" in text) == (0, True)
    assert metrics(trained / "kept")["goal_met"] is True
    assert "**Goal MET** (<= 100 points" in (trained / "kept" / "report.md").read_text()


def test_gates_that_a_plain_command_can_not_judge_are_named(trained: Path, run: Run) -> None:
    loose, size, accuracy = "goal.accuracy_drop=100", "gates.max_size_mb=1", "gates.max_accuracy_drop=100"
    fresh = (*doors(trained, "zeros", loose, accuracy)["plain"], "--save-dir", str(trained / "gated"))
    _, text = run(fresh)
    assert "not judged here" not in text
    assert [gate["where"].partition(" ")[2] for gate in metrics(trained / "gated")["gates"]] == [
        "validation images",
        "test images",
    ]
    _, text = run(doors(trained, "zeros", loose, size)["plain"])
    assert "not judged here: gates.max_size_mb. `pipeline run` measures what they need." in text
    _, text = run(doors(trained, "zeros", loose, accuracy)["plain"])  # finished before it was asked for
    assert "not judged here: gates.max_accuracy_drop on validation images." in text


@pytest.mark.parametrize(
    "damage",
    [{"test_images": None, "gates": [{"gate": "x"}]}, {"accuracy_drop": "much"}, {"flops_reduction_pct": [1]}],
    ids=["missing", "a word", "a list"],
)
@pytest.mark.parametrize("door", ["plain", "pipeline"])
def test_figures_that_somebody_changed_are_a_message(trained: Path, door: str, damage: dict, run: Run) -> None:
    arguments = doors(trained, "channels", "goal.accuracy_drop=100")[door]
    assert run(arguments)[0] == 0
    path = Path(arguments[-1]) / "metrics.yaml"
    whole = path.read_text()
    figures = yaml.safe_load(whole) | damage
    path.write_text(yaml.safe_dump({name: value for name, value in figures.items() if value is not None}))
    code, text = run(arguments)
    path.write_text(whole.replace("goal:", "aim:"))
    if door == "pipeline":
        shown = run(("pipeline", "status", "--save-dir", str(path.parent)))
        assert (shown[0], "not as the run left them" in shown[1]) == (2, True), shown
    path.write_text(whole)
    assert (code, "not as the run left them" in text, "Traceback" in text) == (2, True, False), text
    assert "--no-resume" in text
