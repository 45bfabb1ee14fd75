"""Which folders below a folder of results are looked into: the runs made there, and nobody else's."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pruning_bootcamp.runs import CONFIG, METRICS

SWEEP = "sweep.yaml"
TRIALS, DENSE = "trials", "dense"  # of a sweep
PUBLISHED = "published"
# Parts of runs that are reported with the run, or replaced by a newer one.
_PARTS = {"logs", "stages", "export", "recovery"}


@dataclass(frozen=True)
class Problem:
    """A folder or file that is not in the tables, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Place:
    """A folder, and the files in it."""

    folder: Path
    files: frozenset[str]
    sweep: Path | None
    """the sweep that made it: as one of its trials, or as its dense network"""


@dataclass
class Walk:
    """The places below `root`, in order of their names; and what was not looked into, once `places` has been."""

    root: Path
    problems: list[Problem] = field(default_factory=list)
    left_out: list[Problem] = field(default_factory=list)

    def places(self) -> Iterator[Place]:
        """Links are not followed. `root` itself is looked into whatever it is: it was named."""
        sweeps: set[Path] = set()
        for name, folders, files in os.walk(self.root, onerror=self._unreadable):
            folder = Path(name)
            is_run, is_sweep = bool({CONFIG, METRICS} & set(files)), SWEEP in files
            if is_sweep:
                sweeps.add(folder)
            left_out = {inner: reason for inner in folders if (reason := _not_mine(folder / inner))}
            self.left_out += [Problem(self.name(folder / inner), left_out[inner]) for inner in sorted(left_out)]
            own = {TRIALS, DENSE} if is_sweep else set()
            folders[:] = sorted(
                inner
                for inner in folders
                if inner in own or not (inner in left_out or inner.startswith(".") or (is_run and _is_part(inner)))
            )
            yield Place(folder, frozenset(files), _made_by(folder, sweeps))

    def name(self, folder: Path) -> str:
        """As the report shows it: seen from the root."""
        return folder.relative_to(self.root).as_posix() if folder != self.root else self.root.resolve().name

    def _unreadable(self, error: OSError) -> None:
        self.problems.append(Problem(self.name(Path(str(error.filename))), f"can't be read ({error.strerror})"))


def _not_mine(folder: Path) -> str | None:
    """Why what lies in this folder is no result of whoever asks for the report; None where it is."""
    if re.fullmatch(r"previous-\d+", folder.name):
        return "files of an earlier run that another replaced"
    if folder.name.lower() == PUBLISHED:
        count = sum(1 for _ in folder.rglob(METRICS))
        return (
            f"published results ({count} with a {METRICS}), which speak for those who published them; to report on "
            f"them, name them: --results {folder}"
        )
    if (folder / ".git").exists():
        return f"a repository of its own, another project; to report on it, name it: --results {folder}"
    return None


def _is_part(name: str) -> bool:
    return name in _PARTS or name.startswith("cycle_")


def _made_by(folder: Path, sweeps: set[Path]) -> Path | None:
    return next((sweep for sweep in (folder, *folder.parents) if sweep in sweeps and sweep != folder), None)
