"""What every command begins with: the device, the data, the network."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from pruning_bootcamp.checkpoints import Checkpoint, NeedsRecipeError, Recipe, load_checkpoint
from pruning_bootcamp.checkpoints.new_process import check_rebuilds
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.models import build_model
from pruning_bootcamp.runs import siblings
from pruning_bootcamp.runtime import choose_device, keep_freed_memory, seed_everything
from pruning_bootcamp.tasks import Task, open_task
from pruning_bootcamp.tools.datasets import Splits, open_dataset

RESULTS = Path("results")
BASELINE_CHECKPOINT = RESULTS / "baseline" / "best_model.pth"


def start(cfg: Config) -> torch.device:
    """Seed, threads and device as the config says; the device is announced with its reason."""
    seed_everything(cfg.seed)
    keep_freed_memory()
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    device, reason = choose_device(cfg.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # cuda:1: memory, streams and graphs are the current device's
    if is_leader():
        LOGGER.info("Using device: %s, %d threads", reason, torch.get_num_threads())
    return device


def is_leader() -> bool:
    """True in the one process that writes and prints (rank 0 under torchrun)."""
    return os.environ.get("RANK", "0") == "0"


def one_process(command: str) -> None:
    """Refuse torchrun where several processes would only do the same work and write the same files."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BootcampError(f"{command}: runs in one process. Start it without torchrun.")


def task_of(cfg: Config) -> Task:
    """What the config asks of its network."""
    return open_task(cfg.task.name, cfg.task.args)


def open_data(cfg: Config, testing: bool | None = None) -> Splits:
    """The images, and a line that says which of them choices are made on and which judge the result.

    `testing`: whether this command reads the test images; as goal.evaluate_test says where it is left out.
    """
    data, noun = cfg.data, task_of(cfg).noun
    splits = open_dataset(data)
    LOGGER.info(
        "Data: %s, %d train / %d validation / %d test %s, %d classes, %s",
        data.name,
        len(splits.train),
        len(splits.val),
        len(splits.test),
        noun,
        len(splits.class_names),
        "x".join(str(side) for side in splits.shape),
    )
    LOGGER.info("%s", judged_text(splits, cfg.goal.evaluate_test if testing is None else testing, noun))
    return splits


def judged_text(splits: Splits, testing: bool, noun: str = "images") -> str:
    """Which images choices are made on, and which the result is judged on, in one line."""
    val = f"{len(splits.val):,} validation {noun} ({splits.val_from})"
    test = f"{len(splits.test):,} test {noun} ({splits.test_from})"
    if testing:
        return f"Choices are made on {val}; the result is judged on {test}, read once"
    return f"Choices are made and judged on {val}; the {test} are not read"


def judged_on(splits: Splits, testing: bool) -> dict[str, str]:
    """The same for metrics.yaml."""
    return {
        "judged_on": "test" if testing else "validation",
        "val_split": splits.val_from,
        "test_split": splits.test_from,
    }


def recipe_for(cfg: Config, splits: Splits) -> Recipe:
    """How the config's network is built for these data."""
    inputs = task_of(cfg).inputs(splits.shape, splits.train.dtype, len(splits.class_names))
    return Recipe(
        model=cfg.model.name,
        args=dict(cfg.model.args),
        classes=len(splits.class_names),
        in_channels=splits.channels,
        input_shape=inputs.shape,
        input_below=inputs.below,
        mean=splits.mean,
        std=splits.std,
        class_names=splits.class_names,
    )


def checkpoint_path(given: str | None, option: str = "--checkpoint") -> Path:
    """The checkpoint asked for, else the baseline's; a BootcampError when there is none."""
    if given is not None:
        path = Path(given)
        if not path.exists():
            raise BootcampError(f"{option}: there is no file {path}. {siblings(path)}")
        if path.is_dir():
            raise BootcampError(f"{option}: {path} is a folder, not a checkpoint. {siblings(path / 'best_model.pth')}")
        if not os.access(path, os.R_OK):
            raise BootcampError(f"{option}: no permission to read {path}.")
        return path
    if not BASELINE_CHECKPOINT.exists():
        raise BootcampError(
            f"{option}: needed and not given, and there is no {BASELINE_CHECKPOINT} either. "
            "Train one first: pruning-bootcamp train -c FILE."
        )
    LOGGER.info("%s not given: using %s", option, BASELINE_CHECKPOINT)
    return BASELINE_CHECKPOINT


def open_network(path: Path, cfg: Config, splits: Splits) -> Checkpoint:
    """The network in a checkpoint, checked against the data: classes, channels and normalisation must be the same."""
    expected = recipe_for(cfg, splits)
    checkpoint = load_checkpoint(path, recipe=expected)
    recipe = checkpoint.recipe
    if not _close(recipe.mean, expected.mean) or not _close(recipe.std, expected.std):
        raise BootcampError(
            f"it was trained with mean {recipe.mean}, std {recipe.std}; the config says {expected.mean}, "
            f"{expected.std}. Set data.args.mean and data.args.std.",
            where=str(path),
        )
    return _opened(checkpoint, path)


def open_alone(path: Path, cfg: Config, data: Callable[[], Splits]) -> Checkpoint:
    """A checkpoint of ours needs no data to open; a foreign one needs the config's network and the data's classes."""
    try:
        checkpoint = load_checkpoint(path)
    except NeedsRecipeError:
        return open_network(path, cfg, data())
    return _opened(checkpoint, path)


def _opened(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    LOGGER.info("Loaded checkpoint from %s (%s)", path, checkpoint.recipe.model)
    if not checkpoint.proved:
        prove_rebuilds(checkpoint.model, checkpoint.recipe, where=str(path))
    return checkpoint


def new_network(recipe: Recipe) -> nn.Module:
    """The recipe's network, freshly built, and proved to come back from a file as it is: before hours of training."""
    model = build_model(recipe.model, classes=recipe.classes, in_channels=recipe.in_channels, args=recipe.args)
    prove_rebuilds(model, recipe)
    return model


def prove_rebuilds(model: nn.Module, recipe: Recipe, where: str | None = None) -> None:
    """A BootcampError when a reload would give another network than this one; one process says so for all."""
    if not is_leader():
        return
    try:
        check_rebuilds(model, recipe)
    except BootcampError as error:
        raise BootcampError(*error.problems, where=where) from error


def _close(one: Iterable[float], other: Iterable[float]) -> bool:
    return all(abs(a - b) < 1e-6 for a, b in zip(one, other, strict=False))
