"""Settings of training and fine-tuning: names, durations, what goes together."""

from pruning_bootcamp.config import Choice, Config
from pruning_bootcamp.duration import parse_duration
from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.tools.datasets import AUGMENTATIONS
from pruning_bootcamp.training.optim import LR_SCHEDULES, OPTIMIZERS, check_settings


def train(cfg: Config) -> list[Problem]:
    """Problems with the section `train`; ranges are judged once names and durations are right."""
    t = cfg.train
    problems = [
        *duration(t.epochs, "train.epochs", least=1),
        *duration(t.warmup, "train.warmup"),
        *_augmentations(t.augment, "train.augment"),
        *_save_steps(cfg),
    ]
    # in their right types: YAML reads 1e-9 as text
    problems += _registered(OPTIMIZERS, t.optimizer, "train.optimizer")
    problems += _registered(LR_SCHEDULES, t.schedule, "train.schedule")
    return problems or check_settings(t, "train")


def fine_tune(cfg: Config) -> list[Problem]:
    """Problems with the section `fine_tune`, but for what it takes over from a wrong `train`."""
    f = cfg.fine_tune
    problems = [
        *(_registered(LR_SCHEDULES, f.schedule, "fine_tune.schedule") if f.schedule else []),
        *duration(f.epochs, "fine_tune.epochs", least=1),
        *duration(f.warmup, "fine_tune.warmup"),
        *_augmentations(f.augment, "fine_tune.augment"),
        *_features(cfg),
    ]
    if problems or train(cfg):  # what is wrong there would only be said twice
        return problems
    return check_settings(f.after(cfg.train), "fine_tune")


def _features(cfg: Config) -> list[Problem]:
    f = cfg.fine_tune
    if f.features > 0 and f.distill == 0:
        return [
            Problem(
                "fine_tune.features", f"{f.features:g} has no teacher to compare with. Set fine_tune.distill above 0."
            )
        ]
    return []


def _save_steps(cfg: Config) -> list[Problem]:
    """Steps that the training does not reach, as far as that can be seen without the data."""
    problems = [problem for text in cfg.train.save_steps for problem in duration(text, "train.save_steps")]
    if problems or duration(cfg.train.epochs, "train.epochs"):
        return problems
    training = parse_duration(cfg.train.epochs)
    return [
        Problem("train.save_steps", f"{step} is after the training's {training}.")
        for step in map(parse_duration, cfg.train.save_steps)
        if step.unit == training.unit and step.value > training.value
    ]


def _registered(registry: Registry, choice: Choice, where: str) -> list[Problem]:
    checked, problems = registry.check(choice.name, choice.args, where)
    choice.args = checked
    return problems


def duration(value: int | str, where: str, least: int = 0) -> list[Problem]:
    """Why the value is no duration (`15ep`, `500it`, a number of epochs) of at least `least`."""
    try:
        found = parse_duration(value, where)
    except BootcampError as error:
        return error.located()
    return [] if found.value >= least else [Problem(where, f"{value} is not at least {least}.")]


def _augmentations(names: list[str] | None, where: str) -> list[Problem]:
    return [problem for name in names or [] for problem in AUGMENTATIONS.missing(name, where)]
