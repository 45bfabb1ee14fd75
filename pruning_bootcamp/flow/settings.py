"""Sections of the config in the engine's words: what is checked before a run is what runs."""

import copy
from dataclasses import replace
from pathlib import Path

import torch

from pruning_bootcamp.config import Config
from pruning_bootcamp.plugins import short_name
from pruning_bootcamp.pruning.channels.measuring import chosen
from pruning_bootcamp.pruning.channels.multiples import resolve_round_to
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.sections import PruneSettings, StructuredSettings
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.pruning.weights import choices
from pruning_bootcamp.pruning.weights.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.weights.schedules import iterative_sparsities
from pruning_bootcamp.pruning.weights.scores import SCORES, needs_of
from pruning_bootcamp.runtime import choose_device
from pruning_bootcamp.schema import Choice
from pruning_bootcamp.training.gradual import GradualPruning
from pruning_bootcamp.training.settings import FineTuneSettings

GROWING = ("grow_penalty", "grow_step", "grow_every", "grow_ceiling")
"""Settings of `structured` that say how the network is trained before a cut"""


def quantizing(cfg: Config) -> Config:
    """The config whose fine-tuning is what `quantize` says; what that leaves out is as in `train`."""
    cfg = copy.deepcopy(cfg)
    q = cfg.quantize
    lr = q.lr if q.lr is not None else cfg.train.lr / 100
    cfg.fine_tune = FineTuneSettings(epochs=q.epochs, distill=q.distill, lr=lr)  # nothing of `fine_tune` reaches it
    cfg.train.ema = None  # an average of weights is not on the grid that they were trained for
    return cfg


def penalising(cfg: Config) -> Config:
    """The config whose fine-tuning is as long as `structured.grow_penalty` says."""
    cfg = copy.deepcopy(cfg)
    assert cfg.structured.grow_penalty is not None
    cfg.fine_tune = replace(cfg.fine_tune, epochs=cfg.structured.grow_penalty, warmup="0ep")
    cfg.train.ema = None  # an average holds on to what the penalty has taken
    return cfg


def weight_choices(cfg: Config) -> PruneSettings:
    """`prune` of the config with its sparsity filled in: what is checked before a run is what runs."""
    return replace(cfg.prune, sparsity=target_sparsity(cfg))


def channel_choices(cfg: Config) -> StructuredSettings:
    """`structured` with score and allocation filled in: measured on images before a refit in closed form."""
    return chosen(cfg.structured, measured=cfg.structured.refit == "closed_form")


def cut_shares(cfg: Config) -> list[float]:
    """How much of the budget of `structured` is cut after each of its cycles; after the last, all of it: 1."""
    s = cfg.structured
    return iterative_sparsities(1.0, s.iterations, s.schedule.name, s.schedule.args)


def trains_after_cut(cfg: Config) -> bool:
    """Whether the config has the network trained after each cut."""
    return cfg.fine_tune.enabled or cfg.recover.method == "distill"


def wanted_round_to(cfg: Config) -> int | None:
    """`structured.round_to` as it begins on the config's device: the result depends on that, not on the word auto."""
    round_to = cfg.structured.round_to
    device = choose_device(cfg.device)[0] if round_to == "auto" else torch.device("cpu")
    return resolve_round_to(round_to, device).choices[0]


def target_sparsity(cfg: Config) -> float | None:
    """The sparsity asked for; left out, None where the pattern or allocation says it, else one half."""
    return choices.target_sparsity(cfg.prune)


def fixes_count(cfg: Config) -> bool:
    """Whether the pattern itself says how many weights go, so that no sparsity can grow."""
    return choices.fixes_count(cfg.prune)


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


def batch_norm_images(cfg: Config) -> int:
    """Training images to re-estimate batch norm on after a pruning; 0: it stays as it is."""
    return 0 if cfg.recover.method == "none" else cfg.recover.bn_images


def grown_later(cfg: Config) -> float:
    """The share of an unstructured pruning that is left to the distillation after it."""
    return cfg.recover.grow if cfg.recover.method == "distill" else 0.0


def before_growing(cfg: Config, target: float | None, there: float) -> float | None:
    """The sparsity before the distillation, which grows it to the target; the target itself where nothing can grow."""
    grow = grown_later(cfg)
    named = ALLOCATIONS[cfg.prune.allocation.name].facts.get("own_sparsity")  # what it names it does not name for less
    if target is None or grow == 0 or fixes_count(cfg) or named:
        return target
    return min(max(1 - (1 - target) ** (1 - grow), there), target)


def stages(cfg: Config, target: float | None) -> list[float]:
    """How far each of `prune.stages` goes, the logarithm of what stays being the way: the last one to the end, 1.

    The first goes half the way at once: so much one score finds. One stage where nothing can grow.
    """
    named = ALLOCATIONS[cfg.prune.allocation.name].facts.get("own_sparsity")
    count = 1 if target is None or fixes_count(cfg) or named else cfg.prune.stages
    return [(count + stage) / (2 * count) for stage in range(1, count + 1)]


def growing(cfg: Config, target: float) -> GradualPruning:
    """Grows the sparsity in the first half of the distillation, by the size that the weights have come to there."""
    by_weights = replace(cfg.prune, score=Choice("magnitude"), solver=Choice("none"), schedule=Choice("cubic"))
    if ALLOCATIONS[cfg.prune.allocation.name].facts.get("by"):
        by_weights.allocation = Choice("global")
    by_weights.begin, by_weights.end, by_weights.frequency = "0%", "50%", "2%"
    return GradualPruning(target, by_weights, seed=cfg.seed)


def mode_text(cfg: Config) -> str:
    """How often and after which schedule weights are zeroed, for people: `one-shot`, `5 cycles, cubic`."""
    p = cfg.prune
    if p.gradual:
        return f"gradual, {p.schedule.name}, from {p.begin} to {p.end} of the fine-tuning, every {p.frequency}"
    return "one-shot" if p.iterations == 1 else f"{p.iterations} cycles, {p.schedule.name}"


def pattern_text(cfg: Config) -> str:
    """The pattern as a user writes it: 2:4, block, unstructured."""
    pattern = cfg.prune.pattern
    return f"{pattern.args['n']}:{pattern.args['m']}" if pattern.name == "nm" else short_name(pattern.name)
