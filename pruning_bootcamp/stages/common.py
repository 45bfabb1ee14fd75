"""What every stage begins with: the device, the data, the network, the folder."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning_bootcamp.checkpoints import Checkpoint, NeedsRecipeError, Recipe, load_checkpoint
from pruning_bootcamp.checkpoints import example_input as example_input
from pruning_bootcamp.checkpoints.new_process import check_rebuilds
from pruning_bootcamp.config import Config, as_dict, fingerprint
from pruning_bootcamp.duration import parse_duration
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.locks import command_line, locked
from pruning_bootcamp.logs import LOGGER, also_to_file
from pruning_bootcamp.models import build_model, factory_file, is_factory
from pruning_bootcamp.pruning.multiples import resolve_round_to
from pruning_bootcamp.runs import Run, content_hash, open_run, siblings
from pruning_bootcamp.runtime import choose_device, keep_freed_memory, seed_everything
from pruning_bootcamp.tools.datasets import Splits, load_dataset
from pruning_bootcamp.training.hooks import Hook
from pruning_bootcamp.training.loop import FitSettings

RESULTS = Path("results")
BASELINE_CHECKPOINT = RESULTS / "baseline" / "best_model.pth"

# What follows the training of a cycle (from 1), for whoever runs a stage and wants to look on.
Watch = Callable[[int], Sequence[Hook]]

# Settings that change how fast or where a run goes, never what comes out.
_NOT_IN_FINGERPRINT = {"data": ("batch_size",), "train": ("checkpoint_seconds",)}

# What a killed run leaves to go on from.
_UNFINISHED = ("training_state.pth", "points.json")


def unwatched(cycle: int) -> Sequence[Hook]:
    """Nobody looks on."""
    return ()


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


def open_data(cfg: Config, testing: bool | None = None) -> Splits:
    """The images, and a line that says which of them choices are made on and which judge the result.

    `testing`: whether this command reads the test images; as goal.evaluate_test says where it is left out.
    """
    data = cfg.data
    splits = load_dataset(
        data.name,
        root=data.root,
        val_fraction=data.val_fraction,
        limit=data.limit,
        args=data.args,
    )
    LOGGER.info(
        "Data: %s, %d train / %d validation / %d test images, %d classes, %s",
        data.name,
        len(splits.train),
        len(splits.val),
        len(splits.test),
        len(splits.class_names),
        "x".join(str(side) for side in splits.shape),
    )
    LOGGER.info("%s", judged_text(splits, cfg.goal.evaluate_test if testing is None else testing))
    return splits


def judged_text(splits: Splits, testing: bool) -> str:
    """Which images choices are made on, and which the result is judged on, in one line."""
    val = f"{len(splits.val):,} validation images ({splits.val_from})"
    test = f"{len(splits.test):,} test images ({splits.test_from})"
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
    """How the config's network is built for these images."""
    return Recipe(
        model=cfg.model.name,
        args=dict(cfg.model.args),
        classes=len(splits.class_names),
        in_channels=splits.shape[0],
        input_shape=splits.shape,
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
    LOGGER.info("Loaded checkpoint from %s (%s)", path, recipe.model)
    if not checkpoint.proved:
        prove_rebuilds(checkpoint.model, recipe, where=str(path))
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


def open_alone(path: Path, cfg: Config) -> Checkpoint:
    """A checkpoint of ours needs no data to open; a foreign one needs the config's network and the data's classes."""
    try:
        checkpoint = load_checkpoint(path)
    except NeedsRecipeError:
        return open_network(path, cfg, open_data(cfg))
    LOGGER.info("Loaded checkpoint from %s (%s)", path, checkpoint.recipe.model)
    if not checkpoint.proved:
        prove_rebuilds(checkpoint.model, checkpoint.recipe, where=str(path))
    return checkpoint


def _close(one: Iterable[float], other: Iterable[float]) -> bool:
    return all(abs(a - b) < 1e-6 for a, b in zip(one, other, strict=False))


def stage_run(
    cfg: Config,
    command: str,
    folder: Path,
    sections: Iterable[str],
    checkpoint: Path | None = None,
    outputs: tuple[str, ...] = (),
    inputs: Iterable[Path] = (),
    more: Mapping[str, Any] | None = None,
) -> Run:
    """The run that this config asks for; nothing is written yet.

    Its fingerprint covers the named sections of the config and `more`, the seed, the content of the checkpoint and of
    other `inputs`, and the source of a `module:factory`. (The images of a folder are not covered: --no-resume after
    changing them.)
    """
    everything = as_dict(cfg)
    parts: dict[str, Any] = {"seed": cfg.seed}
    for section in sections:
        skipped = _NOT_IN_FINGERPRINT.get(section, ())
        parts[section] = {key: value for key, value in everything[section].items() if key not in skipped}
    if "structured" in parts:
        parts["structured"]["round_to"] = wanted_round_to(cfg)
    parts |= more or {}
    if checkpoint is not None:
        parts["checkpoint"] = content_hash(checkpoint)
    if hashes := [content_hash(path) for path in inputs]:
        parts["inputs"] = hashes
    if not cfg.goal.evaluate_test:  # its figures are others
        parts["test"] = "not read"
    if is_factory(cfg.model.name):
        parts["factory"] = content_hash(factory_file(cfg.model.name))
    folder = Path(cfg.save_dir) if cfg.save_dir else folder
    if checkpoint is not None and checkpoint.parent.resolve() == folder.resolve():
        raise BootcampError(f"--save-dir: {folder} holds the checkpoint to start from. Choose another folder.")
    return Run(folder, command, fingerprint(command, parts), outputs)


def wanted_round_to(cfg: Config) -> int | None:
    """`structured.round_to` as it begins on the config's device: the result depends on that, not on the word auto."""
    round_to = cfg.structured.round_to
    device = choose_device(cfg.device)[0] if round_to == "auto" else torch.device("cpu")
    return resolve_round_to(round_to, device).choices[0]


@contextlib.contextmanager
def working(run: Run, cfg: Config, checkpoint: Path | None, resume: bool | None) -> Iterator[None]:
    """Inside, the folder is this run's alone, and log.txt takes down what is said. Only after every check.

    config.yaml is written, and another run's files are moved aside. Of several processes the leader holds the folder.
    """
    with locked(run.folder, command_line()) if is_leader() else contextlib.nullcontext():
        _begin(run, cfg, checkpoint, resume)
        with also_to_file(run.path("log.txt")):
            yield


def _begin(run: Run, cfg: Config, checkpoint: Path | None, resume: bool | None) -> None:
    if not is_leader():
        return
    states = (path for name in _UNFINISHED for path in run.folder.rglob(name))
    unfinished = [path for path in states if not _is_previous(path, run.folder)]
    if resume and (not unfinished or not run.is_in_folder()):
        raise BootcampError(
            f"--resume: {run.folder} holds no unfinished run of this config. Leave --resume out to begin."
        )
    config = as_dict(cfg)
    if checkpoint is not None:
        config["checkpoint"] = str(checkpoint)
    open_run(run.folder, f"pruning-bootcamp {run.command}", config, run.fingerprint, fresh=resume is False)


def _is_previous(path: Path, folder: Path) -> bool:
    return any(part.startswith("previous-") for part in path.relative_to(folder).parts)


def already_done(run: Run, resume: bool | None) -> dict[str, Any] | None:
    """The metrics of a finished run, said on the screen: doing it again would give the same."""
    metrics = None if resume is False else run.finished()
    if metrics is not None:
        remove_training_states(run.folder)  # a kill just after the finish mark may have left them
        LOGGER.info("%s is already finished (same config, same inputs); --no-resume does it again", run.folder)
    return metrics


def say_goal(metrics: Mapping[str, Any], missed: Sequence[str] = ()) -> None:
    """How a command ends; `missed`: each figure that falls short of the goal, and what to do about it."""
    LOGGER.info("\nGoal %s (%s)", "MET" if metrics["goal_met"] else "NOT met", metrics["goal"])
    for line in missed:
        LOGGER.info("  %s", line)


def remove_training_states(folder: Path) -> None:
    """The resume points of a run that needs them no more."""
    if is_leader():
        for path in folder.rglob("training_state.pth"):
            if not _is_previous(path, folder):
                path.unlink(missing_ok=True)


def one_process(command: str) -> None:
    """Refuse torchrun where several processes would only do the same work and write the same files."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BootcampError(f"{command}: runs in one process. Start it without torchrun.")


def training_settings(cfg: Config) -> FitSettings:
    """`train` of the config as the loop's settings."""
    t = cfg.train
    return FitSettings(
        epochs=parse_duration(t.epochs, "train.epochs"),
        batch_size=t.batch_size,
        lr=t.lr,
        optimizer=t.optimizer.name,
        optimizer_args=t.optimizer.args,
        weight_decay=t.weight_decay,
        schedule=t.schedule.name,
        schedule_args=t.schedule.args,
        warmup=parse_duration(t.warmup, "train.warmup"),
        label_smoothing=t.label_smoothing,
        mixup=t.mixup,
        ema=t.ema,
        amp=t.amp,
        channels_last=t.channels_last,
        compile=t.compile,
        clip_grad_norm=t.clip_grad_norm,
        early_stopping=t.early_stopping,
        bn_l1=t.bn_l1,
        augment=None if t.augment is None else tuple(t.augment),
        checkpoint_seconds=t.checkpoint_seconds,
    )
