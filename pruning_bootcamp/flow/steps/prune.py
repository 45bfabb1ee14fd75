"""Weights set to zero: calibration, scores, masks; what is measured on the way is kept for the next step."""

import time
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pruning_bootcamp.config import Config
from pruning_bootcamp.flow import settings
from pruning_bootcamp.flow.outcomes import Distribution, Measured, Pruned, Trained
from pruning_bootcamp.flow.step import Network, StepContext
from pruning_bootcamp.flow.steps.batch_norm import recover_batch_norm
from pruning_bootcamp.flow.steps.training import fine_tuned, judged, trained
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.pruning.weights.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.weights.scores import needs_labels, needs_of, score_stats
from pruning_bootcamp.pruning.weights.unstructured import UnstructuredPruning, UnstructuredResult
from pruning_bootcamp.results import Recovery
from pruning_bootcamp.tools.datasets import Splits, eval_batches
from pruning_bootcamp.training.gradual import GradualPruning, say_left_out
from pruning_bootcamp.training.recovery import first_images
from pruning_bootcamp.training.rewinding import load_values, rewind, rewind_file

STATISTICS, SCORED = "statistics.pth", "scores.pth"


def calibrate(context: StepContext) -> Measured:
    """What the score reads on images, kept as tensors."""
    statistics = _engine(context, context.network(), settings.target_sparsity(context.cfg)).calibrate()
    context.keep_tensors(STATISTICS, statistics)
    count = min(context.cfg.prune.calibration_images, len(context.splits.train))
    what = ", ".join(statistics) if statistics else "what the solver reads while it prunes"
    return Measured(summary=f"{count} {context.task.noun}: {what}")


def score(context: StepContext) -> Measured:
    """What each weight is worth."""
    # the sparsity passes for any step that only measures: what it gives does not depend on it
    engine = _engine(context, context.network(), settings.target_sparsity(context.cfg))
    scored = engine.score(context.tensors("statistics", STATISTICS))
    context.keep_tensors(SCORED, scored)
    stats = {name: distribution_of(values, name) for name, values in scored["scores"].items()}
    return Measured(scores=stats, summary=f"{len(stats)} layers")


def prune(context: StepContext, sparsity: float | None, stage: int, cycle: int, cycles: int) -> Pruned:
    """Masks of this stage to the sparsity, solved if asked for; then rewound to the ticket, or its batch norm
    re-estimated where nothing is refitted after it."""
    cfg, network = context.cfg, context.network()
    begins = cycle == 1 and stage == 1
    if begins:
        _say_beginning(cfg)
    there = network.sparsity
    if there and begins:
        LOGGER.info("The checkpoint's own zeros stay: %.2f%% before this pruning", 100 * there)
    begun = time.perf_counter()
    first = settings.before_growing(cfg, sparsity, there)
    share = settings.stages(cfg, sparsity)[stage - 1]
    if first is not None and share < 1:
        first = max(1 - (1 - first) ** share, there)
    result = _engine(context, network, first).prune(context.tensors("scores", SCORED))
    seconds = round(time.perf_counter() - begun, 2)
    _say_pruned(result, cycle, cycles)
    network.masks = result.masks
    recovered = Recovery()
    if cfg.prune.rewind is not None:
        # nothing is re-estimated or recovered now: it is the ticket as it was at that step that trains, and batch-norm
        # statistics of other weights, or weights fitted to the dense network's outputs, would make it another one
        rewind(network.model, _ticket(context, network), result.masks)
        LOGGER.info("Rewound to %s: the weights that stay, and all that is not pruned", cfg.prune.rewind)
    elif cfg.prune.refit == "none":
        recovered = recover_batch_norm(
            network.model, context.network("dense").model, cfg, context.splits, context.device
        )
    val_score = judged(context, network)
    return Pruned(
        val_accuracy=val_score,
        sparsity=round(result.sparsity, 6),
        layers={layer.name: round(layer.sparsity, 6) for layer in result.layers},
        pruning_seconds=seconds,
        fall_backs=tuple(result.fall_backs),
        summary=f"{100 * result.sparsity:.2f}% zeros, validation {context.task.metric.text(val_score)}",
        batch_norm_reestimated=recovered.batch_norm_reestimated,
        batch_norm=recovered.batch_norm,
    )


def prune_gradually(context: StepContext) -> Trained:
    """Fine-tune while the sparsity grows. Batch norm follows by itself: its statistics are the training's own."""
    cfg, network = context.cfg, context.network()
    _say_beginning(cfg)
    target = settings.target_sparsity(cfg)
    assert target is not None, "preflight refuses a pattern that fixes the sparsity"
    images = partial(calibration, cfg, context.splits, context.device)
    growing = GradualPruning(target, cfg.prune, batches=images, seed=cfg.seed, task=context.task)
    LOGGER.info("\n=== Fine-tuning ===")
    result, fall_backs = trained(context, network, fine_tuned(context, cfg), [growing])
    network.masks = growing.masks
    best, reached = round(result.best_score, 4), network.sparsity
    context.keep_network(network)
    return Trained(
        val_accuracy=best,
        best_epoch=result.best_epoch,
        fine_tune_seconds=round(result.seconds, 2),
        sparsity=round(reached, 6),
        updates=tuple(growing.points),
        fall_backs=(*growing.fall_backs, *fall_backs),
        summary=f"{100 * reached:.2f}% zeros, validation {context.task.metric.text(best)}",
    )


def calibration(cfg: Config, splits: Splits, device: torch.device) -> list[tuple[Tensor, Tensor] | Tensor] | None:
    """Training images for the scores and solvers that need them; with labels only where a score asks for labels."""
    p = cfg.prune
    by = ALLOCATIONS[p.allocation.name].facts.get("by")
    if not needs_of(p.score.name) and by is None and not SOLVERS[p.solver.name].facts.get("images"):
        return None
    count = min(p.calibration_images, len(splits.train))
    images = splits.train.subset(first_images(len(splits.train), count, cfg.seed))
    batches = eval_batches(images, batch_size=min(128, count), mean=splits.mean, std=splits.std, device=device)
    if needs_labels(p.score.name):
        return list(batches)
    return [shown for shown, _ in batches]


def distribution_of(values: Tensor, name: str) -> Distribution:
    """Least, most, mean and spread of scores; a BootcampError names a layer whose scores are no numbers."""
    stats = score_stats(values, name)
    return Distribution(min=stats.min, max=stats.max, mean=stats.mean, std=stats.std)


def _engine(context: StepContext, network: Network, sparsity: float | None) -> UnstructuredPruning:
    images = calibration(context.cfg, context.splits, context.device)
    chosen = replace(context.cfg.prune, sparsity=sparsity)
    model = network.model.to(context.device)
    return UnstructuredPruning(
        model, chosen, previous=network.masks or None, stats_batches=images, seed=context.cfg.seed, task=context.task
    )


def _ticket(context: StepContext, network: Network) -> dict[str, Tensor]:
    """The values of every tensor at the step that `prune.rewind` names."""
    dense, name = context.inputs["dense"], context.cfg.prune.rewind
    assert name is not None
    assert dense.network is not None
    return load_values(rewind_file(name, dense.network), network.recipe, network.model)


def _say_beginning(cfg: Config) -> None:
    p, target = cfg.prune, settings.target_sparsity(cfg)
    solver = "" if p.solver.name == "none" else f", {p.solver.name}"
    solver += "" if p.refit == "none" else ", refitted"
    LOGGER.info("Pruning: %s (%s, %s%s)", p.score.name, p.allocation.name, settings.pattern_text(cfg), solver)
    LOGGER.info("Target sparsity: %s", "as the pattern says" if target is None else f"{100 * target:.1f}%")
    LOGGER.info("Mode: %s", settings.mode_text(cfg))


def _say_pruned(result: UnstructuredResult, number: int, cycles: int) -> None:
    which = f"Cycle {number}/{cycles}: " if cycles > 1 else ""
    size = sum(layer.size for layer in result.layers)
    text = "%spruned to %.2f%% of %d layers' weights (%s)"
    LOGGER.info(text, which, 100 * result.sparsity, len(result.layers), f"{size:,}")
    say_left_out(result)
