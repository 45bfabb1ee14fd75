"""What a user is told when something is wrong: where, what was given, the nearest name, what exists, what to do."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Problem:
    """What is wrong (`text`) and where (`path`, a key such as `prune.sparsity`; empty where there is no key)."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text

    def under(self, place: str) -> "Problem":
        """The same, found within `place`: `prune.score` under("sweep.space") is `sweep.space.prune.score`."""
        return replace(self, path=f"{place}.{self.path}" if self.path else place)

    def renamed(self, names: Mapping[str, str]) -> "Problem":
        """The same at another path, where `names` (old path -> new path) has it or a part that it begins with."""
        parts = self.path.split(".")
        for end in range(len(parts), 0, -1):
            if (old := ".".join(parts[:end])) in names:
                return replace(self, path=".".join([names[old], *parts[end:]]))
        return self


class BootcampError(Exception):
    """A mistake that the user can mend: printed without a traceback, exit code 2.

    Holds every problem found, not only the first: `BootcampError("a: ...", "b: ...", where="cfgs/x.yaml")`.
    """

    exit_code = 2

    def __init__(self, *problems: Problem | str, where: str | None = None) -> None:
        assert problems, "an error without a problem tells nobody anything"
        self.problems = [Problem("", problem) if isinstance(problem, str) else problem for problem in problems]
        self.where = where
        super().__init__(str(self))

    def __str__(self) -> str:
        if self.where is None:
            return "\n".join(map(str, self.problems))
        if len(self.problems) == 1:
            return f"{self.where}: {self.problems[0]}"
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{self.where} has {len(self.problems)} problems:\n{lines}"

    def located(self) -> list[Problem]:
        """The problems, each under the place that the error names."""
        return self.problems if self.where is None else [problem.under(self.where) for problem in self.problems]


class GoalNotMet(BootcampError):
    """The work was done and measured, and the metric misses the goal, gate or proof: exit code 3."""

    exit_code = 3


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option that `name` was probably meant to be, or None when nothing is close."""
    by_lower = {option.lower(): option for option in options}
    found = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def listed(options: Iterable[str], limit: int = 30) -> str:
    """`a, b, c`; a long list ends in how many more there are."""
    names = sorted(options)
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def unknown(kind: str, name: object, options: Sequence[str] | Iterable[str], todo: str = "") -> str:
    """`unknown score 'magntude'. Did you mean 'magnitude'? Available: ... <todo>`"""
    names = list(options)
    close = nearest(str(name), names)
    hint = f" Did you mean '{close}'?" if close else ""
    exists = f" Available: {listed(names)}." if names else f" There is no {kind} to choose from."
    return f"unknown {kind} '{name}'.{hint}{exists}{' ' + todo if todo else ''}"
