"""Every result below a folder: finished runs, profiles, scans, sweeps; and, by name, what could not be used and why."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.reporting.values import number
from pruning_bootcamp.runs import CONFIG, METRICS, read_yaml, siblings

SENSITIVITY, SWEEP, PROFILE, EVALUATION = "sensitivity.yaml", "sweep.yaml", "profile.yaml", "eval_metrics.yaml"
_LOOKED_FOR = (METRICS, CONFIG, PROFILE, SENSITIVITY, SWEEP, EVALUATION)
_MOST_BYTES = 4 * 2**20  # of a profile, far above that of a network of thousands of layers
# Parts of runs that are reported with the run, or replaced by a newer one.
_PARTS = {"logs", "stages", "export", "recovery"}


@dataclass(frozen=True)
class Found:
    """One YAML file of results, with the config beside it."""

    name: str
    """its folder, seen from the folder of results"""
    folder: Path
    content: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    command: str | None = None
    """the command, as the first line of config.yaml has it: prune-structured"""


@dataclass(frozen=True)
class Problem:
    """A folder or file that is not in the tables, and why."""

    name: str
    reason: str


@dataclass
class Collected:
    root: Path
    runs: list[Found] = field(default_factory=list)
    profiles: list[Found] = field(default_factory=list)
    evaluations: list[Found] = field(default_factory=list)
    scans: list[Found] = field(default_factory=list)
    sweeps: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_out: list[Problem] = field(default_factory=list)
    """not used on purpose: replaced, counted elsewhere"""


def collect(root: Path) -> Collected:
    """Read what is below `root`. BootcampError when there is no such folder, or nothing in it to report on."""
    if not root.is_dir():
        what = "is a file, and a folder of results is needed" if root.exists() else "there is no such folder"
        raise BootcampError(f"--results: {root}: {what}. {siblings(root)}")
    found = Collected(root)
    for folder, names in _folders(found, root):
        _read_folder(found, folder, names)
    _count_once(found)
    if not (found.runs or found.profiles or found.scans or found.sweeps or found.evaluations):
        reasons = "".join(f"\n  {problem.name}: {problem.reason}" for problem in found.problems[:20])
        raise BootcampError(
            f"--results: {root}: nothing finished to report on. Looked in it and below for {', '.join(_LOOKED_FOR)}. "
            f"Make some first: pruning-bootcamp quickstart --save-dir {root / 'quickstart'}.{reasons}"
        )
    return found


def _folders(found: Collected, root: Path) -> Iterator[tuple[Path, set[str]]]:
    """The folders that may hold results, in order of their names; links are not followed."""

    def unreadable(error: OSError) -> None:
        folder = Path(str(error.filename))
        found.problems.append(Problem(_name(folder, root), f"can't be read ({error.strerror})"))

    for place, folders, files in os.walk(root, onerror=unreadable):
        folder = Path(place)
        previous = [name for name in folders if re.fullmatch(r"previous-\d+", name)]
        found.left_out += [
            Problem(_name(folder / name, root), "files of an earlier run that another replaced") for name in previous
        ]
        is_run = bool({CONFIG, METRICS} & set(files))
        skipped = {*previous, *(name for name in folders if name.startswith(".") or (is_run and _is_part(name)))}
        if SWEEP in files:
            skipped |= {"trials", "dense"}  # validation figures only: they stand in the sweep's own table
        folders[:] = sorted(name for name in folders if name not in skipped)
        yield folder, set(files)


def _is_part(name: str) -> bool:
    return name in _PARTS or name.startswith("cycle_")


def _name(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix() if folder != root else root.resolve().name


def _read_folder(found: Collected, folder: Path, names: set[str]) -> None:
    name = _name(folder, found.root)
    config, command = {}, None
    if CONFIG in names and (content := _read(found, name, folder / CONFIG)) is not None:
        config, command = content, _command(folder / CONFIG)
    kinds = {PROFILE: found.profiles, SENSITIVITY: found.scans, SWEEP: found.sweeps, EVALUATION: found.evaluations}
    for file, kept in kinds.items():
        if file in names and (content := _read(found, name, folder / file)) is not None:
            kept.append(Found(name, folder, content, config, command))
    for file in sorted(names):
        if file.endswith(".yaml") and file not in _LOOKED_FOR and (content := _profile_in(folder / file)):
            found.profiles.append(Found(_name(folder / Path(file).stem, found.root), folder, content))
    if SENSITIVITY in names:  # its metrics.yaml is a finish mark, not one network's figures
        if METRICS not in names:
            found.problems.append(Problem(name, _unfinished(command, folder, config)))
        return
    if SWEEP in names:
        found.problems += _open_sweep(found.sweeps, folder, name)
        return
    if METRICS in names:
        if (content := _read(found, name, folder / METRICS)) is not None:
            _add_run(found, Found(name, folder, content, config, command))
    elif CONFIG in names:
        found.problems.append(Problem(name, _unfinished(command, folder, config)))


def _profile_in(path: Path) -> dict[str, Any] | None:
    """What `profile --save-results` wrote under a name of the user's; None for any other file."""
    try:
        content = read_yaml(path) if path.stat().st_size < _MOST_BYTES else {}
    except (BootcampError, OSError):  # whatever it is, no command here wrote it
        return None
    is_profile = isinstance(content.get("comparison"), Mapping) and isinstance(content.get("checkpoints"), Mapping)
    return content if is_profile else None


def _open_sweep(sweeps: list[Found], folder: Path, name: str) -> list[Problem]:
    """Why a sweep, if sweep.yaml could be read, is not over: it says so itself."""
    status = next((sweep.content.get("status") for sweep in sweeps if sweep.folder == folder), "complete")
    if status == "complete":
        return []
    again = f"pruning-bootcamp sweep -c {folder / CONFIG}"
    return [Problem(name, f"its status is {status!r}; the trials so far are shown: go on with {again}")]


def _add_run(found: Collected, run: Found) -> None:
    rows = run.content.get("rows")
    if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows):
        found.runs.append(run)  # a benchmark: a row a network
        return
    if run.content.get("status") not in ("complete", None):
        stopped = run.content.get("stopped")
        said = "; ".join(str(line) for line in stopped) if isinstance(stopped, list) else ""
        if number(run.content.get("accuracy")) is None:
            status = run.content.get("status")
            found.problems.append(Problem(run.name, f"its status is {status!r}{': ' + said if said else ''}"))
            return
    if (accuracy := number(run.content.get("accuracy"))) is None:
        given = run.content.get("accuracy")
        other = " It has a perplexity, which is not compared yet." if "perplexity" in run.content else ""
        reason = "holds no accuracy" if given is None else f"accuracy is {given!r}, not a number"
        found.problems.append(Problem(run.name, f"{METRICS}: {reason}.{other}"))
    elif not 0 <= accuracy <= 100:
        found.problems.append(Problem(run.name, f"{METRICS}: accuracy is {accuracy:g}, not in [0, 100]"))
    else:
        found.runs.append(run)


def _read(found: Collected, name: str, path: Path) -> dict[str, Any] | None:
    try:
        return read_yaml(path)
    except BootcampError as error:
        found.problems.append(Problem(name, " ".join(str(error).split())))
        return None


def _command(path: Path) -> str | None:
    """prune-structured, from `# pruning-bootcamp prune-structured -c ...`."""
    with open(path, encoding="utf-8", errors="replace") as stream:
        head = stream.readline(500)
    matched = re.match(r"# pruning-bootcamp (pipeline run|[a-z-]+)", head)
    return matched[1] if matched else None


def _unfinished(command: str | None, folder: Path, config: Mapping[str, Any]) -> str:
    again = f": go on with pruning-bootcamp {command} -c {folder / CONFIG}" if command else ""
    there = f", or {METRICS} is missing" if config else ""
    return f"not finished, still running{there}{again}"


def _count_once(found: Collected) -> None:
    """A copy of a run, or a summary that repeats one (quickstart's), is no second measurement."""
    by_fingerprint: dict[str, Found] = {}
    for run in sorted(found.runs, key=lambda run: (not run.config, run.name)):
        fingerprint = run.content.get("fingerprint")
        first = by_fingerprint.setdefault(fingerprint, run) if isinstance(fingerprint, str) else run
        if first is not run:
            found.runs.remove(run)
            found.left_out.append(Problem(run.name, f"the same run as {first.name} (same fingerprint), counted once"))
    found.runs.sort(key=lambda run: run.name)
