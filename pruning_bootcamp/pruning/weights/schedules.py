"""How sparsity grows over time: f(t) is the share of the target that is reached at t in [0, 1]."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.registry import Registry


# f(t, *, ...) -> share of the target sparsity: non-decreasing, in [0, 1], f(1) == 1.
def _not_a_share(share: Any, t: float) -> str | None:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        return f"{share!r} at {t:g}, and a schedule gives shares of the target, in [0, 1]"
    return f"{share!r} at 1, and a schedule ends at the whole target, 1" if t == 1 and share != 1 else None


# Fact invalid(**args) -> Problem | None: what is wrong with the settings.
SCHEDULES: Registry = Registry("schedule", plural="schedules", takes=("t",), contract=_not_a_share)


def _at_invalid(*, at: float = 0.0) -> Problem | None:
    return None if 0 <= at <= 1 else Problem("at", f"{at} is not in [0, 1].")


@SCHEDULES.register("one_shot", invalid=_at_invalid)
def one_shot(t: float, *, at: float = 0.0) -> float:
    """Nothing, then everything from `at` on (a share of the time)."""
    return 1.0 if t >= at else 0.0


@SCHEDULES.register("linear")
def linear(t: float) -> float:
    """In equal steps."""
    return t


@SCHEDULES.register("cubic")
def cubic(t: float) -> float:
    """Much at first, little at the end: 1 - (1 - t)^3 (Zhu & Gupta, 2017)."""
    return 1 - (1 - t) ** 3


@SCHEDULES.register("cosine")
def cosine(t: float) -> float:
    """Slow at both ends: (1 - cos(pi t)) / 2."""
    return (1 - math.cos(math.pi * t)) / 2


def _initial_invalid(*, initial: float = 0.25) -> Problem | None:
    return None if 0 < initial <= 1 else Problem("initial", f"{initial} is not in (0, 1].")


@SCHEDULES.register("exponential", invalid=_initial_invalid)
def exponential(t: float, *, initial: float = 0.25) -> float:
    """From `initial` (a share of the target) by equal factors: s_0 * (s_f / s_0)^t."""
    return float(initial ** (1 - t))


def check_schedule(name: str, arguments: Mapping[str, Plain], where: str = "schedule") -> list[Problem]:
    """Every problem with a schedule's name and settings."""
    checked, problems = SCHEDULES.check(name, arguments, where)
    if not problems and (invalid := SCHEDULES[name].facts.get("invalid")) and (reason := invalid(**checked)):
        problems.append(reason.under(f"{where}.args"))
    if not problems and SCHEDULES[name].brought:
        problems += _falling(name, checked, where)
    return problems


def _falling(name: str, args: Mapping[str, Plain], where: str) -> list[Problem]:
    """A user's schedule, tried out: what was pruned stays pruned, so it must not fall."""
    times = [step / 100 for step in range(101)]
    try:
        shares = [SCHEDULES[name](t, **args) for t in times]
    except BootcampError as error:
        return [problem.under(where) for problem in error.problems]
    for (t, low), (later, high) in itertools.pairwise(zip(times, shares, strict=True)):
        if high < low:
            return [Problem(where, f"{name} falls from {low:g} at {t:g} to {high:g} at {later:g}; it may only rise.")]
    return []


def iterative_sparsities(
    target: float, cycles: int, schedule: str = "cubic", schedule_args: Mapping[str, Plain] | None = None
) -> list[float]:
    """The sparsity after each of `cycles` rounds of prune and fine-tune; the last is the target itself."""
    if cycles < 1:
        raise BootcampError(f"{cycles} cycles of pruning is not possible: at least 1.")
    if problems := check_schedule(schedule, schedule_args or {}):
        raise BootcampError(*problems)
    growth = SCHEDULES[schedule]
    shares = [growth(cycle / cycles, **(schedule_args or {})) for cycle in range(1, cycles)]
    return [target * share for share in shares] + [target]


class Schedule(Protocol):
    """Sparsity by training step."""

    @property
    def final_sparsity(self) -> float:
        """Share of the weights that are zero at the end, in [0, 1]."""

    def sparsity_at_step(self, step: int) -> float:
        """The sparsity, in [0, 1], that is due at a step counted from 0; it never falls."""


def _check_span(kind: str, start: int, end: int, *sparsities: float) -> None:
    problems = [f"{kind}: sparsity {value} is not in [0, 1]." for value in sparsities if not 0 <= value <= 1]
    if not 0 <= start < end:
        problems.append(f"{kind}: start_step {start} must be at least 0 and before end_step {end}.")
    if list(sparsities) != sorted(sparsities):
        problems.append(f"{kind}: initial sparsity {sparsities[0]} is above the final one, {sparsities[-1]}.")
    if problems:
        raise BootcampError(*problems)


def _progress(step: int, start: int, end: int) -> float:
    return min(max((step - start) / (end - start), 0.0), 1.0)


@dataclass(frozen=True)
class OneShot:
    """Dense before `step`, `final_sparsity` from it on (1.0: the whole of a target that is set elsewhere)."""

    step: int
    final_sparsity: float = 1.0

    def __post_init__(self) -> None:
        _check_span("OneShot", 0, max(self.step, 0) + 1, self.final_sparsity)

    def sparsity_at_step(self, step: int) -> float:
        """0, and `final_sparsity` from `step` on."""
        return self.final_sparsity if step >= self.step else 0.0


@dataclass(frozen=True)
class Gradual:
    """Linear between two steps, moving only every `frequency` steps (and at `end_step`)."""

    start_step: int
    end_step: int
    initial_sparsity: float = 0.0
    final_sparsity: float = 0.5
    frequency: int = 1

    def __post_init__(self) -> None:
        _check_span("Gradual", self.start_step, self.end_step, self.initial_sparsity, self.final_sparsity)
        if self.frequency < 1:
            raise BootcampError(f"Gradual: frequency {self.frequency} is not at least 1.")

    def sparsity_at_step(self, step: int) -> float:
        """0 before `start_step`, then the last update's sparsity: a staircase below the line."""
        if step < self.start_step:
            return 0.0
        if step < self.end_step:
            step = self.start_step + (step - self.start_step) // self.frequency * self.frequency
        share = linear(_progress(step, self.start_step, self.end_step))
        return self.initial_sparsity + (self.final_sparsity - self.initial_sparsity) * share


@dataclass(frozen=True)
class Cubic:
    """final_sparsity * (1 - (1 - t)^3) between two steps (Zhu & Gupta, 2017): 0.7 over 10000 is 40.5% at 2500."""

    start_step: int
    end_step: int
    final_sparsity: float

    def __post_init__(self) -> None:
        _check_span("Cubic", self.start_step, self.end_step, self.final_sparsity)

    def sparsity_at_step(self, step: int) -> float:
        """Steep at first: what is pruned early has longest to recover."""
        return self.final_sparsity * cubic(_progress(step, self.start_step, self.end_step))


@dataclass(frozen=True)
class Exponential:
    """s_0 * (s_f / s_0)^t between two steps; dense before the first."""

    start_step: int
    end_step: int
    initial_sparsity: float
    final_sparsity: float

    def __post_init__(self) -> None:
        _check_span("Exponential", self.start_step, self.end_step, self.initial_sparsity, self.final_sparsity)
        if self.initial_sparsity == 0:
            raise BootcampError("Exponential: initial_sparsity 0 can't grow by factors. Start above 0.")

    def sparsity_at_step(self, step: int) -> float:
        """0 before `start_step`, where it jumps to `initial_sparsity`; steep at the end."""
        if step < self.start_step:
            return 0.0
        t = _progress(step, self.start_step, self.end_step)
        return self.final_sparsity * exponential(t, initial=self.initial_sparsity / self.final_sparsity)
