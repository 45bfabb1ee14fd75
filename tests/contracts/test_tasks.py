"""Every registered task, and two of a user's own, keep the promises of tasks/base.py."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model
from pruning_bootcamp.pruning.channels.structured import cut_channels, plan_structured
from pruning_bootcamp.pruning.stats import STATISTICS, gather, unmeasured
from pruning_bootcamp.pruning.targets import find_targets
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, TASKS, Task, check_task, evaluate, open_task
from pruning_bootcamp.tools.datasets import Splits, eval_batches, load_dataset
from pruning_bootcamp.training.batch_norm import DenseJudge, Nearness
from pruning_bootcamp.training.loop import FitSettings, fit

OWN = Path(__file__).resolve().parents[1] / "own_tasks"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Smoke:
    """A task with data and a network on which all of it runs in seconds."""

    task: Task
    splits: Splits
    build: Callable[[], nn.Module]

    def batch(self, count: int = 8) -> tuple[Tensor, Tensor]:
        how = {"mean": self.splits.mean, "std": self.splits.std, "device": CPU}
        return next(iter(eval_batches(self.splits.val, batch_size=count, **how)))


def _own(file: str, task: str, data: str) -> Smoke:
    splits = load_dataset(f"{OWN / file}:{data}")
    return Smoke(
        open_task(f"{OWN / file}:{task}"),
        splits,
        lambda: build_model(f"{OWN / file}:build", classes=len(splits.class_names), in_channels=splits.channels),
    )


def _classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 10),
    )


SMOKE: dict[str, Callable[[], Smoke]] = {
    "image_classification": lambda: Smoke(IMAGE_CLASSIFICATION, load_dataset("digits", limit=300), _classifier),
    "segmentation": lambda: _own("shapes.py", "Segmentation", "shapes"),
    "tokens": lambda: _own("tokens.py", "NextToken", "sequences"),
}


@pytest.fixture(scope="module", params=sorted({*SMOKE, *TASKS}))
def smoke(request: pytest.FixtureRequest) -> Smoke:
    torch.manual_seed(0)
    return SMOKE[request.param]()  # a new task is registered together with smoke data for it


def perfect(smoke: Smoke, outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs that are sure of the targets."""
    dim = getattr(smoke.task, "dim", 1)
    return torch.zeros_like(outputs).scatter_(dim, targets.unsqueeze(dim), 20.0)


def test_losses_are_one_a_sample_and_can_be_learnt_from(smoke: Smoke) -> None:
    inputs, targets = smoke.batch()
    model = smoke.build()
    losses = smoke.task.losses(smoke.task.outputs(model(inputs)), targets)
    assert losses.shape == (len(inputs),)
    losses.sum().backward()
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters())
    apart = [
        smoke.task.losses(smoke.task.outputs(model.eval()(one[None])), target[None])
        for one, target in zip(inputs, targets, strict=True)
    ]
    together = smoke.task.losses(smoke.task.outputs(model(inputs)), targets)
    assert torch.allclose(torch.cat(apart), together, atol=1e-5)


def test_the_metric_has_a_direction_and_right_outputs_are_the_better_ones(smoke: Smoke) -> None:
    task, (inputs, targets) = smoke.task, smoke.batch()
    outputs = task.outputs(smoke.build().eval()(inputs)).detach()
    right = perfect(smoke, outputs, targets)
    scores = [task.score(task.measure(some, targets).tolist(), len(inputs)) for some in (outputs, right)]
    assert task.metric.goodness(scores[1]) > task.metric.goodness(scores[0])
    assert task.metric.lost(scores[1], scores[0]) > 0
    assert task.losses(right, targets).sum() < task.losses(outputs, targets).sum()
    assert task.mismatch(outputs, targets) is None
    assert task.misfit(outputs, len(smoke.splits.class_names)) is None
    assert task.misfit(outputs, 999) is not None


def test_measures_add_up_whatever_the_batches(smoke: Smoke) -> None:
    model, how = smoke.build(), {"mean": smoke.splits.mean, "std": smoke.splits.std, "device": CPU}
    found = [
        evaluate(model, eval_batches(smoke.splits.val, batch_size=size, **how), smoke.task) for size in (7, 30, 1000)
    ]
    assert found[0].n == len(smoke.splits.val)
    for one in found[1:]:
        assert one.score == pytest.approx(found[0].score, rel=1e-5)
        assert one.loss == pytest.approx(found[0].loss, rel=1e-5)


def test_decisions_are_targets_and_agree_with_themselves(smoke: Smoke) -> None:
    task, (inputs, targets) = smoke.task, smoke.batch()
    outputs = task.outputs(smoke.build().eval()(inputs)).detach()
    decided = task.decisions(outputs)
    assert (decided.shape, decided.dtype) == (targets.shape, targets.dtype)
    assert task.agreement(outputs, outputs) == (pytest.approx(len(inputs)), pytest.approx(0.0, abs=1e-5))
    alike, divergence = task.agreement(perfect(smoke, outputs, decided), outputs)
    assert alike == pytest.approx(len(inputs))
    assert divergence > 0
    assert task.agreement(torch.full_like(outputs, torch.nan), outputs) == (0.0, torch.inf)


def test_the_teachers_signal_is_nothing_at_the_teacher_and_has_a_gradient_away_from_it(smoke: Smoke) -> None:
    task, (inputs, _) = smoke.task, smoke.batch()
    taught = task.outputs(smoke.build().eval()(inputs)).detach()
    assert float(task.distance(taught, taught, 4.0)) == pytest.approx(0.0, abs=1e-4)
    away = (taught + torch.randn_like(taught)).requires_grad_()
    distance = task.distance(away, taught, 4.0)
    distance.backward()
    assert distance > 0
    assert bool(away.grad.any())
    halves = sum(task.distance(away[part], taught[part], 4.0).item() for part in (slice(0, 3), slice(3, None)))
    assert halves == pytest.approx(distance.item(), rel=1e-4)


def test_the_example_input_is_of_the_kind_that_the_data_are(smoke: Smoke) -> None:
    splits = smoke.splits
    inputs, _ = smoke.batch(4)
    taken = smoke.task.inputs(splits.shape, splits.train.dtype, len(splits.class_names))
    examples = [taken.example(4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert (examples[0].shape, examples[0].dtype) == (inputs.shape, inputs.dtype)
    assert torch.equal(examples[0], examples[1])
    assert not torch.equal(examples[0], examples[2])
    assert smoke.task.outputs(smoke.build().eval()(examples[0])).shape[0] == 4


def test_the_loss_falls_on_its_data(smoke: Smoke) -> None:
    model, how = smoke.build(), {"mean": smoke.splits.mean, "std": smoke.splits.std, "device": CPU}
    before = evaluate(model, eval_batches(smoke.splits.val, batch_size=64, **how), smoke.task)
    settings = FitSettings(epochs=3, batch_size=16, lr=0.05, augment=[])
    result = fit(model, smoke.splits, settings, device=CPU, task=smoke.task, progress=False)
    assert result.history[-1].val_loss < before.loss
    assert smoke.task.metric.goodness(result.best_score) > smoke.task.metric.goodness(before.score)
    best = max(result.history, key=lambda entry: smoke.task.metric.goodness(entry.val_accuracy))
    assert result.best_score == best.val_accuracy


def test_a_cut_network_passes_its_proof(smoke: Smoke) -> None:
    splits = smoke.splits
    taken = smoke.task.inputs(splits.shape, splits.train.dtype, len(splits.class_names))
    example, model = taken.example(2, torch.Generator().manual_seed(0)), smoke.build()
    plan = plan_structured(model, example, score="l1", sparsity=0.3)
    found = cut_channels(model, example, plan)
    assert found.proof.relative < 1e-9
    judge = DenseJudge(model, lambda: [smoke.batch()[0]], smoke.task)
    assert judge(model) == Nearness(pytest.approx(100.0), pytest.approx(0.0, abs=1e-5))
    assert judge(found.model).divergence > 0


@pytest.mark.parametrize("need", list(STATISTICS))
def test_every_statistic_is_measured_by_the_tasks_own_loss(smoke: Smoke, need: str) -> None:
    model, labels = smoke.build(), STATISTICS[need].facts["labels"]
    chosen = find_targets(model)
    targets = {name: weight for name, weight in chosen.items() if not unmeasured(model, [name], [need])}
    batch = smoke.batch(6)
    found = gather(model, targets, (need,), [batch if labels else batch[0]], task=smoke.task)[need]
    assert found.keys() == targets.keys()
    assert all(values.shape == targets[name].shape and bool(values.isfinite().all()) for name, values in found.items())
    assert any(bool(values.any()) for values in found.values())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Mine(Classification):\n    pass\n", None),
        ("class Mine(Task):\n    pass\n", r"does not say agreement, decisions, distance, losses, measure, score yet"),
        ("def mine():\n    return 3\nMine = mine\n", "gave int, and a Task is needed"),
        ("class Other(Classification):\n    pass\n", "unknown function 'Mine'"),
        (
            "class Mine(Classification):\n    def __init__(self, *, stride: int):\n        pass\n",
            r"args.stride: needed",
        ),
    ],
)
def test_a_task_of_ones_own_is_checked_before_anything_runs(tmp_path: Path, source: str, message: str | None) -> None:
    (tmp_path / "mine.py").write_text(f"from pruning_bootcamp.tasks import Classification, Task\n{source}")
    name = f"{tmp_path / 'mine.py'}:Mine"
    if message is None:
        assert check_task(name, {}) == []
        assert isinstance(open_task(name), Task)
        return
    with pytest.raises(BootcampError, match=message):
        open_task(name)


def test_an_unknown_task_names_the_nearest() -> None:
    (problem,) = check_task("image_clasification", {})
    assert "Did you mean 'image_classification'?" in str(problem)
