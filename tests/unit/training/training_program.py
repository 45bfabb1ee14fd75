"""A small training on real digits as a program, for tests that kill it or run several of it.

`training_program.py FOLDER [--kill-at STEP] [--stop-at STEP] [--fail-rank RANK] [key=value settings]` writes
FOLDER/result.pth (losses by step, history, weights) when the training ends.
"""

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from pruning_bootcamp.schema import named
from pruning_bootcamp.tools.datasets import ImageSplit, Splits
from pruning_bootcamp.training.distributed import end_process
from pruning_bootcamp.training.hooks import Hook, StepState
from pruning_bootcamp.training.loop import fit
from pruning_bootcamp.training.settings import TrainSettings


def small_splits(images: int = 150) -> Splits:
    """Real digits: `images` for training, 100 for validation, 100 for the test."""
    digits = load_digits()
    pixels = torch.tensor(digits.images * (255 / 16)).to(torch.uint8)[:, None]
    labels = torch.tensor(digits.target)
    train, val, test = (
        ImageSplit(pixels[start:end], labels[start:end]) for start, end in ((200, 200 + images), (0, 100), (100, 200))
    )
    return Splits(
        name="digits",
        train=train,
        val=val,
        test=test,
        class_names=tuple(str(digit) for digit in range(10)),
        shape=(1, 8, 8),
        mean=(0.3,),
        std=(0.4,),
        augment=(),
    )


def small_net(norm: bool = True, dropout: float = 0.2) -> nn.Module:
    """Convolutions with batch norm and dropout (or without), always the same start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.BatchNorm2d(12) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(192, 10),
        )


def settings(**changes: Any) -> TrainSettings:
    """3 epochs of 5 steps, the last of them shorter; changes given as plain values."""
    plain: dict[str, Any] = {"epochs": 3, "batch_size": 32, "lr": 0.05, "schedule": "cosine"}
    return named(TrainSettings, **plain | changes)


class Watch(Hook):
    """Keeps what the weights were after each step; kills, stops or fails the process where told."""

    def __init__(self, kill_at: int | None = None, stop_at: int | None = None, fail_at: int | None = None) -> None:
        self.kill_at, self.stop_at, self.fail_at = kill_at, stop_at, fail_at
        self.sums: dict[str, float] = {}

    def on_step_end(self, state: StepState) -> None:
        # tells the smallest difference between two runs, step by step
        self.sums[str(state.step)] = sum(p.detach().double().sum().item() for p in state.model.parameters())
        if state.step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if state.step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if state.step == self.fail_at:
            raise RuntimeError("this process was told to fail")

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.sums = saved["sums"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name in ("--kill-at", "--stop-at", "--fail-rank"):
        parser.add_argument(name, type=int)
    parser.add_argument("--plain-net", action="store_true")
    parser.add_argument("changes", nargs="*")
    return parser.parse_intermixed_args()


def main() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    given = arguments()
    changes = {key: json.loads(value) for key, _, value in (change.partition("=") for change in given.changes)}
    rank = int(os.environ.get("RANK", "0"))
    watch = Watch(given.kill_at, given.stop_at, 2 if given.fail_rank == rank else None)
    net = small_net(norm=False, dropout=0.0) if given.plain_net else small_net()
    masks = {"3.weight": net[3].weight.detach().abs() > 0.05}
    result = fit(
        net,
        small_splits(),
        settings(**changes),
        device=torch.device("cpu"),
        folder=given.folder,
        seed=3,
        masks=masks,
        hooks=[watch],
    )
    content = {
        "sums": watch.sums,
        "history": [vars(entry) for entry in result.history],
        "weights": net.state_dict(),
        "resumed": result.resumed_from_step,
        "best": result.best_epoch,
    }
    if rank == 0:
        torch.save(content, given.folder / "result.pth")


if __name__ == "__main__":
    main()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        end_process(0)
