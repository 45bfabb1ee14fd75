"""The engine: targets -> statistics -> scores -> counts -> masks -> solver -> zeros. All weights' pruning goes here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.choices import Choices, counting_score, resolve
from pruning_bootcamp.pruning.masks import Masks, apply_masks, check_masks
from pruning_bootcamp.pruning.schedules import iterative_sparsities
from pruning_bootcamp.pruning.scores import (
    ImportanceScores,
    ScoreStats,
    check_finite,
    importance,
    layer_seed,
    needs_of,
)
from pruning_bootcamp.pruning.solvers import Task, put_back_on_error
from pruning_bootcamp.pruning.stats import Batches, LayerStats, gather
from pruning_bootcamp.pruning.stats.base import device_of, images_in
from pruning_bootcamp.pruning.targets import choose_targets, swap_channels, transposed_groups
from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.tools.modes import detached_clone

__all__ = ["LayerSparsity", "UnstructuredResult", "check_unstructured", "iterative_sparsities", "prune_unstructured"]


@dataclass(frozen=True)
class LayerSparsity:
    """One target after pruning. `stats` are its scores'; None where the layer was skipped."""

    name: str
    size: int
    zeros: int
    sparsity: float
    stats: ScoreStats | None


@dataclass(frozen=True)
class UnstructuredResult:
    """What was pruned, what was not and why, and the share of all target weights that is now zero."""

    masks: Masks
    """name -> keep mask (True stays), of every pruned layer"""
    layers: list[LayerSparsity]
    """every target, skipped ones too: together they are what `sparsity` is a share of"""
    skipped: dict[str, str]
    """targets that the pattern does not fit -> reason"""
    left_out: dict[str, str]
    """weights that include, exclude or freezing keep out of the targets -> reason"""
    notes: list[str]
    """what a user should know: layers that lost every weight, counts raised to what was pruned before"""
    sparsity: float


def check_unstructured(
    *,
    sparsity: float | None,
    score: str = "magnitude",
    score_args: Mapping[str, Any] | None = None,
    allocation: str = "uniform",
    allocation_args: Mapping[str, Any] | None = None,
    pattern: str | int = "unstructured",
    pattern_args: Mapping[str, Any] | None = None,
    solver: str = "none",
    solver_args: Mapping[str, Any] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    has_batches: bool = True,
    where: str = "prune",
) -> list[str]:
    """Everything that is wrong with the choices, as `prune.sparsity: 1.4 is not in [0, 1).`; no model is needed."""
    return resolve(
        sparsity=sparsity,
        score=(score, score_args),
        allocation=(allocation, allocation_args),
        pattern=(pattern, pattern_args),
        solver=(solver, solver_args),
        include=include,
        exclude=exclude,
        has_batches=has_batches,
        where=where,
    )[1]


def prune_unstructured(
    model: nn.Module,
    *,
    sparsity: float | None,
    score: str = "magnitude",
    score_args: Mapping[str, Any] | None = None,
    allocation: str = "uniform",
    allocation_args: Mapping[str, Any] | None = None,
    pattern: str | int = "unstructured",
    pattern_args: Mapping[str, Any] | None = None,
    solver: str = "none",
    solver_args: Mapping[str, Any] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    previous: Mapping[str, Tensor] | None = None,
    stats_batches: Batches | None = None,
    seed: int = 0,
) -> UnstructuredResult:
    """Zero the least important weights in place (exact +0.0) and say what was done; nothing changes on an error.

    `sparsity` is the share of all target weights that is zero afterwards (of those in layers that the pattern fits);
    None where pattern ("2:4") or allocation (`per_layer`) says it. `previous` masks are kept: what was pruned stays
    pruned and counts towards the sparsity. `stats_batches` are what the score's statistics are measured on: (images,
    labels), or images alone where `needs_labels(score)` is False. The model's mode, gradients and random state are left
    as found.
    """
    choices, problems = resolve(
        sparsity=sparsity,
        score=(score, score_args),
        allocation=(allocation, allocation_args),
        pattern=(pattern, pattern_args),
        solver=(solver, solver_args),
        include=include,
        exclude=exclude,
        has_batches=stats_batches is not None,
        where="prune",
    )
    if choices is None:
        raise BootcampError(*problems)
    targets = choose_targets(model, include=include, exclude=exclude)
    earlier = dict(previous or {})
    check_masks(model, earlier)
    _check_weights(targets.chosen)

    solved = bool(choices.solver.entry.facts.get("images"))
    if solved and isinstance(stats_batches, Iterator):  # gone over by the statistics, and again by the solver
        stats_batches = list(stats_batches)
    images = _images(stats_batches or (), device_of(targets.chosen), seed) if solved else []
    by = counting_score(choices)
    statistics = gather(model, targets.chosen, (*needs_of(score), *needs_of(by)), stats_batches, seed)
    groups = {name: transposed_groups(model, name) for name in targets.chosen}
    skipped = _misfits(targets.chosen, groups, choices)
    fitting = {name: weight for name, weight in targets.chosen.items() if name not in skipped}
    stats = {
        name: LayerStats(name, layer_seed(seed, name), {need: found[name] for need, found in statistics.items()})
        for name in fitting
    }
    scores = {name: importance(weight, score, choices.score.args, stats[name]) for name, weight in fitting.items()}

    counted = scores
    if by != score:
        counted = {name: importance(weight, by, None, stats[name]) for name, weight in fitting.items()}
    oriented, counting = (
        {name: swap_channels(some.values, groups[name]) for name, some in each.items()} for each in (scores, counted)
    )
    kept_before = {name: swap_channels(earlier[name], groups[name]) for name in fitting if name in earlier}
    decided, notes = decide_masks(oriented, sparsity, choices, kept_before, counting)
    masks = {name: swap_channels(keep, groups[name]).contiguous() for name, keep in decided.items()}

    def choose(score: Tensor, count: int, kept: Tensor | None) -> Tensor:
        score = _earlier_first(score, kept, choices)
        if choices.pattern.has("fixed_count"):  # earlier zeros that do not fit N:M come on top of it, part by part
            count = choices.pattern.fact("fixed_count", score)
        return _choose(score, count, kept, choices)

    task = Task(
        model=model,
        masks=masks,
        images=images,
        reference=detached_clone(model) if images else None,
        choose=choose,
        fits=lambda shape: not choices.pattern.fact("misfit", shape),
        unit=_unit(choices),
        gone=lambda keep: _gone(keep, choices),
        earlier=earlier,
        notes=notes,
    )
    with put_back_on_error(task), preserved_rng():
        torch.manual_seed(seed)
        masks = {**earlier, **choices.solver(task)}
        if solved:
            _check_weights(fitting)
    apply_masks(model, masks)
    return _result(targets.chosen, masks, scores, skipped, targets.left_out, notes)


def decide_masks(
    scores: Mapping[str, Tensor],
    sparsity: float | None,
    choices: Choices,
    kept_before: Mapping[str, Tensor],
    counting: Mapping[str, Tensor] | None = None,
) -> tuple[Masks, list[str]]:
    """Scores to keep masks ([out, in, *kernel], higher = keep), and notes; nothing is changed.

    `counting` scores say how many go in each layer, where others than `scores`. Earlier zeros come first in every
    order, so they are part of the count and stay pruned.
    """
    settled = {name: _earlier_first(score, kept_before.get(name), choices) for name, score in scores.items()}
    ranked = settled
    if counting is not None and counting is not scores:
        ranked = {name: _earlier_first(score, kept_before.get(name), choices) for name, score in counting.items()}
    counts, notes = _counts(ranked, sparsity, choices, kept_before)
    masks: Masks = {}
    for name, score in settled.items():
        masks[name] = _choose(score, counts[name], kept_before.get(name), choices)
    return masks, notes


def _choose(score: Tensor, count: int, kept: Tensor | None, choices: Choices) -> Tensor:
    keep: Tensor = choices.pattern(score, count)
    if kept is not None:
        keep &= kept.to(keep.device)  # N:M and blocks can't always take every earlier zero in
    return keep


def _unit(choices: Choices) -> int:
    """How many weights go together."""
    if not choices.pattern.has("pool"):
        return 1
    args = choices.pattern.args
    return int(args.get("rows", 4)) * int(args.get("columns", 4))


def _earlier_first(score: Tensor, kept: Tensor | None, choices: Choices) -> Tensor:
    """The score, -inf where a weight was pruned before (for patterns of units: where the whole unit was)."""
    if kept is None or bool(kept.all()):
        return score
    kept = kept.to(score.device)
    if choices.pattern.has("pool"):
        # zeros exactly where no weight of a unit was left
        kept = choices.pattern(kept.to(score.dtype), _gone(kept, choices))
    return score.masked_fill(~kept, -torch.inf)


def _gone(keep: Tensor, choices: Choices) -> int:
    """How many zeros are in units of which nothing is left; all of them where weights go one by one."""
    if not choices.pattern.has("pool"):
        return keep.numel() - int(torch.count_nonzero(keep))
    share_kept: Tensor = choices.pattern.fact("pool", keep.float())
    return int(torch.count_nonzero(share_kept == 0)) * (keep.numel() // share_kept.numel())


def _images(batches: Batches, device: torch.device, seed: int) -> list[Tensor]:
    with preserved_rng():
        torch.manual_seed(seed)  # a loader that shuffles
        return list(images_in(batches, device))


def _counts(
    scores: Mapping[str, Tensor], sparsity: float | None, choices: Choices, kept_before: Mapping[str, Tensor]
) -> tuple[dict[str, int], list[str]]:
    """How many weights go in each layer, never fewer than went before."""
    if choices.pattern.has("fixed_count"):
        return {name: choices.pattern.fact("fixed_count", score) for name, score in scores.items()}, []
    units = {name: choices.pattern.fact("pool", score) for name, score in scores.items()}
    units = {name: scores[name] if unit is None else unit for name, unit in units.items()}
    counts = choices.allocation(units, sparsity)
    gone = {name: int(torch.count_nonzero(units[name] == -torch.inf)) for name in kept_before}
    short = sum(gone.values()) - sum(counts.values())
    if short > len(counts):  # rounding layer by layer can differ by one weight each
        total = sum(unit.numel() for unit in units.values())
        raise BootcampError(
            f"prune.sparsity: {sparsity} is below the {sum(gone.values()) / total:.6g} that earlier masks prune, and "
            "pruned weights don't come back. Ask for more, or start from the dense model."
        )
    notes = []
    for name, least in gone.items():
        if counts[name] < least:
            notes.append(f"{name}: {least - counts[name]} more zeros than allocated, from earlier masks")
            counts[name] = least
    return {name: count * (scores[name].numel() // units[name].numel()) for name, count in counts.items()}, notes


def _misfits(targets: Mapping[str, nn.Parameter], groups: Mapping[str, int | None], choices: Choices) -> dict[str, str]:
    """Targets that the pattern can't fit, with the reason; an error when it fits none."""
    skipped = {}
    for name, weight in targets.items():
        shape = tuple(swap_channels(torch.empty(weight.shape, device="meta"), groups[name]).shape)
        if reason := choices.pattern.fact("misfit", shape):
            skipped[name] = str(reason)
    if len(skipped) == len(targets):
        first = next(iter(skipped))
        raise BootcampError(
            f"prune.pattern: '{choices.pattern.entry.name}' fits none of {len(targets)} layers, first {first}: "
            f"{skipped[first]}."
        )
    return skipped


def _check_weights(weights: Mapping[str, nn.Parameter]) -> None:
    problems: list[str] = []
    for name, weight in weights.items():
        try:
            check_finite(weight, f"{name}: weights")
        except BootcampError as error:
            problems += error.problems
    if problems:
        raise BootcampError(*problems)


def _result(
    targets: Mapping[str, nn.Parameter],
    masks: Masks,
    scores: Mapping[str, ImportanceScores],
    skipped: dict[str, str],
    left_out: dict[str, str],
    notes: list[str],
) -> UnstructuredResult:
    layers = []
    for name, weight in targets.items():
        zeros = weight.numel() - int(torch.count_nonzero(weight))
        stats = scores[name].stats if name in scores else None
        layers.append(LayerSparsity(name, weight.numel(), zeros, zeros / weight.numel(), stats))
        if zeros == weight.numel() and name not in skipped:
            notes.append(f"{name}: every weight is pruned, nothing passes this layer any more")
    total = sum(layer.zeros for layer in layers) / sum(layer.size for layer in layers)
    return UnstructuredResult(masks, layers, skipped, left_out, notes, total)
