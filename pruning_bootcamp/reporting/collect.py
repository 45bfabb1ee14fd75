"""Every result below a folder: finished runs, profiles, scans, sweeps; and, by name, what could not be used and why."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Kind, Plain, from_plain
from pruning_bootcamp.results import (
    TRIALS,
    Benchmark,
    Metrics,
    Profile,
    Scan,
    Search,
    Stairs,
    Study,
    TrialResult,
    scan_as_read,
)
from pruning_bootcamp.runs import CONFIG, LAYER_TIMES, METRICS, SEARCH, read_results, read_yaml, siblings

Content = TypeVar("Content", covariant=True)

SWEEP = "sweep.yaml"
DENSE = "dense"  # of a sweep
PUBLISHED = "published"
# Parts of runs that are reported with the run, or replaced by a newer one.
_PARTS = {"logs", "stages", "export", "recovery"}


@dataclass(frozen=True)
class Omission:
    """A folder or file that is not in the tables, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ResultFolder:
    """A folder, and the files in it."""

    folder: Path
    files: frozenset[str]
    sweep: Path | None
    """the sweep that made it: as one of its trials, or as its dense network"""


@dataclass
class Walk:
    """The folders below `root`, in order of their names; and what was left unread, once they were walked."""

    root: Path
    problems: list[Omission] = field(default_factory=list)
    left_out: list[Omission] = field(default_factory=list)

    def folders(self) -> Iterator[ResultFolder]:
        """Links are not followed. `root` itself is looked into whatever it is: it was named."""
        sweeps: set[Path] = set()
        for name, folders, files in os.walk(self.root, onerror=self._unreadable):
            folder = Path(name)
            is_run, is_sweep = bool({CONFIG, METRICS} & set(files)), SWEEP in files
            if is_sweep:
                sweeps.add(folder)
            left_out = {inner: reason for inner in folders if (reason := _not_mine(folder / inner))}
            self.left_out += [Omission(self.name(folder / inner), left_out[inner]) for inner in sorted(left_out)]
            own = {TRIALS, DENSE} if is_sweep else set()
            folders[:] = sorted(
                inner
                for inner in folders
                if inner in own or not (inner in left_out or inner.startswith(".") or (is_run and _is_part(inner)))
            )
            yield ResultFolder(folder, frozenset(files), _made_by(folder, sweeps))

    def name(self, folder: Path) -> str:
        """As the report shows it: seen from the root."""
        return folder.relative_to(self.root).as_posix() if folder != self.root else self.root.resolve().name

    def _unreadable(self, error: OSError) -> None:
        self.problems.append(Omission(self.name(Path(str(error.filename))), f"can't be read ({error.strerror})"))


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


SENSITIVITY, PROFILE, EVALUATION, TRIAL = "sensitivity.yaml", "profile.yaml", "eval_metrics.yaml", "trial.yaml"
_LOOKED_FOR = (METRICS, CONFIG, PROFILE, SENSITIVITY, SWEEP, EVALUATION, LAYER_TIMES, SEARCH)
_MOST_BYTES = 4 * 2**20  # of a profile, far above that of a network of thousands of layers


@dataclass(frozen=True)
class Found(Generic[Content]):
    """One file of results, with the config beside it."""

    name: str
    """its folder, seen from the folder of results"""
    folder: Path
    content: Content
    config: Mapping[str, Plain] = field(default_factory=dict)
    command: str | None = None
    """the command, as the first line of config.yaml has it: prune-structured"""
    sweep: Path | None = None
    """the folder of the sweep that made it"""


Run = Found[Metrics] | Found[Benchmark]


@dataclass
class Collected:
    root: Path
    runs: list[Run] = field(default_factory=list)
    trials: list[Run] = field(default_factory=list)
    """runs that a sweep made; they are among `runs` where nothing else is"""
    ended: list[tuple[bool, Omission]] = field(default_factory=list)
    """trials that left no network, and whether that was on purpose"""
    profiles: list[Found[Profile]] = field(default_factory=list)
    evaluations: list[Found[Metrics]] = field(default_factory=list)
    scans: list[Found[Scan]] = field(default_factory=list)
    sweeps: list[Found[Study]] = field(default_factory=list)
    stairs: list[Found[Stairs]] = field(default_factory=list)
    searches: list[Found[Search]] = field(default_factory=list)
    problems: list[Omission] = field(default_factory=list)
    left_out: list[Omission] = field(default_factory=list)
    """not used on purpose: replaced, counted elsewhere"""


def collect(root: Path) -> Collected:
    """Read what is below `root`. BootcampError when there is no such folder, or nothing in it to report on."""
    if not root.is_dir():
        what = "is a file, and a folder of results is needed" if root.exists() else "there is no such folder"
        raise BootcampError(f"--results: {root}: {what}. {siblings(root)}")
    found = Collected(root)
    walk = Walk(root, found.problems, found.left_out)
    for listed in walk.folders():
        _read_folder(found, walk, listed)
    _set_trials_apart(found)
    _count_once(found)
    if not (found.runs or found.profiles or found.scans or found.sweeps or found.evaluations):
        reasons = "".join(f"\n  {one.name}: {one.reason}" for one in [*found.problems, *found.left_out][:20])
        raise BootcampError(
            f"--results: {root}: nothing finished to report on. Looked in it and below for {', '.join(_LOOKED_FOR)}. "
            f"Make some first: pruning-bootcamp quickstart --save-dir {root / 'quickstart'}.{reasons}"
        )
    return found


def _read_folder(found: Collected, walk: Walk, listed: ResultFolder) -> None:
    folder, names, name = listed.folder, listed.files, walk.name(listed.folder)
    config, command = _config(found, name, folder) if CONFIG in names else ({}, None)

    def keep(file: str, read: Callable[[Path], Kind], kept: list[Found[Kind]]) -> None:
        if file in names:
            try:
                kept.append(Found(name, folder, read(folder / file), config, command))
            except BootcampError as error:
                found.problems.append(_omission(name, error))

    keep(PROFILE, partial(read_results, Profile), found.profiles)
    keep(SENSITIVITY, lambda path: scan_as_read(read_yaml(path), str(path)), found.scans)
    keep(SWEEP, partial(read_results, Study), found.sweeps)
    keep(SEARCH, partial(read_results, Search), found.searches)
    run = folder.resolve().parent.parent
    if folder.resolve().parent.name != TRIALS or not (run / LAYER_TIMES).exists():  # else they are that run's own
        keep(LAYER_TIMES, partial(read_results, Stairs), found.stairs)
    keep(EVALUATION, partial(read_results, Metrics), found.evaluations)
    for file in sorted(names):
        if file.endswith(".yaml") and file not in _LOOKED_FOR and (content := _profile_in(folder / file)):
            found.profiles.append(Found(walk.name(folder / Path(file).stem), folder, content))
    if SENSITIVITY in names:  # its metrics.yaml is a finish mark, not one network's metrics
        if METRICS not in names:
            found.problems.append(Omission(name, _unfinished(command, folder, config)))
        return
    if SWEEP in names:
        found.problems += _open_sweep(found.sweeps, folder, name)
        return
    is_trial = TRIAL in names and folder.resolve().parent.name == TRIALS
    sweep = listed.sweep or (folder.resolve().parent.parent if is_trial else None)
    try:
        if METRICS in names:
            _add_run(found, name, folder, config, command, sweep)
        elif TRIAL in names:
            found.ended.append(_ended(name, read_results(TrialResult, folder / TRIAL)))
        elif CONFIG in names and sweep is None:  # of a sweep that is not over, the sweep's own line says so
            found.problems.append(Omission(name, _unfinished(command, folder, config)))
    except BootcampError as error:
        found.problems.append(_omission(name, error))


def _config(found: Collected, name: str, folder: Path) -> tuple[Mapping[str, Plain], str | None]:
    """What config.yaml holds, and the command that its first line names."""
    try:
        return read_yaml(folder / CONFIG), _command(folder / CONFIG)
    except BootcampError as error:
        found.problems.append(_omission(name, error))
        return {}, None


def _omission(name: str, error: BootcampError) -> Omission:
    return Omission(name, " ".join(str(error).split()))


def _profile_in(path: Path) -> Profile | None:
    """What `profile --save-results` wrote under a name of the user's; None for any other file."""
    try:
        content = read_yaml(path) if path.stat().st_size < _MOST_BYTES else {}
        is_profile = isinstance(content.get("comparison"), Mapping) and isinstance(content.get("checkpoints"), Mapping)
        return from_plain(Profile, content) if is_profile else None
    except (BootcampError, OSError):  # whatever it is, no command here wrote it
        return None


def _open_sweep(sweeps: list[Found[Study]], folder: Path, name: str) -> list[Omission]:
    """Why a sweep, if sweep.yaml could be read, is not over: it says so itself."""
    status = next((sweep.content.status for sweep in sweeps if sweep.folder == folder), "complete")
    if status == "complete":
        return []
    again = f"pruning-bootcamp sweep -c {folder / CONFIG}"
    return [Omission(name, f"its status is {status!r}; the trials so far are shown: go on with {again}")]


def _ended(name: str, trial: TrialResult) -> tuple[bool, Omission]:
    """A trial of a sweep that left no network: stopped early, which is on purpose, or failed."""
    stopped = trial.state == "pruned"
    said = "that its sweep stopped early" if stopped else f"that came to nothing ({trial.state})"
    return stopped, Omission(name, f"a trial {said}: {trial.reason or 'no reason recorded'}")


def _set_trials_apart(found: Collected) -> None:
    """Beside other runs a sweep's trials stand in the sweep's own section; alone they are the runs of the report."""
    made = [run for run in found.runs if run.sweep is not None]
    found.trials = made
    if len(made) == len(found.runs):
        found.left_out += [problem for on_purpose, problem in found.ended if on_purpose]
        found.problems += [problem for on_purpose, problem in found.ended if not on_purpose]
        return
    found.runs = [run for run in found.runs if run.sweep is None]


def _add_run(
    found: Collected,
    name: str,
    folder: Path,
    config: Mapping[str, Plain],
    command: str | None,
    sweep: Path | None,
) -> None:
    path = folder / METRICS
    content = read_yaml(path)
    if content.get("rows"):  # a benchmark: a row a network
        found.runs.append(Found(name, folder, from_plain(Benchmark, content, str(path)), config, command, sweep))
        return
    metrics = from_plain(Metrics, content, str(path))
    if why := _unusable(metrics):
        found.problems.append(Omission(name, why))
    else:
        found.runs.append(Found(name, folder, metrics, config, command, sweep))


def _unusable(metrics: Metrics) -> str | None:
    """Why a run can't stand in the tables; None where it can."""
    accuracy = metrics.accuracy
    if accuracy is None and metrics.status not in ("complete", None):
        return f"its status is {metrics.status!r}" + (f": {'; '.join(metrics.stopped)}" if metrics.stopped else "")
    if accuracy is None:
        accuracy = metrics.val_accuracy  # goal.evaluate_test=false: the test images were not read
    if accuracy is None:
        other = " It has a perplexity, which is not compared yet." if "perplexity" in metrics.more else ""
        return f"{METRICS}: holds no accuracy.{other}"
    return None if 0 <= accuracy <= 100 else f"{METRICS}: accuracy is {accuracy:g}, not in [0, 100]"


def _command(path: Path) -> str | None:
    """prune-structured, from `# pruning-bootcamp prune-structured -c ...`."""
    with open(path, encoding="utf-8", errors="replace") as stream:
        head = stream.readline(500)
    matched = re.match(r"# pruning-bootcamp (pipeline run|[a-z-]+)", head)
    return matched[1] if matched else None


def _unfinished(command: str | None, folder: Path, config: Mapping[str, Plain]) -> str:
    again = f": go on with pruning-bootcamp {command} -c {folder / CONFIG}" if command else ""
    there = f", or {METRICS} is missing" if config else ""
    return f"not finished, still running{there}{again}"


def _count_once(found: Collected) -> None:
    """A copy of a run, or a summary that repeats one (quickstart's), is no second measurement."""
    by_fingerprint: dict[str, Run] = {}
    for run in sorted(found.runs, key=lambda run: (not run.config, run.name)):
        fingerprint = run.content.fingerprint if isinstance(run.content, Metrics) else None
        first = run if fingerprint is None else by_fingerprint.setdefault(fingerprint, run)
        if first is not run:
            found.runs.remove(run)
            found.left_out.append(Omission(run.name, f"the same run as {first.name} (same fingerprint), counted once"))
    found.runs.sort(key=lambda run: run.name)
