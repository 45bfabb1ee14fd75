"""A training that was killed anywhere goes on and ends as if nothing had happened."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.training.hooks import Hook, StepState
from pruning_bootcamp.training.loop import fit

CPU = torch.device("cpu")
EVERY_STEP = "checkpoint_seconds=0"


def load(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "result.pth", weights_only=True)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Bit for bit: weights after every step, history (but for the clock), final weights."""
    assert one["sums"] == other["sums"]
    assert len(one["sums"]) == 15
    for mine, theirs in zip(one["history"], other["history"], strict=True):
        assert {k: v for k, v in mine.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}
    for name, value in one["weights"].items():
        assert torch.equal(value, other["weights"][name]), name


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(folder / "logs"), size_guidance={"scalars": 0})
    curves.Reload()
    return [(event.step, event.value) for event in curves.Scalars(tag)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, small: Any) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("unbroken")
    return {**whole(small, folder), "folder": folder}


def whole(small: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    """The program's training, in this process and never stopped."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    net, watch = small.small_net(), small.Watch()
    masks = {"3.weight": net[3].weight.detach().abs() > 0.05}
    settings = small.settings(**changes)
    result = fit(net, small.small_splits(), settings, device=CPU, folder=folder, seed=3, masks=masks, hooks=[watch])
    torch.set_num_threads(threads)
    return {
        "sums": watch.sums,
        "history": [vars(entry) for entry in result.history],
        "weights": net.state_dict(),
        "resumed": result.resumed_from_step,
    }


@pytest.mark.slow
def test_stopped_then_killed_then_run_again_it_ends_bit_for_bit_the_same(
    tmp_path: Path, start_training: Any, unbroken: dict[str, Any]
) -> None:
    stopped = start_training(str(tmp_path), "--stop-at", "4")
    assert stopped.returncode == -signal.SIGTERM, stopped.stderr
    assert "Interrupted at step 4" in stopped.stdout
    killed = start_training(str(tmp_path), "--kill-at", "8")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "result.pth").exists()
    again = start_training(str(tmp_path))
    assert again.returncode == 0, again.stderr
    result = load(tmp_path)
    assert result["resumed"] == 4  # steps 5 to 8, and the end of an epoch, were lost and are done again
    assert_same(result, unbroken)
    whole_curves, curves = unbroken["folder"], tmp_path
    for tag in ("train/loss", "lr", "train/accuracy", "val/loss", "val/accuracy"):  # each point once
        assert points(curves, tag) == points(whole_curves, tag)
    assert [step for step, _ in points(curves, "train/loss")] == list(range(1, 16))
    assert [step for step, _ in points(curves, "val/accuracy")] == [5, 10, 15]


def test_killed_right_behind_a_written_state_it_ends_bit_for_bit_the_same(
    tmp_path: Path, start_training: Any, unbroken: dict[str, Any], small: Any
) -> None:
    killed = start_training(str(tmp_path), "--kill-at", "11", EVERY_STEP)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = whole(small, tmp_path)
    assert result["resumed"] == 10  # the end of an epoch
    assert_same(result, unbroken)


class StopAt(Hook):
    """Presses Ctrl-C at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: StepState) -> None:
        if state.step == self.step:
            signal.raise_signal(signal.SIGINT)


class Nothing(StopAt):
    def on_step_end(self, state: StepState) -> None:
        pass


StopAt.__name__ = Nothing.__name__ = "Stop"  # the same hook as far as the resume point can tell


MANY_AT_ONCE = {
    "ema": 0.9,
    "mixup": 0.3,
    "cutmix": 1.0,
    "schedule": "onecycle",
    "bn_l1": 1e-4,
    "clip_grad_norm": 1.0,
    "warmup": "2it",
    "lr_factors": {"3.*": 0.5, "8": 3.0},
}


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "adamw", "lr": 0.003}, {"amp": "bf16", "channels_last": True}, {"amp": "fp16"}, MANY_AT_ONCE],
)
@pytest.mark.parametrize("step", [3, 5])
def test_ctrl_c_keeps_the_state_of_that_very_step(
    changes: dict[str, Any], step: int, tmp_path: Path, small: Any
) -> None:
    def train(folder: Path, hook: Hook) -> tuple[Any, Any]:
        net = small.small_net()
        masks = {"3.weight": net[3].weight.detach().abs() > 0.05}
        s = small.settings(**changes)
        result = fit(net, small.small_splits(), s, device=CPU, folder=folder, masks=masks, hooks=[hook])
        return net, result

    straight, whole_result = train(tmp_path / "a", Nothing(step))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", StopAt(step))
    resumed, result = train(tmp_path / "b", Nothing(step))
    assert result.resumed_from_step == step
    assert [e.train_loss for e in result.history] == [e.train_loss for e in whole_result.history]
    assert [e.val_loss for e in result.history] == [e.val_loss for e in whole_result.history]
    for (name, mine), theirs in zip(resumed.state_dict().items(), straight.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


def interrupted(small: Any, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(
            small.small_net(), small.small_splits(), small.settings(), device=CPU, folder=folder,
            hooks=[StopAt(4)], fingerprint="one",
        )  # fmt: skip


def test_the_state_of_another_training_is_refused_by_name(tmp_path: Path, small: Any) -> None:
    interrupted(small, tmp_path)
    with pytest.raises(BootcampError) as caught:
        fit(
            small.small_net(), small.small_splits(), small.settings(lr=0.01), device=CPU, folder=tmp_path,
            hooks=[Nothing(4)], fingerprint="two",
        )  # fmt: skip
    text = str(caught.value)
    assert "lr was 0.05 and is now 0.01" in text
    assert "fingerprint was one and is now two" in text
    assert "momentum" not in text
    assert "Delete" in text


def test_how_often_the_state_is_written_may_change(tmp_path: Path, small: Any) -> None:
    interrupted(small, tmp_path)
    result = fit(
        small.small_net(), small.small_splits(), small.settings(checkpoint_seconds=5.0), device=CPU, folder=tmp_path,
        hooks=[Nothing(4)], fingerprint="one",
    )  # fmt: skip
    assert result.resumed_from_step == 4


def test_the_state_opens_without_pickle_and_is_removed_by_cleanup(tmp_path: Path, small: Any) -> None:
    interrupted(small, tmp_path)
    state = torch.load(tmp_path / "training_state.pth", weights_only=True)
    assert state["step"] == 4
    assert state["optimizer"]["state"]
    result = fit(
        small.small_net(), small.small_splits(), small.settings(), device=CPU, folder=tmp_path,
        hooks=[Nothing(4)], fingerprint="one",
    )  # fmt: skip
    result.cleanup()
    assert not (tmp_path / "training_state.pth").exists()
    assert (tmp_path / "logs").is_dir()


def test_a_damaged_state_says_what_to_do(tmp_path: Path, small: Any) -> None:
    (tmp_path / "training_state.pth").write_bytes(b"half a fi")
    with pytest.raises(BootcampError, match=r"can't be read.*Delete"):
        fit(small.small_net(), small.small_splits(), small.settings(), device=CPU, folder=tmp_path)


def test_a_state_that_lacks_a_part_says_which(tmp_path: Path, small: Any) -> None:
    interrupted(small, tmp_path)
    path = tmp_path / "training_state.pth"
    state = torch.load(path, weights_only=True)
    del state["sums"]
    torch.save(state, path)
    with pytest.raises(BootcampError, match=r"lacks sums\. Delete"):
        fit(
            small.small_net(), small.small_splits(), small.settings(), device=CPU, folder=tmp_path,
            hooks=[Nothing(4)], fingerprint="one",
        )  # fmt: skip


def test_without_a_folder_nothing_is_written_and_ctrl_c_is_not_held_up(
    tmp_path: Path, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hook = small.Watch()
    with pytest.raises(KeyboardInterrupt):
        fit(small.small_net(), small.small_splits(), small.settings(), device=CPU, hooks=[StopAt(2), hook])
    assert len(hook.sums) == 1  # not even the rest of step 2
    assert list(tmp_path.iterdir()) == []


def test_the_callers_signal_handlers_are_back_afterwards(tmp_path: Path, small: Any) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(small.small_net(), small.small_splits(), small.settings(epochs="1it"), device=CPU, folder=tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
