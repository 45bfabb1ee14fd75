"""Sections of the config in the engine's words: what is checked before a run is what runs."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pruning_bootcamp.config import Config
from pruning_bootcamp.config.fields import FineTuneConfig
from pruning_bootcamp.duration import parse_duration
from pruning_bootcamp.pruning.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.multiples import resolve_round_to
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.scores import SCORES, needs_of
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.runtime import choose_device
from pruning_bootcamp.training.gradual import GradualPruning
from pruning_bootcamp.training.recovery import DistillSettings
from pruning_bootcamp.training.settings import FitSettings


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


def fine_tune_settings(cfg: Config) -> FitSettings:
    """`fine_tune` of the config; what it leaves out is as in `train`, and the learning rate a tenth of that.

    Mixup, the penalty on batch-norm scales and early stopping belong to the first training and are off.
    """
    base, f = training_settings(cfg), cfg.fine_tune
    return replace(
        base,
        epochs=parse_duration(f.epochs, "fine_tune.epochs"),
        lr=f.lr if f.lr is not None else base.lr / 10,
        batch_size=f.batch_size or base.batch_size,
        weight_decay=base.weight_decay if f.weight_decay is None else f.weight_decay,
        schedule=f.schedule.name if f.schedule else base.schedule,
        schedule_args=f.schedule.args if f.schedule else base.schedule_args,
        warmup=parse_duration(f.warmup, "fine_tune.warmup"),
        augment=base.augment if f.augment is None else tuple(f.augment),
        bn_l1=0.0,
        mixup=0.0,
        early_stopping=None,
    )


def quantizing(cfg: Config) -> Config:
    """The config whose fine-tuning is what `quantize` says; what that leaves out is as in `train`."""
    cfg = copy.deepcopy(cfg)
    q = cfg.quantize
    lr = q.lr if q.lr is not None else cfg.train.lr / 100
    cfg.fine_tune = FineTuneConfig(epochs=q.epochs, distill=q.distill, lr=lr)  # nothing of `fine_tune` reaches it
    cfg.train.ema = None  # an average of weights is not on the grid that they were trained for
    return cfg


def distill_settings(cfg: Config) -> DistillSettings:
    """`recover` of the config as the distillation's settings."""
    r = cfg.recover
    return DistillSettings(
        images=r.images,
        steps=r.steps,
        minutes=r.minutes,
        batch_size=r.batch_size,
        lr=r.lr,
        temperature=r.temperature,
        feature_weight=r.features,
        amp=r.amp,
        augment=None if cfg.train.augment is None else tuple(cfg.train.augment),
        checkpoint_seconds=cfg.train.checkpoint_seconds,
    )


def weight_choices(cfg: Config) -> dict[str, Any]:
    """`prune` of the config as the unstructured engine takes it."""
    p = cfg.prune
    return {
        "sparsity": target_sparsity(cfg),
        "score": p.score.name,
        "score_args": p.score.args,
        "allocation": p.allocation.name,
        "allocation_args": p.allocation.args,
        "pattern": p.pattern.name,
        "pattern_args": p.pattern.args,
        "solver": p.solver.name,
        "solver_args": p.solver.args,
        "include": p.include,
        "exclude": p.exclude,
    }


def channel_choices(cfg: Config) -> dict[str, Any]:
    """`structured` of the config as the structured engine takes it."""
    s = cfg.structured
    return {
        "score": s.score.name,
        "score_args": s.score.args,
        "allocation": s.allocation,
        **s.budget(),
        "round_to": s.round_to,
        "max_sparsity": s.max_sparsity,
    }


def wanted_round_to(cfg: Config) -> int | None:
    """`structured.round_to` as it begins on the config's device: the result depends on that, not on the word auto."""
    round_to = cfg.structured.round_to
    device = choose_device(cfg.device)[0] if round_to == "auto" else torch.device("cpu")
    return resolve_round_to(round_to, device).choices[0]


def target_sparsity(cfg: Config) -> float | None:
    """The sparsity asked for; left out, None where the pattern or allocation says it, else one half."""
    p = cfg.prune
    if p.sparsity is not None:
        return p.sparsity
    says_it = fixes_count(cfg) or (
        p.allocation.name in ALLOCATIONS and bool(ALLOCATIONS[p.allocation.name].facts.get("own_sparsity"))
    )
    return None if says_it else 0.5


def fixes_count(cfg: Config) -> bool:
    """Whether the pattern itself says how many weights go, so that no sparsity can grow."""
    name = cfg.prune.pattern.name
    return name in PATTERNS and "fixed_count" in PATTERNS[name].facts


def needs_images(cfg: Config) -> bool:
    """Whether the unstructured pruning measures anything on images before or while it prunes."""
    p = cfg.prune
    by = ALLOCATIONS[p.allocation.name].facts.get("by") if p.allocation.name in ALLOCATIONS else None
    known = p.score.name in SCORES and p.solver.name in SOLVERS
    return known and bool(needs_of(p.score.name) or by or SOLVERS[p.solver.name].facts.get("images"))


def named_files(cfg: Config) -> list[Path]:
    """Files that the settings of the engine's choices name: what is in them is part of what the result depends on."""
    p = cfg.prune
    chosen = ((SCORES, p.score), (ALLOCATIONS, p.allocation), (PATTERNS, p.pattern), (SOLVERS, p.solver))
    return [
        Path(choice.args[setting])
        for registry, choice in chosen
        if choice.name in registry
        for setting in registry[choice.name].facts.get("files", ())
        if choice.args.get(setting) is not None
    ]


def before_growing(cfg: Config, target: float | None, there: float) -> float | None:
    """The sparsity before the distillation, which grows it to the target; the target itself where nothing can grow."""
    r = cfg.recover
    named = ALLOCATIONS[cfg.prune.allocation.name].facts.get("own_sparsity")  # what it names it does not name for less
    if target is None or r.method != "distill" or r.grow == 0 or fixes_count(cfg) or named:
        return target
    return min(max(1 - (1 - target) ** (1 - r.grow), there), target)


def growing(cfg: Config, target: float) -> GradualPruning:
    """Grows the sparsity in the first half of the distillation, by the size that the weights have come to there."""
    by_weights = {"score": "magnitude", "score_args": {}, "solver": "none", "solver_args": {}}
    if ALLOCATIONS[cfg.prune.allocation.name].facts.get("by"):
        by_weights |= {"allocation": "global", "allocation_args": {}}
    return GradualPruning(target, end="50%", frequency="2%", choices=weight_choices(cfg) | by_weights, seed=cfg.seed)


def mode_text(cfg: Config) -> str:
    p = cfg.prune
    if p.gradual:
        return f"gradual, {p.schedule.name}, from {p.begin} to {p.end} of the fine-tuning, every {p.frequency}"
    return "one-shot" if p.iterations == 1 else f"{p.iterations} cycles, {p.schedule.name}"


def pattern_text(cfg: Config) -> str:
    """The pattern as a user writes it: 2:4, block, unstructured."""
    pattern = cfg.prune.pattern
    return f"{pattern.args['n']}:{pattern.args['m']}" if pattern.name == "nm" else pattern.name
