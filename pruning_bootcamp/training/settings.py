"""What a training can be told, and what is wrong with it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pruning_bootcamp.duration import Duration
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.training.optim import LR_SCHEDULES, OPTIMIZERS, learning_rate


@dataclass(frozen=True)
class FitSettings:
    """Settings of `fit`. The defaults are the published CIFAR recipe (He et al., 2016), shortened."""

    epochs: Duration = Duration(30, "ep")
    batch_size: int = 128  # images per optimiser step, over all processes
    lr: float = 0.1  # at its peak
    optimizer: str = "sgd"
    optimizer_args: Mapping[str, Any] = field(default_factory=dict)
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    schedule_args: Mapping[str, Any] = field(default_factory=dict)
    warmup: Duration = Duration(0, "ep")  # part of `epochs`
    label_smoothing: float = 0.0
    mixup: float = 0.0  # alpha of the Beta distribution (Zhang et al., 2018); 0: pairs are not mixed
    ema: float | None = None  # decay of the moving average that is evaluated and kept
    amp: Literal["bf16", "fp16"] | None = None
    channels_last: bool = False
    compile: bool = False
    clip_grad_norm: float | None = None
    early_stopping: int | None = None  # epochs without a better validation accuracy
    bn_l1: float = 0.0  # L1 penalty on batch-norm scales (Network Slimming)
    augment: tuple[str | tuple[str, dict[str, Any]], ...] | None = None  # None: the dataset's own
    checkpoint_seconds: float = 30.0  # how often the training state is written
    keep_best: bool = True  # end with the weights of the best epoch by validation accuracy; else with the last ones


def check_settings(settings: FitSettings, where: str = "train") -> list[str]:
    """Every problem with the settings that can be seen before any work."""
    s = settings
    problems = []
    for registry, name, choice, args in (
        (OPTIMIZERS, "optimizer", s.optimizer, s.optimizer_args),
        (LR_SCHEDULES, "schedule", s.schedule, s.schedule_args),
    ):
        problems += registry.check(choice, args, f"{where}.{name}")[1]
    ranges: tuple[tuple[str, float | None, float, float, str], ...] = (
        ("batch_size", s.batch_size, 1, math.inf, "at least 1"),
        ("weight_decay", s.weight_decay, 0, math.inf, "0 or more"),
        ("label_smoothing", s.label_smoothing, 0, 1 - 1e-9, "in [0, 1)"),
        ("mixup", s.mixup, 0, math.inf, "0 or more"),
        ("bn_l1", s.bn_l1, 0, math.inf, "0 or more"),
        ("lr", s.lr, 5e-324, math.inf, "above 0"),
        ("ema", s.ema, 1e-9, 1 - 1e-9, "in (0, 1)"),
        ("clip_grad_norm", s.clip_grad_norm, 5e-324, math.inf, "above 0"),
        ("early_stopping", s.early_stopping, 1, math.inf, "at least 1"),
        ("checkpoint_seconds", s.checkpoint_seconds, 0, math.inf, "0 or more"),
        ("epochs", s.epochs.value, 1, math.inf, "at least 1"),
    )
    for name, value, low, high, wanted in ranges:
        if value is not None and not low <= value <= high:
            problems.append(f"{where}.{name}: {value} is not {wanted}.")
    if s.epochs.unit == s.warmup.unit and s.warmup.value >= s.epochs.value > 0:
        problems.append(f"{where}.warmup: {s.warmup} leaves nothing of {where}.epochs={s.epochs}.")
    if not problems:
        try:  # the schedule's own complaints about its arguments
            learning_rate(0, 1, lr=s.lr, schedule=s.schedule, schedule_args=s.schedule_args)
        except BootcampError as error:
            problems += [f"{where}.{problem}" for problem in error.problems]
    return problems
