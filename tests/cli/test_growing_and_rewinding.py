"""prune-unstructured --gradual, and lottery-ticket rewinding, from the command line on digits."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

Command = Callable[..., str]
SMOKE = str(Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "digits.yaml")
ANY = "goal.accuracy_drop=100"
PRUNE = ("prune-unstructured", "-c", SMOKE, ANY)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    command(folder, "train", "-c", SMOKE, "train.epochs=2", "train.save_steps=[0it,2it,1ep]")
    return folder


def opened(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_gradual_pruning_says_and_records_every_update(trained: Path, command: Command) -> None:
    arguments = ("--method", "global", "--sparsity", "0.8", "--gradual", "fine_tune.epochs=3ep")
    text = command(trained, *PRUNE, *arguments, "prune.frequency=2it")
    run = trained / "results" / "unstructured" / "global_global_sp0.8_gradual"
    metrics = yaml.safe_load((run / "metrics.yaml").read_text())
    assert metrics["sparsity"] == pytest.approx(0.8, abs=1e-4)
    points = metrics["updates"]
    assert [point["step"] for point in points[:-1]] == list(range(0, points[-1]["step"], 2))
    sparsities = [point["sparsity"] for point in points]
    assert len(points) >= 4
    assert sparsities[0] == 0
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] == pytest.approx(0.8, abs=1e-4)
    assert "Mode: gradual, cubic, from 0% to 75% of the fine-tuning, every 2it" in text
    assert text.count("% pruned") == len(points)
    assert "Step 2: " in text
    saved = opened(run / "pruned_model.pth")
    assert saved["masks"]
    assert "already finished" in command(trained, *PRUNE, *arguments, "prune.frequency=2it")


def test_the_schedule_decides_how_it_grows(trained: Path, command: Command) -> None:
    arguments = ("--gradual", "--schedule", "linear", "--sparsity", "0.6", "prune.frequency=1it", "prune.end=4it")
    command(trained, *PRUNE, *arguments, "fine_tune.epochs=6it", "--save-dir", "results/linear")
    metrics = yaml.safe_load((trained / "results" / "linear" / "metrics.yaml").read_text())
    assert [point["sparsity"] for point in metrics["updates"]] == pytest.approx([0, 0.15, 0.3, 0.45, 0.6], abs=1e-3)


def test_a_score_with_gradients_grows_too(trained: Path, command: Command) -> None:
    arguments = ("--gradual", "--method", "taylor", "prune.calibration_images=64", "fine_tune.epochs=4it")
    command(trained, *PRUNE, *arguments, "--save-dir", "results/taylor")
    metrics = yaml.safe_load((trained / "results" / "taylor" / "metrics.yaml").read_text())
    assert metrics["sparsity"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gradual", "--iterative"), "prune.iterations=5 asks for several"),
        (("--gradual", "--no-fine-tune"), "while fine-tuning, which is off"),
        (("--gradual", "--pattern", "2:4"), "since pattern 'nm' fixes the sparsity"),
        (("--iterative", "--pattern", "2:4", "--sparsity", "0.5"), "since pattern 'nm' fixes the sparsity"),
        (("--gradual", "prune.end=5%", "prune.begin=50%"), "from 50% to 5% does not fit"),
        (("--gradual", "prune.frequency=often"), "prune.frequency: 'often' is no time"),
        (("--gradual", "prune.rewind=0it"), "Choose one"),
        (("prune.rewind=500it",), "train.save_steps=[500it]"),
        (("train.save_steps=[9ep]",), "9ep is after the training's 1ep"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(
    arguments: tuple[str, ...], message: str, trained: Path, command: Command
) -> None:
    text = " ".join(command(trained, *PRUNE, *arguments, "--save-dir", "results/refused", expect=2).split())
    assert message in text
    assert not (trained / "results" / "refused").exists()


def test_training_saves_its_named_steps(trained: Path) -> None:
    folder = trained / "results" / "baseline"
    steps = {path.name: opened(path)["extra"]["step"] for path in folder.glob("step_*.pth")}
    assert steps.keys() == {"step_0it.pth", "step_2it.pth", "step_1ep.pth"}
    assert steps["step_0it.pth"] == 0
    assert steps["step_2it.pth"] == 2
    assert steps["step_1ep.pth"] > 2


@pytest.mark.parametrize("step", ["0it", "2it", "results/baseline/step_1ep.pth"])
def test_right_after_rewinding_it_is_the_saved_step_under_the_masks(step: str, trained: Path, command: Command) -> None:
    arguments = ("--method", "global", "--sparsity", "0.7", "--no-fine-tune", f"prune.rewind={step}")
    text = command(trained, *PRUNE, *arguments)
    assert "Rewound to" in text
    assert "Batch-norm statistics re-estimated" not in text
    name = Path(step).stem
    run = trained / "results" / "unstructured" / f"global_global_sp0.7_rewind_{name}"
    ticket = opened(run / "pruned_model.pth")["state_dict"]
    saved_at = trained / "results" / "baseline" / (f"step_{step}.pth" if step.endswith("it") else Path(step).name)
    saved = opened(saved_at)["state_dict"]
    # which weights survive was decided on the trained network, so a pruned weight is 0 and was not before
    zeros = total = 0
    for key, value in ticket.items():
        alive = value != 0
        assert torch.equal(value[alive], saved[key][alive]), key
        if value.ndim >= 2:
            zeros, total = zeros + int((~alive).sum()), total + value.numel()
        else:
            assert torch.equal(value, saved[key]), key
    assert zeros / total == pytest.approx(0.7, abs=0.01)


def test_iterative_rewinding_trains_each_ticket(trained: Path, command: Command) -> None:
    arguments = ("--iterative", "--num-iterations", "2", "--sparsity", "0.6", "prune.rewind=2it", "fine_tune.lr=0.05")
    text = command(trained, *PRUNE, *arguments, "--save-dir", "results/ticket")
    assert text.count("Rewound to 2it") == 2
    metrics = yaml.safe_load((trained / "results" / "ticket" / "metrics.yaml").read_text())
    assert metrics["sparsity"] == pytest.approx(0.6, abs=1e-3)
    first, last = (opened(trained / "results" / "ticket" / f"cycle_{n}" / "pruned_model.pth") for n in (1, 2))
    gone = sum(int(((value == 0) & (last["state_dict"][key] != 0)).sum()) for key, value in first["state_dict"].items()
               if value.ndim >= 2)  # fmt: skip
    assert gone == 0, "the second ticket lies within the first"
