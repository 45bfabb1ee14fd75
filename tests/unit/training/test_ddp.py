"""Two processes under torchrun train as one: the same curve for the same global batch, and no waiting for the dead."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning_bootcamp.training.loop import fit

# 150 images in batches of 33: every batch is shared unequally, and the last one of an epoch is smaller
BATCH = 33


@pytest.fixture(scope="module")
def alone(small: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    net, watch = small.small_net(norm=False, dropout=0.0), small.Watch()
    masks = {"3.weight": net[3].weight.detach().abs() > 0.05}
    result = fit(
        net,
        small.small_splits(),
        small.settings(batch_size=BATCH, clip_grad_norm=2.0),
        device=torch.device("cpu"),
        folder=tmp_path_factory.mktemp("alone"),
        seed=3,
        masks=masks,
        hooks=[watch],
    )
    return {"sums": watch.sums, "history": [vars(entry) for entry in result.history], "weights": net.state_dict()}


def test_two_processes_give_the_curve_of_one(tmp_path: Path, start_training: Any, alone: dict[str, Any]) -> None:
    arguments = (str(tmp_path), "--plain-net", f"batch_size={BATCH}", "clip_grad_norm=2.0")
    # stopped in between, so that going on is tested too; torchrun itself reports the signal as a failure
    stopped = start_training(*arguments, "--stop-at", "7", processes=2)
    assert stopped.returncode != 0
    assert stopped.stdout.count("Interrupted at step 7") == 1
    finished = start_training(*arguments, processes=2)
    assert finished.returncode == 0, finished.stderr
    together = torch.load(tmp_path / "result.pth", weights_only=True)
    assert together["resumed"] == 7
    assert len(together["sums"]) == len(alone["sums"]) == 15
    for step, value in alone["sums"].items():
        assert together["sums"][step] == pytest.approx(value, abs=1e-4), f"step {step}"
    for mine, theirs in zip(together["history"], alone["history"], strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert mine["train_accuracy"] == pytest.approx(theirs["train_accuracy"], abs=0.67)  # one image on the border
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-5)
        assert mine["val_accuracy"] == pytest.approx(theirs["val_accuracy"], abs=1.01)
    for name, value in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], value, rtol=1e-4, atol=1e-5)
    assert together["weights"]["3.weight"].eq(0).sum() == alone["weights"]["3.weight"].eq(0).sum() > 0
    # only the leader speaks and draws: one line an epoch from each of the two runs' parts, three in all
    assert (stopped.stdout + finished.stdout).count("val acc") == 3
    assert len(list((tmp_path / "logs").iterdir())) == 2


@pytest.mark.slow
def test_a_failing_process_does_not_leave_the_other_waiting(tmp_path: Path, start_training: Any) -> None:
    begun = time.monotonic()
    failed = start_training(str(tmp_path), "--plain-net", "--fail-rank", "1", processes=2)
    assert failed.returncode != 0
    assert "told to fail" in failed.stderr
    assert time.monotonic() - begun < 90
