"""Score, allocation, pattern and solver by name: checked together, every problem at once, before any work starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.scores import SCORES, needs_labels, needs_of
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.registry import Entry
from pruning_bootcamp.runs import siblings
from pruning_bootcamp.shorthand import parse_pattern

# How far the asked sparsity may lie from the one a pattern fixes: 0.667 is meant to be 1:3.
_SAME_SPARSITY = 0.005


@dataclass(frozen=True)
class Choice:
    """A registered function with its settings, called with them."""

    entry: Entry[Any]
    args: Mapping[str, Any]

    def __call__(self, *values: Any) -> Any:
        return self.entry(*values, **self.args)

    def has(self, fact: str) -> bool:
        return fact in self.entry.facts

    def fact(self, name: str, *values: Any) -> Any:
        """The fact `name` (a function) of these values, with the settings; None where there is no such fact."""
        function = self.entry.facts.get(name)
        return function(*values, **self.args) if function else None


@dataclass(frozen=True)
class Choices:
    """One of each kind, ready to be called."""

    score: Choice
    allocation: Choice
    pattern: Choice
    solver: Choice


Named = tuple[str, Mapping[str, Any] | None]


def resolve(
    *,
    sparsity: float | None,
    score: Named,
    allocation: Named,
    pattern: tuple[str | int, Mapping[str, Any] | None],
    solver: Named,
    include: Sequence[str],
    exclude: Sequence[str],
    has_batches: bool,
    where: str,
) -> tuple[Choices | None, list[str]]:
    """The choices with their settings in the right types, and every problem; None when there is one."""
    problems = []
    try:
        pattern_name, short_args = parse_pattern(pattern[0])
    except BootcampError as error:
        problems += [f"{where}.pattern: {problem}" for problem in error.problems]
        pattern_name, short_args, pattern = "unstructured", {}, ("unstructured", None)
    pattern_args = {**short_args, **(pattern[1] or {})}
    found: dict[str, Choice] = {}
    for kind, registry, (name, args) in (
        ("score", SCORES, score),
        ("allocation", ALLOCATIONS, allocation),
        ("pattern", PATTERNS, (pattern_name, pattern_args)),
        ("solver", SOLVERS, solver),
    ):
        checked, wrong = registry.check(name, args or {}, f"{where}.{kind}")
        problems += wrong
        if not wrong:
            choice = Choice(registry[name], checked)
            missing = missing_files(choice, f"{where}.{kind}")
            problems += missing
            invalid = None if missing else choice.fact("invalid")
            if missing:
                continue
            if invalid:
                problems.append(f"{where}.{kind}: {invalid}")
            else:
                found[kind] = choice
    problems += _check_sparsity(sparsity, found.get("allocation"), found.get("pattern"), where)
    problems += _check_lists(include, exclude, where)
    problems += _check_solver(found.get("solver"), found.get("pattern"), has_batches, where)
    if "allocation" in found and not has_batches and found["allocation"].entry.facts.get("by"):
        problems.append(
            f"{where}.allocation: '{found['allocation'].entry.name}' is measured on batches of images (labels are not "
            "needed), and none are given. Give stats_batches, or choose global."
        )
    if "score" in found and not has_batches and (needs := needs_of(found["score"].entry.name)):
        name = found["score"].entry.name
        data = "labelled batches" if needs_labels(name) else "batches of images (labels are not needed)"
        problems.append(
            f"{where}.score: '{name}' needs {', '.join(needs)}, measured on {data}, and none are given. "
            "Give stats_batches, or choose a score that needs only the weights: magnitude."
        )
    return (None if problems else Choices(**found)), problems


def missing_files(choice: Choice, where: str) -> list[str]:
    """Files that the settings name (the fact `files`) and that are not there."""
    settings = choice.entry.facts.get("files", ())
    named = {setting: Path(choice.args[setting]) for setting in settings if choice.args.get(setting) is not None}
    return [
        f"{where}.args.{setting}: there is no file {path}. {siblings(path)}"
        for setting, path in named.items()
        if not path.is_file()
    ]


def counting_score(choices: Choices) -> str:
    """The name of the score by which the allocation counts: its own, or else the chosen one."""
    return str(choices.allocation.entry.facts.get("by") or choices.score.entry.name)


def _check_sparsity(sparsity: float | None, allocation: Choice | None, pattern: Choice | None, where: str) -> list[str]:
    """The sparsity in its range, and what allocation and pattern leave of it to choose."""
    key = f"{where}.sparsity"
    if sparsity is not None and (isinstance(sparsity, bool) or not isinstance(sparsity, int | float)):
        return [f"{key}: {sparsity!r} is not a number."]
    if sparsity is not None and not 0 <= sparsity < 1:
        return [f"{key}: {sparsity} is not in [0, 1)."]
    if pattern is None or allocation is None:
        return []
    if not pattern.has("fixed_count"):
        if sparsity is None and not allocation.entry.facts.get("own_sparsity"):
            return [f"{key}: needed and not given. Add {key}=VALUE."]
        return []
    problems = []
    name = pattern.entry.name
    if allocation.entry.name != "uniform":
        problems.append(
            f"{where}.allocation: '{allocation.entry.name}' has nothing to decide with pattern '{name}', which itself "
            "says how many weights go in each layer. Use uniform (layerwise)."
        )
    fixed = pattern.fact("fixed_sparsity")
    if sparsity is not None and (fixed is None or abs(sparsity - fixed) > _SAME_SPARSITY):
        gives = "prunes what falls below its value" if fixed is None else f"prunes exactly {fixed:.6g}"
        problems.append(
            f"{key}: {sparsity} was asked for, and pattern '{name}' with {dict(pattern.args)} {gives}. Leave sparsity "
            + ("out (null)." if fixed is None else f"out (null), or set it to {fixed:.6g}.")
        )
    return problems


def _check_solver(solver: Choice | None, pattern: Choice | None, has_batches: bool, where: str) -> list[str]:
    """Images for a solver that needs them, and a pattern that leaves it something to decide."""
    if solver is None:
        return []
    problems, name = [], solver.entry.name
    if solver.entry.facts.get("images") and not has_batches:
        problems.append(
            f"{where}.solver: '{name}' needs calibration images (labels are not needed), and none are given. Give "
            "stats_batches, or use none."
        )
    by_value = pattern is not None and pattern.has("fixed_count") and pattern.fact("fixed_sparsity") is None
    if solver.entry.facts.get("chooses") and pattern is not None and by_value:
        problems.append(
            f"{where}.solver: '{name}' decides itself which weights go, and pattern '{pattern.entry.name}' by the "
            "value of the score: they can't both. Use reconstruct or none, or give a sparsity without the pattern."
        )
    return problems


def _check_lists(include: Sequence[str], exclude: Sequence[str], where: str) -> list[str]:
    problems = []
    for key, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):
            problems.append(f"{where}.{key}: {patterns!r} is text, not a list of names. Write [{patterns!r}].")
        elif not all(isinstance(pattern, str) and pattern for pattern in patterns):
            problems.append(f"{where}.{key}: {list(patterns)} holds something that is not a name.")
    return problems
