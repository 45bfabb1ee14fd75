"""How many units each group loses so that a budget is met, judged by the count of a copy that is really cut."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.pruning.channels.branches import can_go, carries_all, without
from pruning_bootcamp.pruning.channels.budget import TOLERANCE, most_reachable, shrink_to
from pruning_bootcamp.pruning.channels.combinations import Search
from pruning_bootcamp.pruning.channels.costs import Costs, Measure
from pruning_bootcamp.pruning.channels.knapsack import least_loss
from pruning_bootcamp.pruning.channels.multiples import narrower
from pruning_bootcamp.pruning.channels.proof import prove_slice
from pruning_bootcamp.pruning.channels.time_budget import TimeSearch, Timing, WidthSearch, losses_of_scores, not_met
from pruning_bootcamp.pruning.channels.width_schedules import WidthSchedule, make_width_schedule, nearest_step
from pruning_bootcamp.pruning.graph import Group, Keep, cut_members
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.results import WayStairs
from pruning_bootcamp.tools.metrics import Product, count_products

Allocation = Literal["local", "global", "measured"]
ATTEMPTS = 4  # plans by what was foreseen, by what single cuts showed, and twice by the difference that remained
MEASURES: dict[str, Measure] = {
    "sparsity": "channels",
    "flops_reduction": "macs",
    "params_reduction": "params",
    "latency_reduction": "time",
}


@dataclass(frozen=True)
class ScoredNetwork:
    """What is cut: a copy, the groups that may lose units, their scores, and what one input is multiplied by."""

    model: nn.Module
    example: Tensor
    groups: Sequence[Group]
    scores: Mapping[str, Tensor]
    products: Sequence[Product]
    left_out: Mapping[str, str]
    losses: Mapping[str, Tensor] | None = None
    """for allocation measured: group -> what the network loses once none, one, two, ... units are gone"""
    widths: Mapping[str, int] | None = None
    """where earlier cuts were made: group -> its channels before the first of them"""
    timing: Timing | None = None
    """for a budget in time"""

    def channels_before(self, group: Group) -> int:
        """Of the group, before any cut."""
        return (self.widths or {}).get(group.name, group.channels)


@dataclass(frozen=True)
class Budget:
    """`asked`: a share, in the terms of `name`; of the baseline's cost where one is given."""

    name: str
    asked: float
    allocation: Allocation
    baseline: Mapping[Measure, float | None]
    on_the_way: bool = False
    """more will be cut: where steps are too coarse for it, nothing is"""

    @property
    def measure(self) -> Measure:
        """What its total is counted in."""
        return MEASURES[self.name]

    @property
    def group_by_group(self) -> bool:
        """Every group loses the share, rounded: there is no total to meet."""
        return self.name == "sparsity" and self.allocation == "local"


@dataclass
class ChosenWidths:
    """What every group loses, and what that comes to; `problem` where the budget is not met by it."""

    groups: list[Group]
    schedules: dict[str, WidthSchedule]
    left_out: dict[str, str]
    narrow: dict[str, int]
    """groups too narrow for the multiple -> the smaller one that they are cut in"""
    taken: dict[str, int] = field(default_factory=dict)
    before: dict[Measure, float] = field(default_factory=dict)
    after: dict[Measure, float] = field(default_factory=dict)
    baseline: dict[Measure, float] = field(default_factory=dict)
    achieved: float = 0.0
    problem: BootcampError | None = None
    timed: TimeSearch | None = None
    """how a budget in time was met"""
    stairs: tuple[WayStairs, ...] = ()
    """and how long its layers take at other widths"""

    def gone(self, name: str) -> tuple[int, ...]:
        """Indices of the units that the group loses."""
        return self.schedules[name].gone(self.taken[name])


@dataclass(frozen=True)
class Limits:
    """How far a group may be cut: how narrow, how much of it, and in multiples of what."""

    min_width: int
    max_sparsity: float
    round_to: int | None = None

    def __str__(self) -> str:
        named = {"round_to": self.round_to, "min_width": self.min_width, "max_sparsity": self.max_sparsity}
        return ", ".join(f"{name}={value}" for name, value in named.items() if value is not None)


def choose_widths(network: ScoredNetwork, budget: Budget, limits: Limits, falls_back: bool) -> ChosenWidths:
    """What is chosen within the limits; `falls_back`: in multiples of less than `round_to` where a group is narrow."""
    multiple = limits.round_to
    schedules, narrow = {}, {}
    # a branch that goes saves a runtime's calls beside its products; scores alone don't say what it is worth
    may_go = budget.measure == "time" and network.losses is not None and not budget.on_the_way
    for group in network.groups:
        for each in narrower(multiple) if falls_back else (multiple,):
            within = asdict(replace(limits, round_to=each))
            schedule = make_width_schedule(
                group,
                network.scores[group.name],
                allocation=budget.allocation,
                channels_before=network.channels_before(group),
                may_go=may_go and can_go(group) and not carries_all(network.model, network.example, group),
                **within,
            )
            if schedule.keys:
                schedules[group.name] = schedule
                if each is not None and each != multiple:
                    narrow[group.name] = each
                break
        else:
            if schedule.gone_before:  # it can lose no more, and counts with what it has lost
                schedules[group.name] = schedule
    left_out = dict(network.left_out) | {
        group.name: _too_narrow(group, limits) for group in network.groups if group.name not in schedules
    }
    chosen = ChosenWidths([group for group in network.groups if group.name in schedules], schedules, left_out, narrow)
    if not any(schedule.keys for schedule in schedules.values()) and not network.widths:
        reasons = (f"{name}: {reason}" for name, reason in left_out.items())
        chosen.problem = BootcampError(*reasons, where="cutting this network")
    elif budget.measure == "time":
        _settle_by_time(network, budget, limits, chosen)
    else:
        _settle(network, budget, limits, chosen)
    return chosen


def _settle_by_time(network: ScoredNetwork, budget: Budget, limits: Limits, chosen: ChosenWidths) -> None:
    """Fill in what is chosen so that the whole network, timed, takes the share that is left."""
    model, groups, timing = network.model, chosen.groups, network.timing
    assert timing is not None
    schedules = [chosen.schedules[group.name] for group in groups]

    def cut(taken: Mapping[str, int]) -> nn.Module:
        gone = {s.name: s.gone(taken[s.name]) for s in schedules}
        return without(detached_copy(model), network.example, groups, gone)

    stairs = timing.staircases(model, network.example, groups, limits.round_to or 1)

    def costs() -> Costs:
        return Costs(model, groups, network.example, network.products, stairs)

    losses = network.losses or losses_of_scores(schedules, network.scores)
    chosen.timed = WidthSearch(costs, groups, schedules, losses, timing, stairs, 1 - budget.asked, cut).run()
    counted = costs()
    chosen.before = dict(counted.amount)
    chosen.baseline = chosen.before | {name: value for name, value in budget.baseline.items() if value}
    chosen.taken = {s.name: chosen.timed.taken.get(s.name, 0) for s in schedules}
    for schedule in schedules:
        counted.change(schedule.name, schedule.gone(chosen.taken[schedule.name]))
    track = timing.track
    chosen.stairs = tuple(one.as_result(counted.widths, track.threads, track.device) for one in stairs)
    chosen.after = dict(counted.amount) | {"time": chosen.timed.share}
    smaller = cut(chosen.taken)
    chosen.after["macs"] = sum(product.macs for product in count_products(smaller, network.example)[0])
    chosen.after["params"] = float(sum(parameter.numel() for parameter in smaller.parameters()))
    chosen.achieved = 1 - chosen.timed.share
    if not budget.on_the_way:
        least = None
        if chosen.timed.share > 1 - budget.asked:
            least = timing.track(cut({s.name: len(s.keys) for s in schedules}))
        chosen.problem = not_met(1 - budget.asked, chosen.timed, least)


def _settle(network: ScoredNetwork, budget: Budget, limits: Limits, chosen: ChosenWidths) -> None:
    """Fill in what is chosen: plan, cut a copy, count it; where the count is another, learn from it and plan again."""
    model, example, groups = network.model, network.example, chosen.groups
    schedules = [chosen.schedules[group.name] for group in groups]
    single_cuts, more = None, 0.0
    for _ in range(ATTEMPTS):
        costs = Costs(model, groups, example, network.products)
        chosen.before = dict(costs.amount)
        if single_cuts is not None:
            costs.learn(single_cuts)
        costs.correct(more)
        channels = float(sum(network.channels_before(group) for group in groups))
        chosen.baseline = chosen.before | {"channels": channels}
        chosen.baseline |= {name: value for name, value in budget.baseline.items() if value}
        chosen.taken, search = _take(costs, schedules, budget, chosen, network.losses)
        most = 1 - most_reachable(costs, schedules, chosen.taken, budget.measure) / chosen.baseline[budget.measure]
        chosen.after = dict(costs.amount)
        if not any(chosen.taken.values()):
            break
        keep = keep_masks(groups, {group.name: chosen.gone(group.name) for group in groups})
        chosen.after["macs"] = sum(product.macs for product in products_after(model, groups, keep, example))
        off = chosen.after["macs"] - costs.amount["macs"]
        if abs(off) < 0.5 or budget.measure != "macs":  # half a multiply-accumulate: sums of floats
            break
        if single_cuts is None:
            single_cuts = cut_one_by_one(model, groups, schedules, example)
        else:
            more += off
    chosen.achieved = 1 - chosen.after[budget.measure] / chosen.baseline[budget.measure]
    if abs(chosen.achieved - budget.asked) > TOLERANCE + 1e-9 and not budget.group_by_group:
        chosen.problem = _not_met(budget, chosen, most, search, limits)
    elif not any(chosen.taken.values()) and not network.widths:
        chosen.problem = BootcampError(
            f"{budget.name} {budget.asked:g} cuts nothing: no group can lose so little. Ask for more."
        )
    if chosen.problem is not None and budget.on_the_way and most >= budget.asked:
        chosen.problem, chosen.taken, chosen.after = None, dict.fromkeys(chosen.taken, 0), dict(chosen.before)
        chosen.achieved = 1 - chosen.after[budget.measure] / chosen.baseline[budget.measure]


def _take(
    costs: Costs,
    schedules: Sequence[WidthSchedule],
    budget: Budget,
    chosen: ChosenWidths,
    losses: Mapping[str, Tensor] | None,
) -> tuple[dict[str, int], Search | None]:
    """Steps by group; `costs` ends there."""
    if budget.group_by_group:
        taken = {schedule.name: nearest_step(schedule, budget.asked) for schedule in schedules}
        for schedule in schedules:
            costs.change(schedule.name, schedule.gone(taken[schedule.name]))
        return taken, None
    baseline = chosen.baseline[budget.measure]
    if budget.allocation == "measured":
        assert losses is not None, "measured before"
        target = baseline * (1 - budget.asked)
        taken = least_loss(costs, schedules, losses, budget.measure, target)
        if abs(costs.amount[budget.measure] - target) <= TOLERANCE * baseline:
            return taken, None
        for schedule in schedules:  # steps too coarse for it: what meets the budget at all is searched
            costs.change(schedule.name, schedule.gone(taken[schedule.name]), back=True)
    if budget.name == "sparsity":  # whole channels: the asked share of them, rounded, is met exactly
        rounded = max(1, round(budget.asked * baseline)) / baseline
        shrunk = shrink_to(costs, schedules, budget.measure, baseline, rounded, TOLERANCE)
        if abs(1 - costs.amount["channels"] / baseline - budget.asked) <= TOLERANCE:
            return shrunk.taken, shrunk.search
        for schedule in schedules:
            costs.change(schedule.name, schedule.gone(shrunk.taken[schedule.name]), back=True)
    shrunk = shrink_to(costs, schedules, budget.measure, baseline, budget.asked, TOLERANCE)
    return shrunk.taken, shrunk.search


def _too_narrow(group: Group, limits: Limits) -> str:
    parts = "" if group.channels == group.width else f" in {group.width} parts that can be cut"
    return f"its {group.channels} channels{parts} are too few to cut within {limits}"


def _not_met(budget: Budget, chosen: ChosenWidths, most: float, search: Search | None, limits: Limits) -> GoalNotMet:
    name, asked, within = budget.name, budget.asked, str(limits)
    if most < asked:
        others = "".join(f"\n  not cut: {group}: {reason}" for group, reason in chosen.left_out.items())
        return GoalNotMet(
            f"{name} {asked:g} can't be reached: {most:.4f} is the most within {within}. Ask for less, or raise "
            f"structured.max_sparsity.{others}"
        )
    rounded = limits.round_to is not None and limits.round_to > 1
    advice = "Leave round_to out or make it smaller, or ask" if rounded else "Ask"
    return GoalNotMet(
        f"{name} {asked:g} can't be met within {TOLERANCE:g}: the nearest {_searched(search)} is "
        f"{chosen.achieved:.4f}, because widths change in steps too coarse for it ({within}). "
        f"{advice} for {chosen.achieved:.3f}."
    )


def _searched(search: Search | None) -> str:
    if search is None:
        return "found"
    if search.complete:
        return f"of all {_count(search.combinations)} combinations of widths"
    return f"of the {_count(search.tried)} combinations of widths tried ({_count(search.combinations)} exist)"


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**9 else f"{number:.1e}" if number < 10**300 else "more than 1e+300"


def keep_masks(groups: Sequence[Group], gone: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Group -> True for each unit that stays."""
    keep = {}
    for group in groups:
        keep[group.name] = torch.ones(group.width, dtype=torch.bool)
        keep[group.name][list(gone.get(group.name, ()))] = False
    return keep


def products_after(model: nn.Module, groups: Sequence[Group], keep: Keep, example: Tensor) -> list[Product]:
    """What one input is multiplied by in a copy of `model` without the dropped units.

    Raises GoalNotMet, naming the first layer that is cut wrongly, when the copy does not run.
    """
    cut = detached_copy(model)
    cut_members(cut, groups, keep)
    try:
        return count_products(cut, example)[0]
    except (RuntimeError, ValueError, IndexError):
        prove_slice(model, cut, groups, keep, example)  # raises, with the layer at which it goes wrong
        raise


def cut_one_by_one(
    model: nn.Module, groups: Sequence[Group], schedules: Sequence[WidthSchedule], example: Tensor
) -> dict[str, tuple[int, list[Product]]]:
    """Group -> (units cut from it alone, what is multiplied then): how each product depends on each group."""
    found = {}
    for schedule in schedules:
        if not schedule.keys:
            continue
        keep = keep_masks(groups, {schedule.name: schedule.gone(1)})
        found[schedule.name] = (schedule.removed[1], products_after(model, groups, keep, example))
    return found
