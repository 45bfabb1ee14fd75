"""Structured pruning: groups -> scores -> how many each group loses -> cut -> slice proof."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, GoalNotMet, Problem, nearest, unknown
from pruning_bootcamp.pruning.channels.budget import TOLERANCE
from pruning_bootcamp.pruning.channels.calibration import Say, measure_groups
from pruning_bootcamp.pruning.channels.gradients import GRADIENTS
from pruning_bootcamp.pruning.channels.multiples import Multiples, check_round_to, resolve_round_to
from pruning_bootcamp.pruning.channels.proof import SliceProof, kept_outputs, prove_slice
from pruning_bootcamp.pruning.channels.removal import Reader
from pruning_bootcamp.pruning.channels.scores import (
    CHANNEL_SCORES,
    measured_on_images,
    needs_labels,
    needs_of,
    score_groups,
    why_not_scored,
)
from pruning_bootcamp.pruning.channels.width_schedules import WidthSchedule
from pruning_bootcamp.pruning.channels.widths import (
    Allocation,
    Budget,
    ChosenWidths,
    Limits,
    ScoredNetwork,
    choose_widths,
)
from pruning_bootcamp.pruning.graph import Group, cut_members, find_groups
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.pruning.sections import BUDGETS, StructuredSettings
from pruning_bootcamp.pruning.stats import Batches
from pruning_bootcamp.pruning.targets import check_patterns, matches
from pruning_bootcamp.schema import Choice, check_ranges, named
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task
from pruning_bootcamp.tasks.base import main_tensor
from pruning_bootcamp.tools.metrics import count_products
from pruning_bootcamp.tools.modes import beside

ImageBatches = Callable[[], Batches]
"""batches of images, or of (images, labels), each time anew"""


@dataclass(frozen=True)
class GroupPlan:
    """What a group keeps: `keep` numbers the root layer's channels that stay, ascending, of its `width`."""

    name: str
    width: int
    keep: Tensor
    layers: list[str]


@dataclass(frozen=True)
class StructuredPlan:
    """What would be cut and what it would cost, before anything is: as counted on a copy that was really cut.

    `groups` holds all that can be cut, also those which lose nothing; `uncuttable` the others with the reason;
    `limited` groups that lose less than they were due. `asked` and `achieved` are shares in the terms of `budget`
    (sparsity, flops_reduction or params_reduction). `round_to`: what widths are multiples of, None where they fall as
    they may; `narrow`: groups in smaller multiples, being too narrow; `round_to_why`: what `auto` came to and why.
    """

    groups: list[GroupPlan]
    uncuttable: dict[str, str]
    limited: dict[str, str]
    budget: str
    asked: float
    achieved: float
    macs_before: float
    macs_after: float
    params_before: int
    params_after: int
    baseline_macs: float
    baseline_params: int
    round_to: int | None = None
    narrow: dict[str, int] = field(default_factory=dict)
    round_to_why: str | None = None

    @property
    def macs_reduction(self) -> float:
        """Share of the baseline's multiply-accumulates that is saved."""
        return 1 - self.macs_after / self.baseline_macs

    @property
    def params_reduction(self) -> float:
        """Share of the baseline's parameters that is saved."""
        return 1 - self.params_after / self.baseline_params

    @property
    def fall_backs(self) -> list[str]:
        """What was done otherwise than asked: groups that lose less than they were due."""
        return [f"{name}: {reason}" for name, reason in self.limited.items()]


@dataclass(frozen=True)
class CutResult:
    """The cut network, the proof, and which output channels of each cut layer are left, ascending."""

    model: nn.Module
    proof: SliceProof
    kept: dict[str, Tensor]


def check_structured(
    settings: StructuredSettings | None = None, *, where: str = "structured", **names: Any
) -> list[Problem]:
    """Every problem with these settings, before any work starts."""
    s = settings or named(StructuredSettings, **names)
    problems = [] if s.score is None else CHANNEL_SCORES.check(s.score.name, s.score.args, f"{where}.score")[1]
    if s.allocation is not None and s.allocation not in get_args(Allocation):
        problems.append(Problem(f"{where}.allocation", unknown("allocation", s.allocation, get_args(Allocation))))
    given = [BUDGETS[name] for name in s.budget()]
    if len(given) != 1:
        budgets = ", ".join(BUDGETS.values())
        problems.append(
            Problem(f"{where}.sparsity", f"give exactly one budget ({budgets}), not {' and '.join(given)}.")
        )
    problems += check_ranges(s, where)
    problems += [
        Problem(f"{where}.{key}", f"{getattr(s, key)} is not between 0 and 1 (0.5 is half).")
        for key in given
        if getattr(s, key) == 0
    ]
    if s.sparsity is not None and s.max_sparsity < s.sparsity < 1:
        problems.append(
            Problem(
                f"{where}.sparsity",
                f"{s.sparsity} is more than a group may lose (max_sparsity {s.max_sparsity}). "
                "Lower it or raise max_sparsity.",
            )
        )
    return problems + check_round_to(s.round_to, f"{where}.round_to")


def plan_structured(
    model: nn.Module,
    example: Tensor,
    settings: StructuredSettings | None = None,
    *,
    min_width: int = 1,
    seed: int = 0,
    baseline_macs: float | None = None,
    baseline_params: int | None = None,
    scores: Mapping[str, Tensor] | None = None,
    losses: Mapping[str, Tensor] | None = None,
    images: ImageBatches | None = None,
    device: torch.device | None = None,
    **names: Any,
) -> StructuredPlan:
    """What to cut so that one budget is met; the model is not changed.

    What to cut is said by `settings`, or by its fields as keywords: score="l1", target_flops_reduction=0.5, ...
    sparsity: share of the channels. `local` takes round(sparsity * width) from every group, `global` the lowest of all
    groups together, `measured` the widths by which the network's outputs lose least. target_flops_reduction,
    target_params_reduction: share of the baseline (this model's own cost when none is given; give the original's when
    the model was made prunable at a price), achieved within 0.01, and not below where steps allow it. `round_to`:
    widths of cut groups are multiples of it; "auto": of what is quick on `device` (by default where the model is), or
    of less where that is too coarse; None or "none": as they fall. `exclude`: groups with a layer that matches keep all
    channels (patterns as in targets.find_targets). No group loses more than `max_sparsity` of its units or gets
    narrower than `min_width` channels. Scores are compared across groups relative
    to their group's mean; `scores` and `losses` are those of `score_channels`, where they are there already. `images`:
    batches to measure on, for the scores that need them and allocation measured; score obs and that allocation are
    chosen where neither is named.
    Raises BootcampError for wrong settings or a network without anything to cut, GoalNotMet when the budget can't be
    reached, saying what can.
    """
    s = settings or named(StructuredSettings, **names)
    problems = check_structured(s)
    if min_width < 1:
        problems.append(Problem("min_width", f"{min_width} is not a whole number from 1 up."))
    if problems:
        raise BootcampError(*problems)
    if scores is None:
        scored = score_channels(model, example, s, seed=seed, images=images)
        scores, losses = scored.scores, scored.losses
    s = chosen(s, measured=losses is not None)
    assert s.score is not None
    assert s.allocation is not None
    limits = Limits(min_width, s.max_sparsity)
    ((name, asked),) = s.budget().items()
    budget = Budget(name, asked, s.allocation, {"macs": baseline_macs, "params": baseline_params})

    copied, example = _at_hand(model, example)
    everything = find_groups(copied, example)
    left_out = _left_out(everything, s.score.name, s.exclude)
    left_out |= {
        group.name: f"the score {s.score.name}, or what its readers lose, can't be measured; the scores l1 and l2, "
        "with allocation=global, can cut it"
        for group in everything
        if group.name not in left_out and group.name not in scores
    }
    groups = [group for group in everything if group.name not in left_out]
    network = ScoredNetwork(copied, example, groups, scores, count_products(copied, example)[0], left_out, losses)
    multiples = resolve_round_to(s.round_to, device or example.device)
    return _plan(budget, *_coarsest(network, budget, multiples, limits))


def _coarsest(
    network: ScoredNetwork, budget: Budget, multiples: Multiples, limits: Limits
) -> tuple[ChosenWidths, int | None, str | None]:
    """What is chosen with the first of `multiples` that meets the budget, the multiple, and why it is that one."""
    auto, reasons = multiples.why is not None, []
    for multiple in multiples.choices:
        chosen = choose_widths(network, budget, replace(limits, round_to=multiple), falls_back=auto)
        last = multiple == multiples.choices[-1]
        off = abs(chosen.achieved - budget.asked) > TOLERANCE + 1e-9
        if chosen.problem is None and (last or not off):
            break
        if last and chosen.problem is not None:
            raise chosen.problem
        found = f" (nearest {chosen.achieved:.4f})" if chosen.taken else ""
        reasons.append(f"multiples of {multiple} can't meet {budget.name} {budget.asked:g} within {TOLERANCE:g}{found}")
    if not auto:
        return chosen, multiple, None
    if multiple is not None and chosen.narrow.keys() >= {group.name for group in chosen.groups}:
        multiple = max(chosen.narrow.values())
    why = f"auto -> {'null' if multiple is None else multiple} ({multiples.why})"
    if reasons:
        why += f"; stepped down from {multiples.choices[0]}: {'; '.join(reasons)}"
    narrow = [f"{name} in {each}s" for name, each in chosen.narrow.items()]
    return chosen, multiple, why + (f"; too narrow for it: {', '.join(narrow)}" if narrow else "")


def _plan(budget: Budget, chosen: ChosenWidths, multiple: int | None, why: str | None) -> StructuredPlan:
    schedules = [chosen.schedules[group.name] for group in chosen.groups]
    return StructuredPlan(
        groups=[_group_plan(group, chosen.gone(group.name)) for group in chosen.groups],
        uncuttable=chosen.left_out,
        limited=_limited(schedules, chosen.taken, budget.asked if budget.group_by_group else None),
        budget=budget.name,
        asked=budget.asked,
        achieved=chosen.achieved,
        macs_before=chosen.before["macs"],
        macs_after=chosen.after["macs"],
        params_before=round(chosen.before["params"]),
        params_after=round(chosen.after["params"]),
        baseline_macs=chosen.baseline["macs"],
        baseline_params=round(chosen.baseline["params"]),
        round_to=multiple,
        narrow=chosen.narrow,
        round_to_why=why,
    )


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
    copied, example = _at_hand(model, example)
    everything = find_groups(copied, example)
    left_out = _left_out(everything, name, s.exclude)
    groups = [group for group in everything if group.name not in left_out]
    if images is None or not by_images:
        return ChannelScores(score_groups(groups, name, args, seed))

    def unlabelled() -> Iterator[Tensor]:
        return (batch if isinstance(batch, Tensor) else batch[0] for batch in images())

    needs, losses = needs_of(name), s.allocation == "measured"
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


def cut_channels(model: nn.Module, example: Tensor, plan: StructuredPlan) -> CutResult:
    """A new model without the channels that the plan drops, and the slice proof of it; `model` is not changed.

    The new model has `model`'s mode, device and frozen parameters, and no traces of torch-pruning. Raises GoalNotMet,
    naming the first layer that differs, when the proof fails; BootcampError when the plan is another network's.
    """
    copied, example = _at_hand(model, example)
    groups = {group.name: group for group in find_groups(copied, example)}
    keep = {}
    for part in plan.groups:
        group = groups.get(part.name)
        if group is None or group.reason is not None or group.channels != part.width:
            found = (
                f"{group.channels} channels" if group is not None else f"no such group ({nearest(part.name, groups)}?)"
            )
            raise BootcampError(f"the plan cuts {part.name} with {part.width} channels, and this network has {found}.")
        keep[part.name] = _units(group, part.keep)
    cut = [groups[name] for name in keep]
    result = detached_copy(copied)
    cut_members(result, cut, keep)
    params = sum(parameter.numel() for parameter in result.parameters())
    if params != plan.params_after:
        raise GoalNotMet(f"the cut network has {params} parameters, and the plan foresaw {plan.params_after}.")
    kept = {path: channels for path, (_, channels) in kept_outputs(cut, keep).items()}
    return CutResult(result, prove_slice(copied, result, cut, keep, example), kept)


def _at_hand(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy to work on, and the example where its weights are."""
    return detached_copy(model), beside(model, example)


def _left_out(groups: Sequence[Group], score: str, exclude: Sequence[str]) -> dict[str, str]:
    """Group -> why it is not cut: by its nature, by the user's wish, or because the score says nothing about it."""
    named = {group.name: [group.name, *(m.path for m in group.members if m.writes)] for group in groups}
    check_patterns(exclude, [path for paths in named.values() for path in paths])
    reasons: dict[str, str] = {}
    for group in groups:
        by = next((p for p in exclude if any(matches(f"{path}.weight", p) for path in named[group.name])), None)
        reason = group.reason or (f"excluded by '{by}'" if by is not None else why_not_scored(score, group))
        if reason is not None:
            reasons[group.name] = reason
    return reasons


def _group_plan(group: Group, gone: Sequence[int]) -> GroupPlan:
    units = torch.ones(group.width, dtype=torch.bool)
    units[list(gone)] = False
    return GroupPlan(group.name, group.channels, group.root.index[units[group.root.unit]], group.layers)


def _units(group: Group, channels: Tensor) -> Tensor:
    """Keep mask over units from the root's channels that stay."""
    stays = torch.isin(group.root.index, channels)
    units = torch.zeros(group.width, dtype=torch.bool)
    units[group.root.unit[stays]] = True
    if not torch.equal(units[group.root.unit], stays) or int(stays.sum()) != len(channels) or not units.any():
        raise BootcampError(f"{group.name}: the plan's channels are not whole units of this group. Plan again.")
    return units


def _limited(steps: Sequence[WidthSchedule], taken: Mapping[str, int], share: float | None) -> dict[str, str]:
    """Groups that could not lose what they were due."""
    limited = {}
    for schedule in steps:
        gone, width = schedule.removed[taken[schedule.name]], len(schedule.order)
        due = None if share is None else round(share * width)
        if due is not None and gone != due:
            limited[schedule.name] = f"loses {gone} of {width}, not {due}, to keep within the limits"
        elif due is None and taken[schedule.name] == len(schedule.keys):
            limited[schedule.name] = f"loses {gone} of {width}, all that the limits allow"
    return limited
