"""Score, allocation, pattern and solver by name: checked together, every problem at once, before any work starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.sections import PruneSettings
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.pruning.weights.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.weights.scores import SCORES, needs_labels, needs_of
from pruning_bootcamp.registry import Entry
from pruning_bootcamp.runs import siblings
from pruning_bootcamp.schema import Choice, check_ranges
from pruning_bootcamp.shorthand import parse_pattern

# How far the asked sparsity may lie from the one a pattern fixes: 0.667 is meant to be 1:3.
_SAME_SPARSITY = 0.005


@dataclass(frozen=True)
class Chosen:
    """A registered function with its settings, called with them."""

    entry: Entry[Any]
    args: Mapping[str, Any]

    def __call__(self, *values: Any) -> Any:
        return self.entry(*values, **self.args)

    def has(self, fact: str) -> bool:
        """Whether the fact stands in the function's registration."""
        return fact in self.entry.facts

    def fact(self, name: str, *values: Any) -> Any:
        """The fact `name` (a function) of these values, with the settings; None where there is no such fact."""
        function = self.entry.facts.get(name)
        return function(*values, **self.args) if function else None


@dataclass(frozen=True)
class Choices:
    """One of each kind, ready to be called."""

    score: Chosen
    allocation: Chosen
    pattern: Chosen
    solver: Chosen


def resolve(settings: PruneSettings, *, has_batches: bool, where: str) -> tuple[Choices | None, list[Problem]]:
    """The choices with their settings in the right types, and every problem; None when there is one."""
    s, problems = settings, []
    pattern = s.pattern
    try:
        pattern_name, short_args = parse_pattern(pattern.name)
    except BootcampError as error:
        problems += [problem.under(f"{where}.pattern") for problem in error.problems]
        pattern_name, short_args, pattern = "unstructured", {}, Choice("unstructured")
    found: dict[str, Chosen] = {}
    for kind, registry, asked in (
        ("score", SCORES, s.score),
        ("allocation", ALLOCATIONS, s.allocation),
        ("pattern", PATTERNS, Choice(pattern_name, {**short_args, **pattern.args})),
        ("solver", SOLVERS, s.solver),
    ):
        checked, wrong = registry.check(asked.name, asked.args, f"{where}.{kind}")
        problems += wrong
        if not wrong:
            choice = Chosen(registry[asked.name], checked)
            missing = missing_files(choice, f"{where}.{kind}")
            problems += missing
            invalid = None if missing else choice.fact("invalid")
            if missing:
                continue
            if invalid:
                problems.append(Problem(f"{where}.{kind}", invalid))
            else:
                found[kind] = choice
    problems += _check_sparsity(s, found.get("allocation"), found.get("pattern"), where)
    problems += _check_lists(s.include, s.exclude, where)
    problems += _check_solver(found.get("solver"), found.get("pattern"), has_batches, where)
    if "allocation" in found and not has_batches and found["allocation"].entry.facts.get("by"):
        problems.append(
            Problem(
                f"{where}.allocation",
                f"'{found['allocation'].entry.name}' is measured on batches of images (labels are not "
                "needed), and none are given. Give stats_batches, or choose global.",
            )
        )
    if "score" in found and not has_batches and (needs := needs_of(found["score"].entry.name)):
        name = found["score"].entry.name
        data = "labelled batches" if needs_labels(name) else "batches of images (labels are not needed)"
        problems.append(
            Problem(
                f"{where}.score",
                f"'{name}' needs {', '.join(needs)}, measured on {data}, and none are given. "
                "Give stats_batches, or choose a score that needs only the weights: magnitude.",
            )
        )
    return (None if problems else Choices(**found)), problems


def fixes_count(settings: PruneSettings) -> bool:
    """Whether the pattern itself says how many weights go, so that no sparsity can grow."""
    name = settings.pattern.name
    return name in PATTERNS and "fixed_count" in PATTERNS[name].facts


def target_sparsity(settings: PruneSettings) -> float | None:
    """The sparsity asked for; left out, None where the pattern or allocation says it, else one half."""
    if settings.sparsity is not None:
        return settings.sparsity
    name = settings.allocation.name
    says_it = fixes_count(settings) or (name in ALLOCATIONS and bool(ALLOCATIONS[name].facts.get("own_sparsity")))
    return None if says_it else 0.5


def missing_files(choice: Chosen, where: str) -> list[Problem]:
    """Files that the settings name (the fact `files`) and that are not there."""
    settings = choice.entry.facts.get("files", ())
    named = {setting: Path(choice.args[setting]) for setting in settings if choice.args.get(setting) is not None}
    return [
        Problem(f"{where}.args.{setting}", f"there is no file {path}. {siblings(path)}")
        for setting, path in named.items()
        if not path.is_file()
    ]


def counting_score(choices: Choices) -> str:
    """The name of the score by which the allocation counts: its own, or else the chosen one."""
    return str(choices.allocation.entry.facts.get("by") or choices.score.entry.name)


def _check_sparsity(
    settings: PruneSettings, allocation: Chosen | None, pattern: Chosen | None, where: str
) -> list[Problem]:
    """The sparsity in its range, and what allocation and pattern leave of it to choose."""
    sparsity, key = settings.sparsity, f"{where}.sparsity"
    if sparsity is not None and (isinstance(sparsity, bool) or not isinstance(sparsity, int | float)):
        return [Problem(key, f"{sparsity!r} is not a number.")]
    if problems := check_ranges(settings, where):
        return problems
    if pattern is None or allocation is None:
        return []
    if not pattern.has("fixed_count"):
        if sparsity is None and not allocation.entry.facts.get("own_sparsity"):
            return [Problem(key, f"needed and not given. Add {key}=VALUE.")]
        return []
    name = pattern.entry.name
    if allocation.entry.name != "uniform":
        problems.append(
            Problem(
                f"{where}.allocation",
                f"'{allocation.entry.name}' has nothing to decide with pattern '{name}', which itself "
                "says how many weights go in each layer. Use uniform (layerwise).",
            )
        )
    fixed = pattern.fact("fixed_sparsity")
    if sparsity is not None and (fixed is None or abs(sparsity - fixed) > _SAME_SPARSITY):
        gives = "prunes what falls below its value" if fixed is None else f"prunes exactly {fixed:.6g}"
        problems.append(
            Problem(
                key,
                f"{sparsity} was asked for, and pattern '{name}' with {dict(pattern.args)} {gives}. Leave sparsity "
                + ("out (null)." if fixed is None else f"out (null), or set it to {fixed:.6g}."),
            )
        )
    return problems


def _check_solver(solver: Chosen | None, pattern: Chosen | None, has_batches: bool, where: str) -> list[Problem]:
    """Images for a solver that needs them, and a pattern that leaves it something to decide."""
    if solver is None:
        return []
    problems, name = [], solver.entry.name
    if solver.entry.facts.get("images") and not has_batches:
        problems.append(
            Problem(
                f"{where}.solver",
                f"'{name}' needs calibration images (labels are not needed), and none are given. Give "
                "stats_batches, or use none.",
            )
        )
    by_value = pattern is not None and pattern.has("fixed_count") and pattern.fact("fixed_sparsity") is None
    if solver.entry.facts.get("chooses") and pattern is not None and by_value:
        problems.append(
            Problem(
                f"{where}.solver",
                f"'{name}' decides itself which weights go, and pattern '{pattern.entry.name}' by the "
                "value of the score: they can't both. Use reconstruct or none, or give a sparsity without the pattern.",
            )
        )
    return problems


def _check_lists(include: Sequence[str], exclude: Sequence[str], where: str) -> list[Problem]:
    problems = []
    for key, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):
            problems.append(
                Problem(f"{where}.{key}", f"{patterns!r} is text, not a list of names. Write [{patterns!r}].")
            )
        elif not all(isinstance(pattern, str) and pattern for pattern in patterns):
            problems.append(Problem(f"{where}.{key}", f"{list(patterns)} holds something that is not a name."))
    return problems
