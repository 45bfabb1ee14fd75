"""fit(): it learns, what was pruned stays pruned, the best epoch is kept, and everything else is left as found."""

import copy
import logging
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Measurement, evaluate
from pruning_bootcamp.tools.datasets import ImageSplit, Split, TrainBatches, eval_batches
from pruning_bootcamp.training.hooks import Hook, StepState
from pruning_bootcamp.training.loop import fit
from pruning_bootcamp.training.optim import learning_rate

CPU = torch.device("cpu")


def judged(net: nn.Module, splits: Any) -> Measurement:
    batches = eval_batches(splits.val, batch_size=100, mean=splits.mean, std=splits.std, device=CPU)
    return evaluate(net, batches, IMAGE_CLASSIFICATION)


def test_it_learns_real_digits_and_keeps_the_best_epoch(small: Any) -> None:
    splits = small.small_splits(1400)
    net = small.small_net()
    result = fit(net, splits, small.settings(epochs=6, lr=0.1), device=CPU)
    assert result.best_score >= 93
    assert result.best_score == max(entry.val_accuracy for entry in result.history)
    found = judged(net, splits)
    assert found.score == result.best_score
    assert found.loss == pytest.approx(result.history[result.best_epoch - 1].val_loss, rel=1e-6)


def test_the_steps_are_those_of_a_plain_loop(small: Any) -> None:
    """The same batches through ten lines of torch give the same weights."""
    splits, settings = small.small_splits(), small.settings(epochs=2)
    theirs = small.small_net(dropout=0.0)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=5e-4)
    data = TrainBatches(splits.train, batch_size=32, seed=5, augment=(), mean=splits.mean, std=splits.std, device=CPU)
    step = 0
    for epoch in range(2):
        for batch in data.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (1 + math.cos(math.pi * step / 10)) / 2
            optimizer.zero_grad()
            F.cross_entropy(theirs(batch.images), batch.labels).backward()
            optimizer.step()
            step += 1
    last: dict[str, Any] = {}

    class Last(Hook):
        def on_step_end(self, state: StepState) -> None:
            last.update({name: value.clone() for name, value in state.model.state_dict().items()})

    mine = small.small_net(dropout=0.0)
    result = fit(mine, splits, settings, device=CPU, seed=5, hooks=[Last()])
    assert result.steps == step == 10
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(last[name], value, rtol=1e-4, atol=1e-6)


class AlwaysZero(Hook):
    """Counts pruned weights that are not exactly zero, after each step."""

    def __init__(self, masks: dict[str, torch.Tensor]) -> None:
        self.masks, self.steps, self.alive = masks, 0, 0

    def on_step_end(self, state: StepState) -> None:
        weights = dict(state.model.named_parameters())
        self.alive += sum(int(weights[name][~mask].count_nonzero()) for name, mask in self.masks.items())
        self.steps += 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "lr": 0.01},
        {"ema": 0.9, "clip_grad_norm": 0.5, "mixup": 0.4, "cutmix": 0.4, "bn_l1": 1e-3},
        {"amp": "bf16", "channels_last": True},
        {"amp": "fp16", "weight_decay": 0.1},
    ],
)
def test_what_was_pruned_stays_pruned(changes: dict[str, Any], small: Any) -> None:
    net = small.small_net()
    masks = {name: net.get_parameter(name).detach().abs() > 0.05 for name in ("0.weight", "3.weight", "8.weight")}
    watch = AlwaysZero(masks)
    result = fit(net, small.small_splits(), small.settings(**changes), device=CPU, masks=masks, hooks=[watch])
    assert watch.steps == 15
    assert watch.alive == 0
    for name, mask in masks.items():
        weight = net.get_parameter(name)
        assert weight[~mask].count_nonzero() == 0
        assert not torch.signbit(weight[~mask]).any()  # plain zeros, not negative ones
        assert weight[mask].count_nonzero() > 0.99 * mask.sum()
        assert torch.equal(result.masks[name], mask)


def test_masks_that_fit_nothing_are_named(small: Any) -> None:
    masks = {"3.wieght": torch.ones(12, 8, 3, 3), "8.weight": torch.ones(3)}
    with pytest.raises(BootcampError) as caught:
        fit(small.small_net(), small.small_splits(), small.settings(), device=CPU, masks=masks)
    assert "Did you mean '3.weight'?" in str(caught.value)
    assert "the mask of 8.weight is (3,)" in str(caught.value)


class PruneAt(Hook):
    """Prunes half of a layer after some steps, as gradual pruning does; says the same again at every later step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: StepState) -> None:
        if state.step == self.step:
            weight = state.model.get_parameter("3.weight").detach()
            self.masks = {"3.weight": weight.abs() > weight.abs().median()}
        if state.step >= self.step:
            state.set_masks(self.masks)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_masks_set_on_the_way_hold_and_older_bests_do_not_count(ema: float | None, small: Any) -> None:
    net = small.small_net()
    worse_and_worse = small.settings(epochs=4, ema=ema, schedule="onecycle", schedule_args={"peak": 0.99}, lr=1.0)
    result = fit(net, small.small_splits(), worse_and_worse, device=CPU, hooks=[PruneAt(12)])
    accuracies = [entry.val_accuracy for entry in result.history]
    assert result.best_score == max(accuracies[2:])  # epochs 1 and 2 were of the dense network
    assert result.best_epoch == 3 + accuracies[2:].index(max(accuracies[2:]))
    assert net.get_parameter("3.weight").eq(0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert result.masks["3.weight"].float().mean() == pytest.approx(0.5, abs=0.01)


def test_modes_random_state_and_threads_are_left_as_found(small: Any) -> None:
    net, teacher = small.small_net().eval(), small.small_net().train()
    net[1].train()
    torch.manual_seed(11)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    teacher_before = copy.deepcopy(teacher.state_dict())
    fit(net, small.small_splits(), small.settings(channels_last=True), device=CPU, teacher=teacher)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert [module.training for module in net] == [index == 1 for index in range(9)]
    assert all(module.training for module in teacher.modules())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, teacher_before[name]), name
    assert all(parameter.grad is None and parameter.is_contiguous() for parameter in net.parameters())


def test_random_state_before_does_not_matter_but_the_seed_does(small: Any) -> None:
    def losses(seed: int) -> list[float]:
        torch.rand(torch.randint(1, 9, ()).item())
        result = fit(small.small_net(dropout=0.5), small.small_splits(), small.settings(), device=CPU, seed=seed)
        return [entry.train_loss for entry in result.history]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_the_test_split_is_never_read(small: Any) -> None:
    class Forbidden(Split):
        def __init__(self) -> None:
            pass

        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"the test split was asked for {name}")

        def __len__(self) -> int:
            raise AssertionError("the test split was asked for its length")

    splits = replace(small.small_splits(), test=Forbidden())
    assert fit(small.small_net(), splits, small.settings(epochs=1), device=CPU).steps == 5


def test_each_epoch_leaves_one_entry_and_one_line(small: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pruning_bootcamp"):
        result = fit(small.small_net(), small.small_splits(), small.settings(epochs="12it"), device=CPU)
    assert [(entry.epoch, entry.steps) for entry in result.history] == [(1, 5), (2, 10), (3, 12)]
    expected = learning_rate(11, 12, lr=0.05, schedule="cosine", schedule_args={})
    assert result.history[-1].lr == pytest.approx(expected)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Epoch ")]
    assert len(lines) == 3
    first = result.history[0]
    assert lines[0].startswith(
        f"Epoch 1/3: train loss {first.train_loss:.3f}, train acc {first.train_accuracy:.2f}%, "
        f"val loss {first.val_loss:.3f}, val acc {first.val_accuracy:.2f}% ("
    )


def test_it_stops_early_when_nothing_improves(small: Any) -> None:
    settings = small.settings(epochs=30, lr=1e-12, weight_decay=0.0, early_stopping=2, schedule="constant")
    net = small.small_net(norm=False)  # nothing moves: no running statistics, no learning rate to speak of
    result = fit(net, small.small_splits(), settings, device=CPU)
    assert (result.best_epoch, len(result.history)) == (1, 3)


def test_a_diverging_loss_stops_with_the_step_and_advice(small: Any) -> None:
    class Poison(Hook):
        def on_step_end(self, state: StepState) -> None:
            if state.step == 7:
                with torch.no_grad():
                    state.model.get_parameter("8.bias")[0] = float("inf")

    with pytest.raises(BootcampError) as caught:
        fit(small.small_net(), small.small_splits(), small.settings(), device=CPU, hooks=[Poison()])
    text = str(caught.value)
    assert "step 8: the loss is" in text
    assert "learning rate 0.0" in text
    assert "lower learning rate" in text


def test_the_last_good_state_survives_a_diverging_loss(small: Any, tmp_path: Any) -> None:
    settings = small.settings(lr=1e30, weight_decay=0.0, checkpoint_seconds=0.0)
    with pytest.raises(BootcampError, match=r"step \d+: the loss is"):
        fit(small.small_net(), small.small_splits(), settings, device=CPU, folder=tmp_path)
    state = torch.load(tmp_path / "training_state.pth", weights_only=True)
    assert math.isfinite(state["sums"]["loss"])
    assert state["step"] >= 1


def test_wrong_classes_and_empty_validation_are_said(small: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    with pytest.raises(BootcampError, match="7 classes, and the data has 10"):
        fit(net, small.small_splits(), small.settings(), device=CPU)
    splits = small.small_splits()
    empty = ImageSplit(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.long))
    with pytest.raises(BootcampError, match="no validation image"):
        fit(small.small_net(), replace(splits, val=empty), small.settings(), device=CPU)
    with pytest.raises(BootcampError, match="not one row of class scores"):
        fit(nn.Conv2d(1, 10, 3), splits, small.settings(), device=CPU)


def test_all_wrong_settings_are_said_at_once(small: Any) -> None:
    settings = small.settings(
        lr=-1.0, optimizer="sgdd", label_smoothing=1.0, ema=1.0, epochs=2, warmup=3, lr_factors={"3": 1, "8": -2.0}
    )
    with pytest.raises(BootcampError) as caught:
        fit(small.small_net(), small.small_splits(), settings, device=CPU)
    text = str(caught.value)
    assert len(caught.value.problems) == 6
    for part in (
        "Did you mean 'sgd'?",
        "train.lr: -1.0",
        "train.label_smoothing",
        "train.ema",
        "train.warmup: 3ep",
        "train.lr_factors: 8: -2.0 is",
    ):
        assert part in text


def test_clipping_bounds_the_step(small: Any) -> None:
    class Moves(Hook):
        def __init__(self) -> None:
            self.before: torch.Tensor | None = None
            self.longest = 0.0

        def on_step_end(self, state: StepState) -> None:
            now = nn.utils.parameters_to_vector(state.model.parameters()).detach()
            if self.before is not None:
                self.longest = max(self.longest, (now - self.before).norm().item())
            self.before = now

    def longest(clip: float | None) -> float:
        plain = {"momentum": 0.0, "nesterov": False}
        settings = small.settings(
            lr=0.5, weight_decay=0.0, schedule="constant", optimizer_args=plain, clip_grad_norm=clip
        )
        moves = Moves()
        fit(small.small_net(), small.small_splits(), settings, device=CPU, hooks=[moves])
        return moves.longest

    assert longest(0.01) <= 0.5 * 0.01 * 1.001
    assert longest(None) > 0.05


def test_factors_of_the_learning_rate_hold_through_its_schedule(small: Any) -> None:
    plain = {"momentum": 0.0, "nesterov": False}
    net, start = small.small_net(), small.small_net()
    settings = small.settings(lr=0.1, optimizer_args=plain, warmup="2it", lr_factors={"3": 0, "8.bias": 0.5})
    factors: list[tuple[float, ...]] = []

    class Rates(Hook):
        def on_step_end(self, state: StepState) -> None:
            groups = state.optimizer.param_groups
            factors.append(tuple(group["lr"] / groups[0]["lr"] for group in groups))

    result = fit(net, small.small_splits(), settings, device=CPU, hooks=[Rates()])
    assert {tuple(map(float, row)) for row in factors} == {(1.0, 0.0, 0.5)}
    assert torch.equal(net[3].weight, start[3].weight)
    assert not torch.equal(net[0].weight, start[0].weight)
    assert [entry.lr for entry in result.history] == [
        entry.lr
        for entry in fit(
            small.small_net(), small.small_splits(), small.settings(lr=0.1, warmup="2it"), device=CPU
        ).history
    ], "the rate that is told is the one without factors"


def test_the_moving_average_is_what_is_evaluated_and_kept(small: Any) -> None:
    averages: dict[str, torch.Tensor] = {}

    class ByHand(Hook):
        def on_step_end(self, state: StepState) -> None:
            decay = min(0.7, (1 + state.step) / (10 + state.step))
            for name, value in state.model.state_dict().items():
                if value.is_floating_point():
                    averages[name] = decay * averages[name] + (1 - decay) * value
                else:
                    averages[name] = value.clone()

    net, splits = small.small_net(), small.small_splits()
    averages.update({name: value.clone() for name, value in net.state_dict().items()})
    result = fit(net, splits, small.settings(epochs="5it", ema=0.7), device=CPU, hooks=[ByHand()])
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, averages[name], rtol=1e-5, atol=1e-6)
    assert judged(net, splits).score == result.best_score


def test_a_teacher_is_followed_where_labels_lie(small: Any) -> None:
    """All labels of the training images are wrong; with the teacher's word alone the network still learns."""
    splits = small.small_splits(1000)
    teacher = small.small_net()
    fit(teacher, splits, small.settings(epochs=4), device=CPU)
    lies = ImageSplit(splits.train.images, (splits.train.labels + 1) % 10)
    told = replace(splits, train=lies)
    student = small.small_net()
    fit(student, told, small.settings(epochs=4), device=CPU, teacher=teacher, distill_weight=1.0)
    assert judged(student, splits).score > 80
    misled = small.small_net()
    fit(misled, told, small.settings(epochs=4), device=CPU)
    assert judged(misled, splits).score < 20


def test_distillation_is_hintons_formula() -> None:
    student, teacher, temperature = torch.tensor([[1.0, 3.0, 0.5]]), torch.tensor([[2.0, 0.0, 1.0]]), 4.0
    p = [math.exp(v / temperature) for v in teacher[0].tolist()]
    q = [math.exp(v / temperature) for v in student[0].tolist()]
    p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
    by_hand = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert IMAGE_CLASSIFICATION.distance(student, teacher, temperature).item() == pytest.approx(by_hand, rel=1e-5)


def test_main_output_of_a_network_with_auxiliary_heads(small: Any) -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.side = nn.Linear(64, 10), nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> Any:
            from torchvision.models import GoogLeNetOutputs

            x = x.flatten(1)
            return GoogLeNetOutputs(self.main(x), self.side(x), None) if self.training else self.main(x)

    result = fit(TwoHeads(), small.small_splits(), small.settings(epochs=8), device=CPU)
    assert result.best_score > 60


def test_a_folder_that_can_not_be_one_is_said(small: Any, tmp_path: Any) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BootcampError, match="a file stands where a folder is needed"):
        fit(small.small_net(), small.small_splits(), small.settings(), device=CPU, folder=tmp_path / "taken")


@pytest.mark.slow
def test_compiled_training_keeps_plain_names_and_learns(small: Any, tmp_path: Any) -> None:
    net = small.small_net()
    settings = small.settings(compile=True, checkpoint_seconds=0.0)
    result = fit(net, small.small_splits(), settings, device=CPU, folder=tmp_path)
    plain = fit(small.small_net(), small.small_splits(), small.settings(), device=CPU)
    state = torch.load(tmp_path / "training_state.pth", weights_only=True)
    assert list(state["model"]) == list(small.small_net().state_dict())
    # dropout is drawn otherwise in compiled code, so alike, not equal
    assert result.history[-1].train_loss == pytest.approx(plain.history[-1].train_loss, rel=0.2)
