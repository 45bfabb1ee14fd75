"""What is wrong with the settings of structured pruning, all of it, before any work starts."""

from typing import Any, get_args

from pruning_bootcamp.errors import Problem, unknown
from pruning_bootcamp.pruning.channels.multiples import check_round_to
from pruning_bootcamp.pruning.channels.scores import CHANNEL_SCORES
from pruning_bootcamp.pruning.channels.widths import Allocation
from pruning_bootcamp.pruning.sections import BUDGETS, StructuredSettings
from pruning_bootcamp.pruning.weights.schedules import check_schedule, iterative_sparsities
from pruning_bootcamp.schema import check_ranges, named


def check_structured(
    settings: StructuredSettings | None = None, *, where: str = "structured", **names: Any
) -> list[Problem]:
    """Every problem with these settings, before any work starts."""
    s = settings or named(StructuredSettings, **names)
    if s.only_dead:
        return _beside_only_dead(s, where)
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
    if s.timed and s.allocation == "local":
        text = "local gives every group the same share, and a budget in time chooses by time. Use measured or global."
        problems.append(Problem(f"{where}.allocation", text))
    if s.target_latency_ms is not None and s.iterations > 1:
        text = f"{s.iterations} cycles cut shares of a budget, not milliseconds. Give target_latency_reduction."
        problems.append(Problem(f"{where}.target_latency_ms", text))
    if s.sparsity is not None and s.max_sparsity < s.sparsity < 1:
        problems.append(
            Problem(
                f"{where}.sparsity",
                f"{s.sparsity} is more than a group may lose (max_sparsity {s.max_sparsity}). "
                "Lower it or raise max_sparsity.",
            )
        )
    return problems + check_round_to(s.round_to, f"{where}.round_to") + _cycles(s, where) + _penalty(s, where)


def _penalty(s: StructuredSettings, where: str) -> list[Problem]:
    if s.grow_step is None:
        return []
    if s.grow_penalty is None:
        text = f"{s.grow_step:g}, and no penalty grows. Set {where}.grow_penalty to how long, as 3ep, or leave it out."
        return [Problem(f"{where}.grow_step", text)]
    if s.grow_step > s.grow_ceiling:
        text = f"{s.grow_step:g} is above grow_ceiling, {s.grow_ceiling:g}. Lower the one or raise the other."
        return [Problem(f"{where}.grow_step", text)]
    return []


def _cycles(s: StructuredSettings, where: str) -> list[Problem]:
    """Cycles in which nothing more is to be cut would only train."""
    problems = check_schedule(s.schedule.name, s.schedule.args, f"{where}.schedule")
    if problems or s.iterations <= 1 or check_ranges(s, where):
        return problems
    shares = [0.0, *iterative_sparsities(1.0, s.iterations, s.schedule.name, s.schedule.args)]
    idle = next((number for number in range(1, len(shares)) if shares[number] <= shares[number - 1]), None)
    if idle is None:
        return []
    name, of = s.schedule.name, s.iterations
    text = f"{name} leaves cycle {idle} of {of} nothing to cut. Choose another, as linear, or fewer iterations."
    return [Problem(f"{where}.schedule", text)]


def _beside_only_dead(settings: StructuredSettings, where: str) -> list[Problem]:
    """What is asked for besides, and would not be done."""
    given = [key for key in (*BUDGETS.values(), "score", "allocation") if getattr(settings, key) is not None]
    given += ["round_to"] if isinstance(settings.round_to, int) else []
    given += ["iterations"] if settings.iterations > 1 else []
    given += ["grow_penalty"] if settings.grow_penalty is not None else []
    return [
        Problem(
            f"{where}.{key}",
            "says what to cut, and only_dead removes what does nothing, be it much or little. Leave one out.",
        )
        for key in given
    ]
