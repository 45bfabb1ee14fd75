"""fit(): the one training loop, for a new network and for a pruned one that has to recover."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.training.distributed import World, join_world
from pruning_bootcamp.training.engine import Training
from pruning_bootcamp.training.features import FeatureMatch
from pruning_bootcamp.training.hooks import Hook
from pruning_bootcamp.training.interrupts import Interrupts
from pruning_bootcamp.training.losses import TrainingLoss
from pruning_bootcamp.training.mixing import Mixing, unmixable
from pruning_bootcamp.training.optim import check_settings
from pruning_bootcamp.training.progress import TrainingProgress
from pruning_bootcamp.training.records import Epoch, check_loss
from pruning_bootcamp.training.settings import TrainSettings
from pruning_bootcamp.training.state import read_state, remove_state, write_state

__all__ = ["FitResult", "FitSettings", "check_settings", "fit"]

FitSettings = TrainSettings


@dataclass
class FitResult:
    """What a training did. The model itself holds the weights of `best_epoch`."""

    history: list[Epoch]
    best_epoch: int
    best_score: float  # the task's metric on the validation split
    steps: int
    seconds: float  # over all epochs, also those before a resume
    resumed_from_step: int  # 0: from the beginning
    images_per_second: float  # training only, of this process's part
    masks: dict[str, Tensor]  # at the end; hooks may have changed them
    folder: Path | None

    def cleanup(self) -> None:
        """Remove the resume point. To be called when the network is safely stored."""
        remove_state(self.folder)


def fit(
    model: nn.Module,
    splits: Splits,
    settings: TrainSettings,
    *,
    device: torch.device,
    folder: Path | None = None,
    logs: Path | None = None,
    seed: int = 0,
    keep_best: bool = True,
    masks: Mapping[str, Tensor] | None = None,
    hooks: Sequence[Hook] = (),
    teacher: nn.Module | None = None,
    distill_weight: float = 0.5,
    distill_temperature: float = 4.0,
    feature_weight: float = 0.0,
    progress: bool = True,
    label: str = "train",
    fingerprint: str = "",
    task: Task = IMAGE_CLASSIFICATION,
) -> FitResult:
    """Train `model` in place, on `device`; it ends with the weights of the best epoch by the task's validation score.

    (With `keep_best` off: with the last ones.)

    The test split is never read. With a `folder`, a resume point is written there now and then, and TensorBoard curves
    go to `logs` (its subfolder of that name where left out); the same call after a kill goes on from that point and
    gives the same result, on a CPU to the bit.
    `fingerprint` stands for what the caller knows and `settings` do not say (which network, which checkpoint): a resume
    point with another one is refused. Weights that `masks` (name -> True where it stays) prune are exactly zero
    throughout.
    With a `teacher`, `distill_weight` of the loss is the distance from its outputs (Hinton et al., 2015), and
    `feature_weight` times the relative distance of its blocks' outputs is added (Romero et al., 2015).

    Modes (train/eval) of both networks and the random generators are left as found. BootcampError: bad settings, a
    resume point of another training, a loss that is not finite.
    """
    world = join_world(device)
    problems = check_settings(settings) + _problems(splits, settings, world, distill_weight, distill_temperature)
    if problems:
        raise BootcampError(*problems)
    training_loss = TrainingLoss(
        classes=len(splits.class_names),
        task=task,
        label_smoothing=settings.label_smoothing,
        mixing=Mixing(settings.mixup, settings.cutmix, seed),
        teacher=teacher,
        distill_weight=distill_weight,
        distill_temperature=distill_temperature,
        features=FeatureMatch(model, teacher) if teacher is not None and feature_weight > 0 else None,
        feature_weight=feature_weight,
    )
    with preserved_rng(), _modes_kept(model, teacher), _tuned_kernels(settings), Interrupts(folder is not None) as stop:
        training = Training(
            model,
            splits,
            settings,
            keep_best=keep_best,
            world=world,
            seed=seed,
            masks=masks,
            hooks=hooks,
            training_loss=training_loss,
        )
        about = _describe(training, splits, fingerprint)
        saved = read_state(folder, about)
        if saved is not None:
            training.go_on_from(saved)
        first_step = training.at.step
        world.check_same_step(first_step)
        shown = TrainingProgress(
            logs=logs if logs is not None or folder is None else folder / "logs",
            label=label,
            total_steps=training.at.total_steps,
            epochs=training.epochs,
            first_step=first_step,
            task=task,
            active=world.leads,
            visible=progress,
            bar=progress and not any(hook.shows_progress for hook in hooks),
        )
        features = training_loss.features.watching() if training_loss.features is not None else contextlib.nullcontext()
        with contextlib.closing(shown), _compiler_explained(settings), features:
            shown.say("%s", _summary(training, splits, label))
            training.start()
            _run(training, shown, folder if world.leads else None, about, stop)
        if training.interrupted or stop.received is not None:
            stop.deliver()
        training.finish()
    return FitResult(
        history=training.history,
        best_epoch=training.best.epoch,
        best_score=training.best.score,
        steps=training.at.step,
        seconds=sum(entry.seconds for entry in training.history),
        resumed_from_step=first_step,
        images_per_second=training.images_per_second,
        masks=training.at.masks,
        folder=folder if world.leads else None,
    )


def _run(
    training: Training, progress: TrainingProgress, folder: Path | None, about: Mapping[str, str], stop: Interrupts
) -> None:
    """Steps and epochs until the end, an early stop or an interrupt; the state is written on the way."""
    last_write = time.monotonic()

    def write(after_seconds: float = 0.0) -> None:
        nonlocal last_write
        if folder is not None and time.monotonic() - last_write >= after_seconds:
            progress.flush()
            write_state(folder, about, training.state())
            last_write = time.monotonic()

    while not training.finished and not training.interrupted:
        for report in training.steps_of_epoch(lambda: stop.received is not None):
            progress.steps(training.at.step, report.losses, report.rates)
            progress.now(training.at.epoch + 1, training.sums.mean_loss, training.sums.score(training.task))
            check_loss(report, training.at.step, training.settings.amp)
            # after an epoch's last step the evaluation comes first: a state lies within an epoch or between two
            if not training.epoch_is_complete and not training.interrupted:
                write(training.settings.checkpoint_seconds)
        if training.epoch_is_complete:
            speed = training.sums.images_per_second
            progress.epoch(training.end_epoch(), speed)
            write(training.settings.checkpoint_seconds)
    if training.interrupted or stop.received is not None:
        write()
        progress.say("Interrupted at step %d. The same command goes on from there.", training.at.step)


def _problems(
    splits: Splits, settings: TrainSettings, world: World, distill_weight: float, distill_temperature: float
) -> list[Problem]:
    """What is wrong with the data for these settings, or with the distillation."""
    problems = []
    if len(splits.val) == 0:
        problems.append(
            Problem("data", f"{splits.name} has no validation image to choose the best epoch by. Raise val_fraction.")
        )
    if settings.batch_size < world.size:
        problems.append(
            Problem("train.batch_size", f"{settings.batch_size} can't be shared by {world.size} processes.")
        )
    if not 0 <= distill_weight <= 1:
        problems.append(Problem("distill_weight", f"{distill_weight} is not in [0, 1]."))
    if not distill_temperature > 0:
        problems.append(Problem("distill_temperature", f"{distill_temperature} is not above 0."))
    return problems + unmixable(settings, splits, "train")


def _describe(training: Training, splits: Splits, fingerprint: str) -> dict[str, str]:
    """What a resume point must share with the training that goes on from it, in words for the message."""
    others = ("checkpoint_seconds", "save_steps")  # what comes out is the same
    about = {name: str(value) for name, value in vars(training.settings).items() if name not in others}
    training_loss, parameters = training.training_loss, list(training.model.parameters())
    return about | {
        "keeps": "the best epoch" if training.keep_best else "the last epoch",
        "distillation": _distillation(training_loss),
        "seed": str(training.seed),
        "fingerprint": fingerprint,
        "data": f"{splits.name}, {len(splits.train)} training and {len(splits.val)} to choose by",
        "network": f"{len(parameters)} tensors with {sum(p.numel() for p in parameters)} parameters",
        "masks": f"{len(training.at.masks)} tensors",
        "processes": f"{training.world.size} on {training.world.device.type}",
        "task": type(training.task).__name__,
        "hooks": ", ".join(type(hook).__name__ for hook in training.hooks),
    }


def _distillation(training_loss: TrainingLoss) -> str:
    if training_loss.teacher is None:
        return "off"
    features = f", features {training_loss.feature_weight}" if training_loss.features is not None else ""
    return f"{training_loss.distill_weight} at {training_loss.distill_temperature}{features}"


def _summary(training: Training, splits: Splits, label: str) -> str:
    at, world = training.at, training.world
    processes = f", {world.size} processes" if world.size > 1 else ""
    samples = f"{len(splits.train)} {training.task.noun}"
    text = (
        f"{label}: {training.settings.length} of {at.steps_per_epoch} steps on {samples}, "
        f"batch {training.settings.batch_size}, {world.device}{processes}"
    )
    return f"{text}; resumed at step {at.step} of {at.total_steps}" if at.step else text


@contextlib.contextmanager
def _modes_kept(*networks: nn.Module | None) -> Iterator[None]:
    """Each module's train/eval mode is as before."""
    modes = [(module, module.training) for network in networks if network is not None for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _tuned_kernels(settings: TrainSettings) -> Iterator[None]:
    """Under mixed precision, speed comes first: cuDNN tries its kernels and takes the quickest."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = before or settings.amp is not None
    try:
        yield
    finally:
        cudnn.benchmark = before


@contextlib.contextmanager
def _compiler_explained(settings: TrainSettings) -> Iterator[None]:
    """A network that torch.compile can't handle here is the user's to decide about: nothing falls back silently."""
    if not settings.compile:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().partition("\n")[0]
        raise BootcampError(f"train.compile: torch.compile fails here ({reason}). Set compile=false.") from error
