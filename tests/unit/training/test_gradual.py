"""Gradual pruning: when it prunes, how much, and that a training stopped in the middle prunes the same."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning_bootcamp.duration import Duration
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.pruning.weights.unstructured import prune_unstructured
from pruning_bootcamp.schema import Choice
from pruning_bootcamp.tools.metrics import compute_sparsity
from pruning_bootcamp.training.gradual import GradualPruning, check_gradual, planned_sparsities, update_steps
from pruning_bootcamp.training.hooks import Hook, StepState
from pruning_bootcamp.training.loop import fit

CPU = torch.device("cpu")


class Stop(Hook):
    """The machine goes off after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: StepState) -> None:
        if state.step == self.step:
            raise KeyboardInterrupt


def train(small: Any, hook: GradualPruning, **more: Any) -> Any:
    net = more.pop("net", None) or small.small_net()
    masks, hooks, folder = more.pop("masks", None), more.pop("hooks", []), more.pop("folder", None)
    settings = small.settings(**{"epochs": 4, **more})
    result = fit(
        net, small.small_splits(), settings, device=CPU, seed=3, masks=masks, folder=folder, hooks=[hook, *hooks]
    )
    return net, result


def test_update_steps_by_hand() -> None:
    assert update_steps("0it", "10it", "4it", 12, 5) == [0, 4, 8, 10]
    assert update_steps("1ep", "2ep", "5it", 20, 10) == [10, 15, 20]
    assert update_steps("10%", "50%", "20%", 100, 7) == [10, 30, 50]
    assert update_steps(1, "100%", "1%", 4, 2) == [2, 3, 4]  # never less than a step


@given(
    begin=st.integers(0, 60), end=st.integers(1, 100), every=st.integers(1, 100), total=st.integers(2, 300)
)  # in percent
def test_updates_begin_where_asked_and_end_at_the_end(begin: int, end: int, every: int, total: int) -> None:
    if round(begin / 100 * total) >= round(end / 100 * total):
        with pytest.raises(BootcampError, match="must end after it begins"):
            update_steps(f"{begin}%", f"{end}%", f"{every}%", total, 3)
        return
    steps = update_steps(f"{begin}%", f"{end}%", f"{every}%", total, 3)
    assert (steps[0], steps[-1]) == (round(begin / 100 * total), round(end / 100 * total))
    assert all(earlier < later for earlier, later in pairwise(steps))


def test_the_plan_is_zhu_and_gupta_and_starts_from_what_is_there() -> None:
    plan = planned_sparsities([0, 2500, 5000, 7500, 10000], 0.0, 0.7, Choice("cubic"))
    assert [100 * value for value in plan.values()] == pytest.approx([0, 40.46875, 61.25, 68.90625, 70])
    # s_f + (s_i - s_f)(1 - t)^3, their equation 1
    plan = planned_sparsities([10, 20, 30], 0.2, 0.8, Choice("cubic"))
    assert plan == pytest.approx({10: 0.2, 20: 0.8 - 0.6 / 8, 30: 0.8})
    assert plan[30] == 0.8


def test_the_sparsity_grows_in_training_and_ends_exactly_at_the_target(small: Any) -> None:
    hook = GradualPruning(0.8, begin="2it", end="13it", frequency="4it", allocation="global")
    net, result = train(small, hook)
    assert [point.step for point in hook.points] == [2, 6, 10, 13]
    size = sum(mask.numel() for mask in result.masks.values())
    expected = [0, *(round(size * 0.8 * (1 - (1 - (t - 2) / 11) ** 3)) for t in (6, 10)), round(size * 0.8)]
    assert [point.sparsity for point in hook.points] == pytest.approx([zeros / size for zeros in expected], abs=2e-6)
    assert sum(int((~mask).sum()) for mask in result.masks.values()) == round(0.8 * size)
    for name, mask in hook.masks.items():
        assert torch.equal(mask, result.masks[name])
        assert net.get_parameter(name)[~mask].count_nonzero() == 0


def test_what_was_pruned_stays_pruned(small: Any) -> None:
    class Watch(Hook):
        def __init__(self) -> None:
            self.seen: list[dict[str, torch.Tensor]] = []

        def on_step_end(self, state: StepState) -> None:
            self.seen.append({name: mask.clone() for name, mask in state.masks.items()})

    watch = Watch()
    train(small, GradualPruning(0.9, end="15it", frequency="1it", schedule="linear"), hooks=[watch])
    changes = 0
    for earlier, later in pairwise(watch.seen):
        for name, mask in earlier.items():
            assert not (later[name] & ~mask).any(), "a pruned weight came back"
            changes += int((mask & ~later[name]).sum())
    assert changes > 100


@pytest.mark.parametrize("end", ["12it", "20it"])
def test_the_best_epoch_is_one_of_the_final_sparsity(end: str, small: Any) -> None:
    """5 steps an epoch: pruning ends within the third epoch of four, or with the last step of all."""
    hook = GradualPruning(0.95, begin="1it", end=end, frequency="3it")
    net, result = train(small, hook)
    first = math.ceil(hook.points[-1].step / 5)
    assert result.best_epoch >= first
    assert result.best_score == max(entry.val_accuracy for entry in result.history[first - 1 :])
    assert compute_sparsity(net, result.masks).total == pytest.approx(0.95, abs=1e-3)


def test_growth_starts_from_the_zeros_of_the_checkpoint(small: Any) -> None:
    net = small.small_net()
    before = prune_unstructured(net, sparsity=0.5, allocation="global").masks
    hook = GradualPruning(0.7, end="10it", frequency="5it", schedule="linear", allocation="global")
    _, result = train(small, hook, net=net, masks=before)
    assert [point.sparsity for point in hook.points] == pytest.approx([0.5, 0.6, 0.7], abs=1e-3)
    for name, mask in before.items():
        assert not (result.masks[name] & ~mask).any()


def test_less_than_is_there_is_refused_before_the_first_step(small: Any) -> None:
    net = small.small_net()
    before = prune_unstructured(net, sparsity=0.5).masks
    weights = detached_copy(net).state_dict()
    with pytest.raises(BootcampError, match=r"below the 0\.5"):
        train(small, GradualPruning(0.3), net=net, masks=before)
    assert all(torch.equal(weights[name], value) for name, value in net.state_dict().items())


def test_one_shot_at_the_beginning_is_pruning_before_the_training(small: Any) -> None:
    """An independent answer: the same masks as the engine gives on the untrained network."""
    hook = GradualPruning(0.6, schedule="one_shot", end="10it", frequency="5it")
    _, result = train(small, hook)
    masks = prune_unstructured(small.small_net(), sparsity=0.6).masks
    assert all(torch.equal(masks[name], result.masks[name]) for name in masks)


@pytest.mark.parametrize("stop", [1, 6, 13, 19])
def test_stopped_in_the_middle_it_ends_bit_for_bit_the_same(stop: int, small: Any, tmp_path: Any) -> None:
    images = small.small_splits().train
    batch = ((images.fetch(torch.arange(64)).float() / 255 - 0.3) / 0.4, images.labels[:64])

    def hook() -> GradualPruning:
        choices = {"score": "taylor", "allocation": "global"}
        return GradualPruning(0.8, end="13it", frequency="3it", **choices, batches=lambda: [batch])

    whole = hook()
    net, result = train(small, whole)
    with pytest.raises(KeyboardInterrupt):
        train(small, hook(), hooks=[Stop(stop)], folder=tmp_path, checkpoint_seconds=0)
    again = hook()
    other, resumed = train(small, again, hooks=[Stop(99)], folder=tmp_path)
    assert resumed.resumed_from_step == max(stop - 1, 0)
    assert again.points == whole.points
    assert again.masks.keys() == whole.masks.keys()
    assert all(torch.equal(net.state_dict()[name], value) for name, value in other.state_dict().items())
    assert [entry.val_loss for entry in result.history] == [entry.val_loss for entry in resumed.history]


@pytest.mark.parametrize(
    ("begin", "end", "frequency", "training", "message"),
    [
        ("0it", "x", "5it", None, "prune.end: 'x' is no time in a training"),
        ("0it", "120%", "5it", None, "prune.end: '120%' is not a share"),
        ("50%", "40%", "5%", Duration(3, "ep"), "prune.end: pruning from 50% to 40% does not fit into 3ep"),
        ("0it", "900it", "5%", Duration(500, "it"), "does not fit into 500it"),
        ("1ep", "4ep", "5%", Duration(3, "ep"), "does not fit into 3ep"),
    ],
)
def test_times_that_can_not_be_are_refused(
    begin: str, end: str, frequency: str, training: Duration | None, message: str
) -> None:
    (problem,) = check_gradual(begin, end, frequency, training)
    assert message in str(problem)


def test_times_in_steps_of_a_training_in_epochs_are_checked_when_it_starts(small: Any) -> None:
    assert check_gradual("0it", "900it", "5it", Duration(4, "ep")) == []
    with pytest.raises(BootcampError, match="900it does not fit into 20 steps of training; here steps 0 and 900"):
        train(small, GradualPruning(0.5, end="900it"))
