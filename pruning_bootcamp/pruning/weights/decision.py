"""Scores and a sparsity -> keep masks: pure functions of tensors, which change nothing."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.pruning.masks import Masks
from pruning_bootcamp.pruning.weights.choices import Choices


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
    settled = {name: earlier_first(score, kept_before.get(name), choices) for name, score in scores.items()}
    ranked = settled
    if counting is not None and counting is not scores:
        ranked = {name: earlier_first(score, kept_before.get(name), choices) for name, score in counting.items()}
    counts, notes = _counts(ranked, sparsity, choices, kept_before)
    masks: Masks = {}
    for name, score in settled.items():
        masks[name] = choose(score, counts[name], kept_before.get(name), choices)
    return masks, notes


def choose(score: Tensor, count: int, kept: Tensor | None, choices: Choices) -> Tensor:
    """Keep mask of one layer in the pattern, with `count` zeros, and with those of `kept` too.

    Higher score = keep. More than `count` zeros where N:M or blocks can't take every earlier one in.
    """
    keep: Tensor = choices.pattern(score, count)
    if kept is not None:
        keep &= kept.to(keep.device)  # N:M and blocks can't always take every earlier zero in
    return keep


def unit_of(choices: Choices) -> int:
    """How many weights go together."""
    if not choices.pattern.has("pool"):
        return 1
    args = choices.pattern.args
    return int(args.get("rows", 4)) * int(args.get("columns", 4))


def earlier_first(score: Tensor, kept: Tensor | None, choices: Choices) -> Tensor:
    """The score, -inf where a weight was pruned before (for patterns of units: where the whole unit was)."""
    if kept is None or bool(kept.all()):
        return score
    kept = kept.to(score.device)
    if choices.pattern.has("pool"):
        # zeros exactly where no weight of a unit was left
        kept = choices.pattern(kept.to(score.dtype), gone_units(kept, choices))
    return score.masked_fill(~kept, -torch.inf)


def gone_units(keep: Tensor, choices: Choices) -> int:
    """How many zeros are in units of which nothing is left; all of them where weights go one by one."""
    if not choices.pattern.has("pool"):
        return keep.numel() - int(torch.count_nonzero(keep))
    share_kept: Tensor = choices.pattern.fact("pool", keep.float())
    return int(torch.count_nonzero(share_kept == 0)) * (keep.numel() // share_kept.numel())


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
            Problem(
                "prune.sparsity",
                f"{sparsity} is below the {sum(gone.values()) / total:.6g} that earlier masks prune, and pruned "
                "weights don't come back. Ask for more, or start from the dense model.",
            )
        )
    notes = []
    for name, least in gone.items():
        if counts[name] < least:
            notes.append(f"{name}: {least - counts[name]} more zeros than allocated, from earlier masks")
            counts[name] = least
    return {name: count * (scores[name].numel() // units[name].numel()) for name, count in counts.items()}, notes
