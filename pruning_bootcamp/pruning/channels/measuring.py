"""What channels are worth: scores by name, and what is measured on images for them and for the widths."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.channels.calibration import Say, measure_groups
from pruning_bootcamp.pruning.channels.gradients import GRADIENTS
from pruning_bootcamp.pruning.channels.removal import Reader
from pruning_bootcamp.pruning.channels.scores import (
    CHANNEL_SCORES,
    measured_on_images,
    needs_labels,
    needs_of,
    score_groups,
    why_not_scored,
)
from pruning_bootcamp.pruning.graph import Group, find_groups
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.pruning.sections import StructuredSettings
from pruning_bootcamp.pruning.stats import Batches
from pruning_bootcamp.pruning.targets import check_patterns, matches
from pruning_bootcamp.schema import Choice, named
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.tasks.base import main_tensor
from pruning_bootcamp.tools.modes import beside

ImageBatches = Callable[[], Batches]
"""batches of images, or of (images, labels), each time anew"""


@dataclass(frozen=True)
class ChannelScores:
    """Group -> one value a unit that can be cut, higher = keep; and, where measured, what the network loses by width.

    `losses[group][n]`: once the n units of the lowest scores are gone from this group alone, its readers refitted.
    """

    scores: dict[str, Tensor]
    losses: dict[str, Tensor] | None = None


def chosen(settings: StructuredSettings, measured: bool) -> StructuredSettings:
    """The settings with score and allocation filled in; `measured`: there are images to measure on, or measurements."""
    score = settings.score or Choice("obs" if measured else "bn_scale")
    return replace(settings, score=score, allocation=settings.allocation or ("measured" if measured else "global"))


def needs_images(settings: StructuredSettings) -> bool:
    """Whether anything is measured on images before the cut, where there are any; a refit comes after it."""
    s = chosen(settings, measured=settings.refit == "closed_form")
    assert s.score is not None
    return s.allocation == "measured" or measured_on_images(s.score.name)


def score_channels(
    model: nn.Module,
    example: Tensor,
    settings: StructuredSettings | None = None,
    *,
    seed: int = 0,
    images: ImageBatches | None = None,
    outputs: Callable[[Any], Tensor] = main_tensor,
    task: Task = IMAGE_CLASSIFICATION,
    say: Say = lambda number, total, group: None,
    **names: Any,
) -> ChannelScores:
    """What `plan_structured` goes by; BootcampError where it is measured on images and there are none.

    `images`: batches for the scores that need them and the allocation measured; obs and that are the default where
    there are any. With labels, as (images, labels), for the scores that need those: `task` says what the loss is.
    `outputs` finds the tensor that counts among what the network gives; `say(number, total, group)` is told of each
    group measured.
    """
    s = chosen(settings or named(StructuredSettings, **names), measured=images is not None)
    assert s.score is not None
    name, args = s.score.name, _score_args(s)
    by_images = [f"score {name}"] if measured_on_images(name) else []
    by_images += ["allocation measured"] if s.allocation == "measured" else []
    if by_images and images is None:
        what = "batches of (images, labels)" if needs_labels(name) else "batches"
        raise BootcampError(f"{' and '.join(by_images)}: can't be had without images=, {what} to measure on.")
    copied, example = at_hand(model, example)
    everything = find_groups(copied, example)
    unscored = left_out(everything, s.exclude, name)
    groups = [group for group in everything if group.name not in unscored]
    if images is None or not by_images:
        return ChannelScores(score_groups(groups, name, args, seed))

    def unlabelled() -> Iterator[Tensor]:
        return (batch if isinstance(batch, Tensor) else batch[0] for batch in images())

    needs, losses = needs_of(name), s.allocation == "measured"
    if {"moments", "removal_error"}.issubset(needs):
        raise BootcampError(
            f"score {name}: moments and removal_error are not measured together. Take moments alone: removal_errors of "
            "pruning_bootcamp.pruning.channels.removal finds the other from them."
        )
    look: dict[str, Any] = {"losses": losses, "outputs": outputs, "say": say}
    measured: dict[str, Mapping[str, Any]] = {
        need: measure(copied, groups, images(), task) for need, measure in GRADIENTS.items() if need in needs
    }
    groups = [group for group in groups if all(group.name in found for found in measured.values())]
    if "moments" in needs:

        def by_readers(group: Group, readers: Sequence[Reader]) -> Tensor:
            return score_groups([group], name, args, seed, measured | {"moments": {group.name: readers}})[group.name]

        found = measure_groups(copied, groups, unlabelled, score=by_readers, **look)
        return ChannelScores(found.scores, found.losses if losses else None)
    if "removal_error" in needs:
        found = measure_groups(copied, groups, unlabelled, **look)
        errors = {group: _by_unit(found.gone[group], found.errors[group]) for group in found.gone}
        groups = [group for group in groups if group.name in errors]
        scores = score_groups(groups, name, args, seed, measured | {"removal_error": errors})
        return ChannelScores(scores, found.losses if losses else None)
    scores = score_groups(groups, name, args, seed, measured)
    if not losses:
        return ChannelScores(scores)
    orders = {group: torch.sort(score, stable=True).indices.tolist() for group, score in scores.items()}
    found = measure_groups(copied, groups, unlabelled, orders=orders, **look)
    return ChannelScores({group: scores[group] for group in found.gone}, found.losses)


def _by_unit(gone: Sequence[int], errors: Tensor) -> Tensor:
    """For each unit the error once it is gone."""
    found = torch.empty(len(gone), dtype=torch.double)
    found[torch.tensor(gone)] = errors[1:]
    return found


def _score_args(settings: StructuredSettings) -> dict[str, Any]:
    assert settings.score is not None
    args, problems = CHANNEL_SCORES.check(settings.score.name, settings.score.args, "score")
    if problems:
        raise BootcampError(*problems)
    return args


def at_hand(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy to work on, and the example where its weights are."""
    return detached_copy(model), beside(model, example)


def left_out(groups: Sequence[Group], exclude: Sequence[str], score: str | None = None) -> dict[str, str]:
    """Group -> why it is not cut: by its nature, by the user's wish, or because the score says nothing about it."""
    named = {group.name: [group.name, *(m.path for m in group.members if m.writes)] for group in groups}
    check_patterns(exclude, [path for paths in named.values() for path in paths])
    reasons: dict[str, str] = {}
    for group in groups:
        by = next((p for p in exclude if any(matches(f"{path}.weight", p) for path in named[group.name])), None)
        reason = group.reason or (f"excluded by '{by}'" if by is not None else None)
        if reason is None and score is not None:
            reason = why_not_scored(score, group)
        if reason is not None:
            reasons[group.name] = reason
    return reasons
