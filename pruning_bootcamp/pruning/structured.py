"""Structured pruning: groups -> scores -> how many each group loses -> cut -> slice proof."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, GoalNotMet, nearest, unknown
from pruning_bootcamp.pruning.budget import (
    TOLERANCE,
    Costs,
    Ladder,
    Measure,
    make_ladder,
    most_reachable,
    nearest_stop,
    shrink_to,
)
from pruning_bootcamp.pruning.channel_scores import CHANNEL_SCORES, score_groups, why_not_scored
from pruning_bootcamp.pruning.groups import Group, cut_members, find_groups
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.pruning.proof import SliceProof, prove_slice
from pruning_bootcamp.pruning.targets import check_patterns, matches

Allocation = Literal["local", "global"]
_MEASURES: dict[str, Measure] = {"sparsity": "channels", "flops_reduction": "macs", "params_reduction": "params"}


@dataclass(frozen=True)
class GroupPlan:
    """What a group keeps: `keep` numbers the root layer's channels that stay, ascending, of its `width`."""

    name: str
    width: int
    keep: Tensor
    layers: list[str]


@dataclass(frozen=True)
class StructuredPlan:
    """What would be cut and what it would cost, before anything is.

    `groups` holds all that can be cut, also those which lose nothing; `uncuttable` the others with the reason;
    `limited` groups that lose less than they were due. `asked` and `achieved` are shares in the terms of `budget`
    (sparsity, flops_reduction or params_reduction).
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
    model: nn.Module
    proof: SliceProof


def check_structured(
    *,
    score: str = "bn_scale",
    score_args: Mapping[str, Any] | None = None,
    allocation: str = "global",
    sparsity: float | None = None,
    flops_reduction: float | None = None,
    params_reduction: float | None = None,
    round_to: int | None = None,
    min_width: int = 1,
    max_sparsity: float = 0.9,
    where: str = "structured",
) -> list[str]:
    """Every problem with these settings, before any work starts."""
    _, problems = CHANNEL_SCORES.check(score, score_args or {}, f"{where}.score")
    if allocation not in get_args(Allocation):
        problems.append(f"{where}.allocation: {unknown('allocation', allocation, get_args(Allocation))}")
    budgets = {"sparsity": sparsity, "flops_reduction": flops_reduction, "params_reduction": params_reduction}
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        problems.append(f"{where}.sparsity: give exactly one budget ({', '.join(budgets)}), not {found}.")
    for name, value in given.items():
        if not 0 < value < 1:
            problems.append(f"{where}.{name}: {value} is not between 0 and 1 (0.5 is half).")
    if not 0 < max_sparsity < 1:
        problems.append(f"{where}.max_sparsity: {max_sparsity} is not between 0 and 1.")
    elif sparsity is not None and max_sparsity < sparsity < 1:
        problems.append(
            f"{where}.sparsity: {sparsity} is more than a group may lose (max_sparsity {max_sparsity}). "
            "Lower it or raise max_sparsity."
        )
    counts = {"round_to": 1 if round_to is None else round_to, "min_width": min_width}
    return problems + [f"{where}.{name}: {n} is not a whole number from 1 up." for name, n in counts.items() if n < 1]


def plan_structured(
    model: nn.Module,
    example: Tensor,
    *,
    score: str = "bn_scale",
    score_args: Mapping[str, Any] | None = None,
    allocation: Allocation = "global",
    sparsity: float | None = None,
    flops_reduction: float | None = None,
    params_reduction: float | None = None,
    round_to: int | None = None,
    min_width: int = 1,
    max_sparsity: float = 0.9,
    exclude: Sequence[str] = (),
    seed: int = 0,
    baseline_macs: float | None = None,
    baseline_params: int | None = None,
    scores: Mapping[str, Tensor] | None = None,
) -> StructuredPlan:
    """What to cut so that one budget is met; the model is not changed.

    sparsity: share of the channels. `local` takes round(sparsity * width) from every group, `global` the lowest of all
    groups together. flops_reduction, params_reduction: share of the baseline (this model's own cost when none is given;
    give the original's when the model was made prunable at a price), achieved within 0.01, and not below where steps
    allow it. `round_to`: widths of cut groups are multiples of it. `exclude`: groups with a layer that matches keep all
    channels (patterns as in targets.find_targets). No group loses more than `max_sparsity` of its units or gets
    narrower than `min_width` channels. Scores are compared across groups relative to their group's mean; `scores` are
    those of `score_channels`, where they are there already.
    Raises BootcampError for wrong settings or a network without anything to cut, GoalNotMet when the budget can't be
    reached, saying what can.
    """
    shares = (("sparsity", sparsity), ("flops_reduction", flops_reduction), ("params_reduction", params_reduction))
    budgets: dict[str, Any] = dict(shares)
    limits: dict[str, Any] = {"round_to": round_to, "min_width": min_width, "max_sparsity": max_sparsity}
    problems = check_structured(score=score, score_args=score_args, allocation=allocation, **budgets, **limits)
    if problems:
        raise BootcampError(*problems)
    args, _ = CHANNEL_SCORES.check(score, score_args or {}, "score")
    budget, asked = next((name, value) for name, value in shares if value is not None)
    measure = _MEASURES[budget]

    copied, example = _at_hand(model, example)
    everything = find_groups(copied, example)
    left_out = _left_out(everything, score, exclude)
    groups = [group for group in everything if group.name not in left_out]
    if scores is None:
        scores = score_groups(groups, score, args, seed)
    ladders = {group.name: make_ladder(group, scores[group.name], allocation=allocation, **limits) for group in groups}
    left_out |= {group.name: _too_narrow(group, limits) for group in groups if not ladders[group.name].keys}
    groups = [group for group in groups if group.name not in left_out]
    if not groups:
        raise BootcampError(*(f"{name}: {reason}" for name, reason in left_out.items()), where="cutting this network")

    costs = Costs(copied, groups, example)
    before = dict(costs.amount)
    baseline = before | {"macs": baseline_macs or before["macs"], "params": baseline_params or before["params"]}
    steps = [ladders[group.name] for group in groups]
    alike = budget == "sparsity" and allocation == "local"  # rounded group by group: no total to meet
    if alike:
        taken = {ladder.name: nearest_stop(ladder, asked) for ladder in steps}
        for ladder in steps:
            costs.change(ladder.name, ladder.gone(taken[ladder.name]))
    else:
        # whole channels: the asked share of them, rounded, is met exactly
        wanted = round(asked * before["channels"]) / before["channels"] if budget == "sparsity" else asked
        taken = shrink_to(costs, steps, measure, baseline[measure], wanted, TOLERANCE)
    achieved = 1 - costs.amount[measure] / baseline[measure]
    if abs(achieved - asked) > TOLERANCE + 1e-9 and not alike:
        most = 1 - most_reachable(costs, steps, taken, measure) / baseline[measure]
        raise _not_met(budget, asked, achieved, most, left_out, limits)
    if not any(taken.values()):
        raise BootcampError(f"{budget} {asked:g} cuts nothing: no group can lose so little. Ask for more.")
    return StructuredPlan(
        groups=[_group_plan(group, ladders[group.name].gone(taken[group.name])) for group in groups],
        uncuttable=left_out,
        limited=_limited(steps, taken, asked if alike else None),
        budget=budget,
        asked=asked,
        achieved=achieved,
        macs_before=before["macs"],
        macs_after=costs.amount["macs"],
        params_before=round(before["params"]),
        params_after=round(costs.amount["params"]),
        baseline_macs=baseline["macs"],
        baseline_params=round(baseline["params"]),
    )


def score_channels(
    model: nn.Module,
    example: Tensor,
    *,
    score: str = "bn_scale",
    score_args: Mapping[str, Any] | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Group -> one value a unit that can be cut, higher = keep: what `plan_structured` goes by."""
    args, problems = CHANNEL_SCORES.check(score, score_args or {}, "score")
    if problems:
        raise BootcampError(*problems)
    everything = find_groups(*_at_hand(model, example))
    left_out = _left_out(everything, score, exclude)
    return score_groups([group for group in everything if group.name not in left_out], score, args, seed)


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
    return CutResult(result, prove_slice(copied, result, cut, keep, example))


def _at_hand(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy to work on, and the example where its weights are."""
    return detached_copy(model), example.to(next((parameter.device for parameter in model.parameters()), "cpu"))


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


def _too_narrow(group: Group, limits: Mapping[str, Any]) -> str:
    set_limits = ", ".join(f"{name}={value}" for name, value in limits.items() if value is not None)
    parts = "" if group.channels == group.width else f" in {group.width} parts that can be cut"
    return f"its {group.channels} channels{parts} are too few to cut within {set_limits}"


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


def _limited(steps: Sequence[Ladder], taken: Mapping[str, int], share: float | None) -> dict[str, str]:
    """Groups that could not lose what they were due."""
    limited = {}
    for ladder in steps:
        gone, width = ladder.stops[taken[ladder.name]], len(ladder.order)
        due = None if share is None else round(share * width)
        if due is not None and gone != due:
            limited[ladder.name] = f"loses {gone} of {width}, not {due}, to keep within the limits"
        elif due is None and taken[ladder.name] == len(ladder.keys):
            limited[ladder.name] = f"loses {gone} of {width}, all that the limits allow"
    return limited


def _not_met(
    budget: str, asked: float, achieved: float, most: float, left_out: Mapping[str, str], limits: Mapping[str, Any]
) -> GoalNotMet:
    set_limits = ", ".join(f"{name}={value}" for name, value in limits.items() if value is not None)
    if most < asked:
        others = "".join(f"\n  not cut: {name}: {reason}" for name, reason in left_out.items())
        return GoalNotMet(
            f"{budget} {asked:g} can't be reached: {most:.4f} is the most within {set_limits}. Ask for less, or raise "
            f"structured.max_sparsity.{others}"
        )
    return GoalNotMet(
        f"{budget} {asked:g} can't be met within {TOLERANCE:g}: the nearest found is {achieved:.4f}, because widths "
        f"change in steps too coarse for it ({set_limits}). Leave round_to out or make it smaller, or ask for "
        f"{achieved:.3f}."
    )
