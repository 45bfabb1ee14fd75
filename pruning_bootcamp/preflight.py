"""A config before anything runs: names, settings, durations, files. All problems at once."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from pruning_bootcamp.checkpoints.files import read_file
from pruning_bootcamp.config import Choice, Config
from pruning_bootcamp.duration import parse_duration
from pruning_bootcamp.errors import BootcampError, unknown
from pruning_bootcamp.exporters import EXPORTERS
from pruning_bootcamp.models import check_model
from pruning_bootcamp.pipeline.compression import check_order
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.schedules import check_schedule
from pruning_bootcamp.pruning.structured import check_structured
from pruning_bootcamp.pruning.unstructured import check_unstructured
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.runs import siblings
from pruning_bootcamp.runtime import choose_device
from pruning_bootcamp.schema import shown
from pruning_bootcamp.stages import structured, unstructured
from pruning_bootcamp.stages.afterwards import fine_tune_settings
from pruning_bootcamp.stages.common import BASELINE_CHECKPOINT, training_settings
from pruning_bootcamp.stages.export import FORMATS, formats_in
from pruning_bootcamp.stages.sensitivity import check_scan, check_sparsities
from pruning_bootcamp.tools.datasets import AUGMENTATIONS, check_dataset
from pruning_bootcamp.training.gradual import check_gradual
from pruning_bootcamp.training.optim import LR_SCHEDULES, OPTIMIZERS
from pruning_bootcamp.training.rewinding import rewind_file
from pruning_bootcamp.training.settings import check_settings


def check(cfg: Config, command: str, where: str) -> None:
    """Raise one BootcampError with everything that would stop `command`; settings are put in their right types."""
    problems = []
    for part in CHECKS[command]:
        try:
            problems += part(cfg)
        except OSError as error:  # a name longer than the file system takes, a file where a folder is needed
            problems.append(f"{shown(str(error.filename))}: can't be looked up ({error.strerror}).")
    if problems:
        raise BootcampError(*problems, where=where)


def _data(cfg: Config) -> list[str]:
    return check_dataset(cfg.data.name, root=cfg.data.root, args=cfg.data.args, where="data")


def _model(cfg: Config) -> list[str]:
    return check_model(cfg.model.name, cfg.model.args, where="model")


def _train(cfg: Config) -> list[str]:
    t = cfg.train
    problems = [
        *_duration(t.epochs, "train.epochs", least=1),
        *_duration(t.warmup, "train.warmup"),
        *_augment(t.augment, "train.augment"),
        *_save_steps(cfg),
    ]
    # in their right types: YAML reads 1e-9 as text
    problems += _registered(OPTIMIZERS, t.optimizer, "train.optimizer")
    problems += _registered(LR_SCHEDULES, t.schedule, "train.schedule")
    return problems or check_settings(training_settings(cfg), "train")


def _fine_tune(cfg: Config) -> list[str]:
    f = cfg.fine_tune
    problems = [
        *(_registered(LR_SCHEDULES, f.schedule, "fine_tune.schedule") if f.schedule else []),
        *_duration(f.epochs, "fine_tune.epochs", least=1),
        *_duration(f.warmup, "fine_tune.warmup"),
        *_augment(f.augment, "fine_tune.augment"),
        *_features(cfg),
    ]
    if problems or _train(cfg):  # what is wrong there would only be said twice
        return problems
    return check_settings(fine_tune_settings(cfg), "fine_tune")


def _features(cfg: Config) -> list[str]:
    f = cfg.fine_tune
    if f.features > 0 and f.distill == 0:
        return [f"fine_tune.features: {f.features:g} has no teacher to compare with. Set fine_tune.distill above 0."]
    return []


def _device(cfg: Config) -> list[str]:
    try:
        choose_device(cfg.device)
    except BootcampError as error:
        return error.problems
    return []


def _unstructured(cfg: Config) -> list[str]:
    p = cfg.prune
    problems = check_unstructured(**unstructured.engine_choices(cfg), where="prune")
    if p.iterations > 1 and (fixes := _fixes_sparsity(cfg)):
        problems.append(
            f"prune.iterations: {p.iterations} cycles have nothing to grow, since {fixes} fixes the sparsity. "
            "Leave --iterative out."
        )
    problems += check_schedule(p.schedule.name, p.schedule.args, "prune.schedule")
    return problems + (_gradual(cfg) if p.gradual else []) + (_rewind(cfg) if p.rewind is not None else [])


def _fixes_sparsity(cfg: Config) -> str | None:
    """The pattern or allocation that leaves no sparsity to grow."""
    p = cfg.prune
    if p.pattern.name in PATTERNS and "fixed_count" in PATTERNS[p.pattern.name].facts:
        return f"pattern '{p.pattern.name}'"
    if unstructured.target_sparsity(cfg) is None:
        return f"allocation '{p.allocation.name}'"
    return None


def _gradual(cfg: Config) -> list[str]:
    p, f = cfg.prune, cfg.fine_tune
    solver = unstructured.engine_choices(cfg).get("solver", "none")
    fixes = _fixes_sparsity(cfg)
    reasons = [
        (
            p.iterations > 1,
            f"the sparsity grows within one fine-tuning, and prune.iterations={p.iterations} asks for several. Choose "
            "--gradual or --iterative.",
        ),
        (not f.enabled, "the sparsity grows while fine-tuning, which is off. Set fine_tune.enabled=true."),
        (fixes is not None, f"there is nothing to grow, since {fixes} fixes the sparsity. Leave --gradual out."),
        (
            solver != "none",
            f"prune.solver={solver} would move the weights again at every update, in the middle of the optimiser's "
            "work. Leave the solver out.",
        ),
        (
            p.rewind is not None,
            "prune.rewind puts weights back once the masks are known, and here they are known only when the training "
            "is nearly over. Choose one.",
        ),
    ]
    problems = [f"prune.gradual: {reason}" for is_so, reason in reasons if is_so]
    wrong_epochs = _duration(f.epochs, "fine_tune.epochs")  # said by _fine_tune
    training = None if wrong_epochs else parse_duration(f.epochs)
    return problems + check_gradual(p.begin, p.end, p.frequency, training, "prune")


def _rewind(cfg: Config) -> list[str]:
    p = cfg.prune
    assert p.rewind is not None
    problems = []
    solver = unstructured.engine_choices(cfg).get("solver", "none")
    if solver != "none":
        problems.append(f"prune.rewind: would undo what prune.solver={solver} does to the weights. Choose one.")
    if cfg.recover.method == "distill":
        problems.append("prune.rewind: would undo what recover.method=distill does to the weights. Choose one.")
    checkpoint = Path(cfg.checkpoint) if cfg.checkpoint is not None else BASELINE_CHECKPOINT
    if checkpoint.is_file():  # else that is the problem, and said elsewhere
        try:
            rewind_file(p.rewind, checkpoint)
        except BootcampError as error:
            problems += [f"prune.rewind: {problem}" for problem in error.problems]
    return problems


def _save_steps(cfg: Config) -> list[str]:
    """Steps that the training does not reach, as far as that can be seen without the data."""
    problems = [problem for text in cfg.train.save_steps for problem in _duration(text, "train.save_steps")]
    if problems or _duration(cfg.train.epochs, "train.epochs"):
        return problems
    training = parse_duration(cfg.train.epochs)
    return [
        f"train.save_steps: {step} is after the training's {training}."
        for step in map(parse_duration, cfg.train.save_steps)
        if step.unit == training.unit and step.value > training.value
    ]


def _structured(cfg: Config) -> list[str]:
    problems = check_structured(**structured.engine_choices(cfg), where="structured")
    # the engine's names of the budgets, as the config spells them
    return [re.sub(r"\b(flops|params)_reduction\b", r"target_\1_reduction", problem) for problem in problems]


def _export(cfg: Config) -> list[str]:
    problems = []
    for name in formats_in(cfg.export.format):
        if name not in EXPORTERS:
            problems.append(f"export.format: {unknown('format', name, [*EXPORTERS, *FORMATS])}")
            continue
        least = EXPORTERS[name].facts.get("first_opset", 0)
        if cfg.export.opset is not None and cfg.export.opset < least:
            problems.append(f"export.opset: {cfg.export.opset} is too old for {name}, which needs {least} or up.")
    if not cfg.export.batch_sizes or min(cfg.export.batch_sizes) < 1:
        problems.append(f"export.batch_sizes: {cfg.export.batch_sizes} is not a list of numbers from 1 up.")
    return problems


def _steps(cfg: Config) -> list[str]:
    """The pipeline's steps by name, in an order that makes sense, and the limits of its gates."""
    g = cfg.gates
    problems = check_order(cfg.pipeline.steps) + _duration(cfg.quantize.epochs, "quantize.epochs", least=1)
    if g.max_accuracy_drop is not None and g.max_accuracy_drop > 100:
        problems.append(f"gates.max_accuracy_drop: {g.max_accuracy_drop:g} is more than there is to lose.")
    return problems


def _pipeline(cfg: Config) -> list[str]:
    """The steps, and what each of them needs."""
    problems = _steps(cfg)
    if "prune-unstructured" in cfg.pipeline.steps:
        problems += _unstructured(cfg)
        if cfg.prune.rewind is not None:
            problems.append("prune.rewind: a pipeline does not rewind. Leave it out, or use prune-unstructured.")
    if "prune-structured" in cfg.pipeline.steps:
        problems += _structured(cfg)
    if cfg.gates.export_verified and not cfg.export.verify:
        problems.append("gates.export_verified: can't be met with export.verify=false. Set one of them to the other.")
    return problems


def _checkpoint(cfg: Config) -> list[str]:
    if cfg.checkpoint is None:
        return []
    path = Path(cfg.checkpoint)
    if path.is_file():
        try:
            read_file(path)
        except BootcampError as error:
            return [f"checkpoint: {problem}" for problem in str(error).splitlines()]
        return []
    if path.is_dir():
        return [f"checkpoint: {path} is a folder, not a checkpoint. {siblings(path / 'best_model.pth')}"]
    return [f"checkpoint: there is no file {path}. {siblings(path)}"]


def _save_dir(cfg: Config) -> list[str]:
    """The nearest existing folder above save_dir must let us write."""
    folder = Path(cfg.save_dir) if cfg.save_dir else Path("results")
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return [f"save_dir: {folder} is a file, not a folder. Choose another with --save-dir DIR."]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [f"save_dir: no permission to write in {folder.resolve()}. Choose another with --save-dir DIR."]
    return []


def _registered(registry: Registry, choice: Choice, where: str) -> list[str]:
    checked, problems = registry.check(choice.name, choice.args, where)
    choice.args = checked
    return problems


def _duration(value: int | str, where: str, least: int = 0) -> list[str]:
    try:
        duration = parse_duration(value, where)
    except BootcampError as error:
        return list(str(error).splitlines())
    return [] if duration.value >= least else [f"{where}: {value} is not at least {least}."]


def _augment(names: list[str] | None, where: str) -> list[str]:
    return [
        f"{where}: {unknown('augmentation', name, AUGMENTATIONS)}" for name in names or [] if name not in AUGMENTATIONS
    ]


_EVERY = (_data, _model, _device, _save_dir)
_TRAINING = (*_EVERY, _train)
CHECKS: Mapping[str, tuple[Callable[[Config], list[str]], ...]] = {
    "quickstart": (*_TRAINING, _fine_tune, _structured, _export),
    "train": _TRAINING,
    "eval": (*_EVERY, _checkpoint),
    "prune-unstructured": (*_TRAINING, _checkpoint, _fine_tune, _unstructured),
    "prune-structured": (*_TRAINING, _checkpoint, _fine_tune, _structured),
    "pipeline run": (*_TRAINING, _checkpoint, _fine_tune, _pipeline, _export),
    "sensitivity": (*_EVERY, _checkpoint, check_scan),
    "export": (*_EVERY, _checkpoint, _export),
    "profile": (*_EVERY, _checkpoint),
    "validate": (*_TRAINING, _checkpoint, _fine_tune, _unstructured, _structured, _steps, _export, check_sparsities),
}
