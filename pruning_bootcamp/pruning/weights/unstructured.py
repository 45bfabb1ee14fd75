"""The engine: targets -> statistics -> scores -> counts -> masks -> solver -> zeros. All weights' pruning goes here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.pruning.layers.im2col import unknown_product
from pruning_bootcamp.pruning.masks import Masks, apply_masks, check_masks
from pruning_bootcamp.pruning.sections import PruneSettings
from pruning_bootcamp.pruning.solvers import LayerwiseProblem, put_back_on_error
from pruning_bootcamp.pruning.stats import Batches, LayerStats, gather, unmeasured
from pruning_bootcamp.pruning.stats.base import device_of, images_in
from pruning_bootcamp.pruning.targets import Targets, choose_targets, swap_channels, transposed_groups
from pruning_bootcamp.pruning.weights.choices import Choices, counting_score, resolve
from pruning_bootcamp.pruning.weights.decision import choose, decide_masks, earlier_first, gone_units, unit_of
from pruning_bootcamp.pruning.weights.schedules import iterative_sparsities
from pruning_bootcamp.pruning.weights.scores import (
    ScoreStats,
    check_finite,
    importance,
    layer_seed,
    needs_of,
    score_stats,
)
from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.schema import named
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.tools.metrics.kinds import BARE
from pruning_bootcamp.tools.modes import detached_clone

__all__ = [
    "LayerSparsity",
    "UnstructuredPruning",
    "UnstructuredResult",
    "check_unstructured",
    "iterative_sparsities",
    "prune_unstructured",
]


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
    """targets that the pattern does not fit, or that the score or solver does not know -> reason"""
    left_out: dict[str, str]
    """weights that include, exclude or freezing keep out of the targets -> reason"""
    notes: list[str]
    """what a user should know: layers that lost every weight, counts raised to what was pruned before"""
    sparsity: float

    @property
    def fall_backs(self) -> list[str]:
        """What was done otherwise than asked: layers that the pattern skipped, damping that had to be raised."""
        return [f"{name}: skipped, {reason}" for name, reason in self.skipped.items()] + self.notes


def check_unstructured(
    settings: PruneSettings | None = None, *, has_batches: bool = True, where: str = "prune", **choices: Any
) -> list[Problem]:
    """Everything that is wrong with the choices, as `prune.sparsity: 1.4 is not in [0, 1).`; no model is needed."""
    return resolve(settings or named(PruneSettings, **choices), has_batches=has_batches, where=where)[1]


def prune_unstructured(
    model: nn.Module,
    settings: PruneSettings | None = None,
    *,
    previous: Mapping[str, Tensor] | None = None,
    stats_batches: Batches | None = None,
    seed: int = 0,
    task: Task = IMAGE_CLASSIFICATION,
    **choices: Any,
) -> UnstructuredResult:
    """Zero the least important weights in place (exact +0.0) and say what was done; nothing changes on an error.

    What to prune is said by `settings`, or by its fields as keywords: sparsity=0.8, score="magnitude",
    score_args={"p": 2}, allocation="global", pattern="2:4", solver, include, exclude. `sparsity` is the share of all
    target weights that is zero afterwards (of those in layers that are not skipped); None where pattern ("2:4") or
    allocation (`per_layer`) says it. `previous` masks are kept: what was pruned stays pruned and counts towards the
    sparsity. `stats_batches` are what the score's statistics are measured on: (images, labels), or images alone where
    `needs_labels(score)` is False; `task` says what the loss is. Mode, gradients and random state
    are left as found.
    """
    pruning = UnstructuredPruning(
        model, settings, previous=previous, stats_batches=stats_batches, seed=seed, task=task, **choices
    )
    return pruning.prune(pruning.score(pruning.calibrate()))


Tensors = dict[str, dict[str, Tensor]]
"""kind (a statistic, or the scores' use) -> weight name -> values"""


class UnstructuredPruning:
    """`prune_unstructured` in its three steps, each a function of the one before: what they give can be kept.

    calibrate() -> statistics; score(statistics) -> scores; prune(scores) changes the model. The arguments are those of
    `prune_unstructured`. What `calibrate` and `score` give depends on neither sparsity nor pattern, but for layers that
    the pattern does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: PruneSettings | None = None,
        *,
        previous: Mapping[str, Tensor] | None = None,
        stats_batches: Batches | None = None,
        seed: int = 0,
        task: Task = IMAGE_CLASSIFICATION,
        **names: Any,
    ) -> None:
        settings = settings or named(PruneSettings, **names)
        choices, problems = resolve(settings, has_batches=stats_batches is not None, where="prune")
        if choices is None:
            raise BootcampError(*problems)
        self.model, self.sparsity, self.seed, self.task = model, settings.sparsity, seed, task
        self._choices = choices
        self._targets = choose_targets(model, include=settings.include, exclude=settings.exclude)
        check_masks(model, previous or {})
        self._earlier = _beside_weights(model, previous or {})
        _check_weights(self._targets.chosen)
        self._solved = bool(choices.solver.entry.facts.get("images"))
        if self._solved and isinstance(stats_batches, Iterator):  # gone over by the statistics, and by the solver
            stats_batches = list(stats_batches)
        self._batches = stats_batches
        self._groups = {name: transposed_groups(model, name) for name in self._targets.chosen}
        needs = (*needs_of(choices.score.entry.name), *needs_of(self._counting))
        self._unknown = _unknown(model, self._targets.chosen, needs, choices)
        self._skipped = self._unknown | _misfits(self._targets, self._groups, choices, self._unknown)
        self._fitting = {n: weight for n, weight in self._targets.chosen.items() if n not in self._skipped}

    @property
    def _counting(self) -> str:
        return counting_score(self._choices)

    def calibrate(self) -> Tensors:
        """Statistic -> weight name -> values, measured on the batches; empty where the weights alone are enough."""
        needs = (*needs_of(self._choices.score.entry.name), *needs_of(self._counting))
        measured = {n: weight for n, weight in self._targets.chosen.items() if n not in self._unknown}
        return gather(self.model, measured, needs, self._batches, self.seed, self.task)

    def score(self, statistics: Mapping[str, Mapping[str, Tensor]]) -> Tensors:
        """ "scores" (higher = keep) and, where the allocation counts by others, "counting": weight name -> values."""
        stats = {
            name: LayerStats(name, layer_seed(self.seed, name), {need: of[name] for need, of in statistics.items()})
            for name in self._fitting
        }
        chosen = self._choices.score
        named = {"scores": (chosen.entry.name, chosen.args)}
        if self._counting != chosen.entry.name:
            named["counting"] = (self._counting, {})
        return {
            use: {n: importance(weight, by, args, stats[n]).values for n, weight in self._fitting.items()}
            for use, (by, args) in named.items()
        }

    def prune(self, scored: Mapping[str, Mapping[str, Tensor]]) -> UnstructuredResult:
        """Decide the masks, let the solver work, write the zeros; nothing changes on an error."""
        choices, groups, earlier = self._choices, self._groups, self._earlier
        images = _images(self._batches or (), device_of(self._targets.chosen), self.seed) if self._solved else []
        scores = scored["scores"]
        oriented, counting = (
            {name: swap_channels(values.to(self._fitting[name].device), groups[name]) for name, values in each.items()}
            for each in (scores, scored.get("counting", scores))
        )
        kept_before = {name: swap_channels(earlier[name], groups[name]) for name in self._fitting if name in earlier}
        decided, notes = decide_masks(oriented, self.sparsity, choices, kept_before, counting)
        masks = {name: swap_channels(keep, groups[name]).contiguous() for name, keep in decided.items()}

        def choose_part(score: Tensor, count: int, kept: Tensor | None) -> Tensor:
            score = earlier_first(score, kept, choices)
            if choices.pattern.has("fixed_count"):  # earlier zeros that do not fit N:M come on top, part by part
                count = choices.pattern.fact("fixed_count", score)
            return choose(score, count, kept, choices)

        layerwise = LayerwiseProblem(
            model=self.model,
            masks=masks,
            images=images,
            reference=detached_clone(self.model) if images else None,
            choose=choose_part,
            fits=lambda shape: not choices.pattern.fact("misfit", shape),
            unit=unit_of(choices),
            gone=lambda keep: gone_units(keep, choices),
            earlier=earlier,
            notes=notes,
        )
        with put_back_on_error(layerwise), preserved_rng():
            torch.manual_seed(self.seed)
            masks = {**earlier, **choices.solver(layerwise)}
            if self._solved:
                _check_weights(self._fitting)
        apply_masks(self.model, masks)
        stats = {name: score_stats(values, name) for name, values in scores.items()}
        return _result(self._targets.chosen, masks, stats, self._skipped, self._targets.left_out, notes)


def _beside_weights(model: nn.Module, masks: Mapping[str, Tensor]) -> Masks:
    """The masks where their weights are: those of a checkpoint or a training lie on the CPU."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {name: keep.to(parameters[name].device) for name, keep in masks.items()}


def _images(batches: Batches, device: torch.device, seed: int) -> list[Tensor]:
    with preserved_rng():
        torch.manual_seed(seed)  # a loader that shuffles
        return list(images_in(batches, device))


def _unknown(
    model: nn.Module, targets: Mapping[str, nn.Parameter], needs: Sequence[str], choices: Choices
) -> dict[str, str]:
    """Targets that score, allocation or solver can't work on, with the reason; an error when those are all."""
    found = unmeasured(model, targets, needs)
    if choices.solver.entry.facts.get("images"):
        for name in targets:
            path, _, attribute = name.rpartition(".")
            if reason := unknown_product(model.get_submodule(path), attribute):
                found.setdefault(name, f"{choices.solver.entry.name}: {reason}")
    if len(found) == len(targets):
        first = next(iter(found))
        raise BootcampError(
            f"prune: none of {len(targets)} layers is left, first {first}: {found[first]}. "
            "Choose another score or solver."
        )
    return found


def _misfits(
    targets: Targets, groups: Mapping[str, int | None], choices: Choices, unknown: Mapping[str, str]
) -> dict[str, str]:
    """Targets that the pattern can't fit, with the reason; an error when it fits none."""
    skipped = {}
    rest = {name: weight for name, weight in targets.chosen.items() if name not in unknown}
    for name, weight in rest.items():
        shape = tuple(swap_channels(torch.empty(weight.shape, device="meta"), groups[name]).shape)
        if name in targets.bare and choices.pattern.has("misfit"):
            skipped[name] = f"{BARE}: which side is its input is not known"
        elif reason := choices.pattern.fact("misfit", shape):
            skipped[name] = str(reason)
    if len(skipped) == len(rest):
        first = next(iter(skipped))
        raise BootcampError(
            f"prune.pattern: '{choices.pattern.entry.name}' fits none of {len(rest)} layers, first {first}: "
            f"{skipped[first]}."
        )
    return skipped


def _check_weights(weights: Mapping[str, nn.Parameter]) -> None:
    problems: list[Problem] = []
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
    scores: Mapping[str, ScoreStats],
    skipped: dict[str, str],
    left_out: dict[str, str],
    notes: list[str],
) -> UnstructuredResult:
    layers = []
    for name, weight in targets.items():
        zeros = weight.numel() - int(torch.count_nonzero(weight))
        layers.append(LayerSparsity(name, weight.numel(), zeros, zeros / weight.numel(), scores.get(name)))
        if zeros == weight.numel() and name not in skipped:
            notes.append(f"{name}: every weight is pruned, nothing passes this layer any more")
    total = sum(layer.zeros for layer in layers) / sum(layer.size for layer in layers)
    return UnstructuredResult(masks, layers, skipped, left_out, notes, total)
