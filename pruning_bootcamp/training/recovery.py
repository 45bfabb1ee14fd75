"""Recovery without labels, right after pruning: distillation from the dense network."""

import contextlib
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import from_plain, to_plain
from pruning_bootcamp.results import Distillation
from pruning_bootcamp.runs import read_yaml, write_yaml
from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.schema import Choice
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.tools.datasets import Splits, eval_batches
from pruning_bootcamp.tools.modes import detached_clone, evaluation_mode
from pruning_bootcamp.training.batch_norm import frozen_batch_norm
from pruning_bootcamp.training.distributed import World, join_world
from pruning_bootcamp.training.hooks import Hook
from pruning_bootcamp.training.loop import FitResult, fit
from pruning_bootcamp.training.settings import FROZEN_CLIP, RecoverSettings, TrainSettings

PLAN = "plan.yaml"
_TRIALS, _TRIAL_STEPS = 3, 6
# Evaluation after each epoch, progress and checkpoints come on top of the steps.
_OVERHEAD = 1.08
# bfloat16 must be quicker by this much before its rounding is worth it.
_WORTHWHILE = 1.15
_AMP: Mapping[str | None, Literal["bf16", "fp16"] | None] = {None: None, "bf16": "bf16", "fp16": "fp16"}


def distill(
    model: nn.Module,
    dense: nn.Module,
    splits: Splits,
    settings: RecoverSettings,
    *,
    device: torch.device,
    folder: Path | None,
    logs: Path | None = None,
    seed: int,
    masks: Mapping[str, Tensor] | None,
    fingerprint: str,
    hooks: Sequence[Hook] = (),
    augment: list[str] | None = None,
    checkpoint_seconds: float = 30.0,
    task: Task = IMAGE_CLASSIFICATION,
) -> tuple[FitResult, Distillation]:
    """Train `model` in place to follow the dense network on training images whose labels are never looked at.

    The loss is the divergence from the dense network's softened outputs (Hinton et al., 2015) and the distance of the
    blocks' outputs (Romero et al., 2015); weights that `masks` prune stay zero; the last weights are kept; batch norms
    keep their statistics where the settings say so. Where
    `minutes` are given, a short trial says how many steps fit in; number and precision are written to `folder` first,
    so that a killed run goes on with the same ones. `hooks` as in `fit`; `augment` and
    `checkpoint_seconds` as in its settings. Returns what the training did, and the plan.
    """
    labelled = _labelled_by(dense, splits, settings, device, seed, task)
    steps_per_epoch = max(1, len(labelled.train) // settings.batch_size)
    base = TrainSettings(
        epochs=f"{settings.steps}it",
        batch_size=min(settings.batch_size, len(labelled.train)),
        lr=settings.lr,
        lr_factors=settings.lr_factors,
        mixup=settings.mixup,
        cutmix=settings.cutmix,
        weight_decay=0.0,
        schedule=Choice("cosine"),
        warmup=f"{min(settings.steps // 10, 2 * steps_per_epoch)}it",
        clip_grad_norm=settings.clip_grad_norm or (FROZEN_CLIP if settings.freeze_batch_norm else None),
        channels_last=True,
        amp=None if settings.amp == "auto" else settings.amp,
        augment=augment,
        checkpoint_seconds=checkpoint_seconds,
    )

    def run(
        network: nn.Module, chosen: TrainSettings, where: Path | None = None, with_hooks: Sequence[Hook] | None = None
    ) -> FitResult:
        with frozen_batch_norm(network, settings.freeze_batch_norm):
            return fit(
                network,
                labelled,
                chosen,
                device=device,
                folder=where,
                logs=logs if where is not None else None,
                seed=seed,
                keep_best=False,
                masks=masks,
                teacher=dense,
                distill_weight=1.0,
                distill_temperature=settings.temperature,
                feature_weight=settings.features,
                hooks=with_hooks or (),
                progress=with_hooks is not None,
                label="distill",
                fingerprint=fingerprint,
                task=task,
            )

    world = join_world(device)
    plan = _read_plan(folder, fingerprint) if world.leads else None
    # the leader's folder and clock count: with other numbers of steps the processes would wait for each other for ever
    if not world.leaders([plan is not None])[0]:
        plan = _plan(settings, base, lambda chosen: run(detached_clone(model), chosen))
        if folder is not None and world.leads:
            write_yaml(folder / PLAN, to_plain(plan) | {"fingerprint": fingerprint})
    plan = _leaders_plan(world, plan)
    final = replace(
        base,
        epochs=f"{plan.steps}it",
        warmup=f"{min(plan.steps // 10, 2 * steps_per_epoch)}it",
        amp=_AMP[plan.amp],
    )
    return run(model, final, folder, hooks), plan


def _plan(settings: RecoverSettings, base: TrainSettings, trial: Callable[[TrainSettings], FitResult]) -> Distillation:
    """Steps and precision, by a trial on a copy where the settings leave them open."""
    amp, most = base.amp, settings.steps
    if settings.minutes is None and settings.amp != "auto":
        return Distillation(steps=most, amp=amp)
    candidates: list[Literal["bf16", "fp16"] | None] = [None, "bf16"] if settings.amp == "auto" else [amp]
    speeds: dict[str | None, float] = dict.fromkeys(candidates, 0.0)
    for attempt in range(_TRIALS):  # in turn, and the best of each: other work on the machine only ever slows down
        for tried in candidates:
            # the first time kernels are made and memory is taken: not to be timed
            steps = _TRIAL_STEPS if attempt else 2
            short = replace(base, amp=tried, epochs=f"{steps}it", warmup="0it", lr=1e-6)
            per_second = trial(short).images_per_second / short.batch_size
            if attempt:
                speeds[tried] = max(speeds[tried], per_second)
    if settings.amp == "auto":
        quicker = speeds["bf16"] / speeds[None]
        amp = "bf16" if quicker >= _WORTHWHILE else None
        LOGGER.info("Precision: %s (bfloat16 is %.2fx as fast here)", amp or "float32", quicker)
    per_second, steps = speeds[amp], most
    if settings.minutes is not None:
        fit_in = max(1, math.floor(settings.minutes * 60 * per_second / _OVERHEAD))
        steps = min(most, fit_in)
        LOGGER.info(
            "Distillation: %d steps%s (%.2f steps/s here, at most %g minutes)",
            steps,
            "" if fit_in >= most else f" of {most}, all that fits in",
            per_second,
            settings.minutes,
        )
    return Distillation(steps=steps, amp=amp)


def _leaders_plan(world: World, plan: Distillation | None) -> Distillation:
    precisions = list(_AMP)
    mine = [0.0, 0.0] if plan is None else [plan.steps, precisions.index(plan.amp)]
    steps, precision = world.leaders(mine)
    return Distillation(steps=int(steps), amp=precisions[int(precision)])


def _read_plan(folder: Path | None, fingerprint: str) -> Distillation | None:
    """The plan of a run that was killed; None when there is none of this run."""
    path = None if folder is None else folder / PLAN
    if path is None or not path.exists():
        return None
    content = read_yaml(path)
    if content.get("fingerprint") != fingerprint or content.get("amp", "missing") not in _AMP:
        return None
    with contextlib.suppress(BootcampError):  # damaged: the plan is made anew
        plan = from_plain(Distillation, content)
        return Distillation(steps=plan.steps, amp=plan.amp)
    return None


def _labelled_by(
    dense: nn.Module, splits: Splits, settings: RecoverSettings, device: torch.device, seed: int, task: Task
) -> Splits:
    """The first images of the seed's order, labelled by the dense network; some of them again to watch progress by.

    What the training loop calls the score is then agreement with the dense network. Nothing is chosen by it.
    """
    count = min(settings.images, len(splits.train))
    images = splits.train.subset(first_images(len(splits.train), count, seed))
    found = []
    with torch.no_grad(), evaluation_mode(dense), preserved_rng():
        for batch, _ in eval_batches(images, batch_size=256, mean=splits.mean, std=splits.std, device=device):
            found.append(task.decisions(task.outputs(dense(batch))).cpu())
    named = copy.copy(images)
    named.labels = torch.cat(found).to(images.labels)
    return replace(splits, train=named, val=named.subset(torch.arange(min(256, count))))


def first_images(total: int, count: int, seed: int) -> Tensor:
    """Indices of `count` images in the seed's order: fewer of them are always among more."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]
