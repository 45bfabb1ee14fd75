"""Structured pruning: groups -> scores -> how many each group loses -> cut -> slice proof."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, GoalNotMet, Problem, nearest
from pruning_bootcamp.models.silent import mute
from pruning_bootcamp.pruning.channels.branches import can_go, carries_all, deafen, layers_of, left, without
from pruning_bootcamp.pruning.channels.budget import TOLERANCE
from pruning_bootcamp.pruning.channels.checks import check_structured
from pruning_bootcamp.pruning.channels.measuring import ImageBatches, at_hand, chosen, left_out, score_channels
from pruning_bootcamp.pruning.channels.multiples import Multiples, resolve_round_to
from pruning_bootcamp.pruning.channels.proof import SliceProof, kept_outputs, prove_same, prove_slice
from pruning_bootcamp.pruning.channels.race import Race
from pruning_bootcamp.pruning.channels.time_budget import Timing
from pruning_bootcamp.pruning.channels.width_schedules import WidthSchedule, make_width_schedule
from pruning_bootcamp.pruning.channels.widths import (
    Budget,
    ChosenWidths,
    Limits,
    ScoredNetwork,
    choose_widths,
)
from pruning_bootcamp.pruning.graph import Group, cut_members, find_groups, making
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.pruning.sections import StructuredSettings
from pruning_bootcamp.results import Forecast, WayStairs
from pruning_bootcamp.schema import named
from pruning_bootcamp.tools.metrics import count_products


@dataclass(frozen=True)
class GroupPlan:
    """What a group keeps: `keep` numbers the root layer's channels that stay, ascending, of its `width`.

    `silent`: all of it goes. One channel stays, which nobody reads, so that the network's own code still runs.
    """

    name: str
    width: int
    keep: Tensor
    layers: list[str]
    silent: bool = False

    @property
    def left(self) -> int:
        """Channels that are left of it."""
        return 0 if self.silent else len(self.keep)


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
    timed: str | None = None
    """of a budget in time, how the network was timed and what it came to"""
    forecasts: tuple[Forecast, ...] = ()
    """and what its layers' times had foreseen"""
    stairs: tuple[WayStairs, ...] = ()
    """and those times, a way each"""

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
    """The cut network, the proof, and which output channels of each cut layer are left, ascending.

    `silent`: layers of branches that go. They give zeros; whoever is done with the network's own code mutes them.
    """

    model: nn.Module
    proof: SliceProof
    kept: dict[str, Tensor]
    silent: tuple[str, ...] = ()


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
    widths: Mapping[str, int] | None = None,
    on_the_way: bool = False,
    timing: Timing | None = None,
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
    chosen where neither is named. `widths`: of a network that was cut before, group -> its channels before the first
    cut; `sparsity` and `max_sparsity` are shares of those, and nothing is cut where the budget is met already.
    `on_the_way`: more will be cut, so where widths change in steps too coarse for the budget nothing is cut.
    `timing`: for target_latency_reduction, how long layers take at other widths and what times whole networks; the
    achieved time lies within 5% of the asked one.
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
    budget = Budget(name, asked, s.allocation, {"macs": baseline_macs, "params": baseline_params}, on_the_way)

    copied, example = at_hand(model, example)
    everything = find_groups(copied, example)
    unscored = left_out(everything, s.exclude, s.score.name)
    unscored |= {
        group.name: f"the score {s.score.name}, or what its readers lose, can't be measured; the scores l1 and l2, "
        "with allocation=global, can cut it"
        for group in everything
        if group.name not in unscored and group.name not in scores
    }
    groups = [group for group in everything if group.name not in unscored]
    products = count_products(copied, example)[0]
    if name == "latency_ms":
        raise BootcampError("structured.target_latency_ms: is a share of the network's time here; give that.")
    if name == "latency_reduction" and timing is None:
        raise BootcampError("structured.target_latency_reduction: can't be met without timing=, what times networks.")
    network = ScoredNetwork(copied, example, groups, scores, products, unscored, losses, widths, timing)
    multiples = resolve_round_to(s.round_to, device or example.device)
    return _plan(budget, *_coarsest(network, budget, multiples, limits))


def quickest(model: nn.Module, example: Tensor, settings: StructuredSettings, timing: Timing) -> Race | None:
    """How the network does that is cut as far as may be, whatever that loses; None: nothing can be cut.

    No budget in time asks for less; the first channels go, as any do.
    """
    copied, example = at_hand(model, example)
    everything = find_groups(copied, example)
    kept = left_out(everything, settings.exclude)
    groups = [group for group in everything if group.name not in kept]
    look: dict[str, Any] = {"min_width": 1, "max_sparsity": settings.max_sparsity}
    round_to = resolve_round_to(settings.round_to, timing.track.device).choices[-1]
    measured = chosen(settings, measured=settings.refit == "closed_form").allocation == "measured"
    gone = {}
    for group in groups:
        may_go = measured and can_go(group) and not carries_all(copied, example, group)
        schedule = make_width_schedule(
            group, torch.ones(group.width), allocation="global", round_to=round_to, may_go=may_go, **look
        )
        gone[group.name] = schedule.gone(len(schedule.keys))
    if not any(gone.values()):
        return None
    return timing.track(without(copied, example, groups, gone))


def _coarsest(
    network: ScoredNetwork, budget: Budget, multiples: Multiples, limits: Limits
) -> tuple[ChosenWidths, int | None, str | None]:
    """What is chosen with the first of `multiples` that meets the budget, the multiple, and why it is that one."""
    auto, reasons = multiples.why is not None, []
    for multiple in multiples.choices:
        chosen = choose_widths(network, budget, replace(limits, round_to=multiple), falls_back=auto)
        last = multiple == multiples.choices[-1]
        off = budget.measure != "time" and abs(chosen.achieved - budget.asked) > TOLERANCE + 1e-9
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
        timed=None if chosen.timed is None else str(chosen.timed.race),
        stairs=chosen.stairs,
        forecasts=() if chosen.timed is None else chosen.timed.forecasts,
    )


def cut_channels(model: nn.Module, example: Tensor, plan: StructuredPlan) -> CutResult:
    """A new model without the channels that the plan drops, and the slice proof of it; `model` is not changed.

    The new model has `model`'s mode, device and frozen parameters, and no traces of torch-pruning. Raises GoalNotMet,
    naming the first layer that differs, when the proof fails; BootcampError when the plan is another network's.
    """
    copied, example = at_hand(model, example)
    cut, keep = _of_this_network(plan, copied, example)
    result = detached_copy(copied)
    cut_members(result, cut, keep)
    proof = prove_slice(copied, result, cut, keep, example)
    makers, readers = layers_of(cut, {group.name for group in plan.groups if group.silent})
    deafen(result, example, readers)
    muted = result
    if readers:
        muted = detached_copy(result)
        mute(muted, [*makers, *readers])
        prove_same(result, muted, example)
    params = sum(parameter.numel() for parameter in muted.parameters())
    if params != plan.params_after:
        raise GoalNotMet(f"the cut network has {params} parameters, and the plan foresaw {plan.params_after}.")
    kept = {path: channels for path, (_, channels) in kept_outputs(cut, keep).items()}
    return CutResult(result, proof, kept, (*makers, *readers))


def doomed_weights(model: nn.Module, example: Tensor, plan: StructuredPlan) -> dict[str, Tensor]:
    """Parameter that trains -> True for each number of it that makes a channel which the plan drops.

    Filters, biases, scales and shifts of norms; where they are zero, the cut changes nothing. BootcampError when the
    plan is another network's.
    """
    copied, example = at_hand(model, example)
    return making(*_of_this_network(plan, copied, example))


def _of_this_network(plan: StructuredPlan, model: nn.Module, example: Tensor) -> tuple[list[Group], dict[str, Tensor]]:
    """The groups that the plan is about, and the units that each of them keeps."""
    groups = {group.name: group for group in find_groups(model, example)}
    keep = {}
    for part in plan.groups:
        group = groups.get(part.name)
        if group is None or group.reason is not None or group.channels != part.width:
            found = (
                f"{group.channels} channels" if group is not None else f"no such group ({nearest(part.name, groups)}?)"
            )
            raise BootcampError(f"the plan cuts {part.name} with {part.width} channels, and this network has {found}.")
        keep[part.name] = _units(group, part.keep)
    return [groups[name] for name in keep], keep


def _group_plan(group: Group, gone: Sequence[int]) -> GroupPlan:
    keep, silent = left([group], {group.name: gone})
    stays = keep[group.name][group.root.unit]
    return GroupPlan(group.name, group.channels, group.root.index[stays], group.layers, bool(silent))


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
        gone, width = schedule.gone_before + schedule.removed[taken[schedule.name]], schedule.width
        if gone == width:
            continue
        due = None if share is None else round(share * width)
        if due is not None and gone != due:
            limited[schedule.name] = f"loses {gone} of {width}, not {due}, to keep within the limits"
        elif due is None and taken[schedule.name] == len(schedule.keys):
            limited[schedule.name] = f"loses {gone} of {width}, all that the limits allow"
    return limited
