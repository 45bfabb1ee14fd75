"""Every result below a folder: finished runs, profiles, scans, sweeps; and, by name, what could not be used and why."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.reporting.places import SWEEP, TRIALS, Place, Problem, Walk
from pruning_bootcamp.reporting.values import number, text
from pruning_bootcamp.runs import CONFIG, METRICS, read_yaml, siblings

SENSITIVITY, PROFILE, EVALUATION, TRIAL = "sensitivity.yaml", "profile.yaml", "eval_metrics.yaml", "trial.yaml"
_LOOKED_FOR = (METRICS, CONFIG, PROFILE, SENSITIVITY, SWEEP, EVALUATION)
_MOST_BYTES = 4 * 2**20  # of a profile, far above that of a network of thousands of layers


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
    sweep: Path | None = None
    """the folder of the sweep that made it"""


@dataclass
class Collected:
    root: Path
    runs: list[Found] = field(default_factory=list)
    trials: list[Found] = field(default_factory=list)
    """runs that a sweep made; they are among `runs` where nothing else is"""
    ended: list[tuple[bool, Problem]] = field(default_factory=list)
    """trials that left no network, and whether that was on purpose"""
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
    walk = Walk(root, found.problems, found.left_out)
    for place in walk.places():
        _read_place(found, walk, place)
    _place_trials(found)
    _count_once(found)
    if not (found.runs or found.profiles or found.scans or found.sweeps or found.evaluations):
        reasons = "".join(f"\n  {one.name}: {one.reason}" for one in [*found.problems, *found.left_out][:20])
        raise BootcampError(
            f"--results: {root}: nothing finished to report on. Looked in it and below for {', '.join(_LOOKED_FOR)}. "
            f"Make some first: pruning-bootcamp quickstart --save-dir {root / 'quickstart'}.{reasons}"
        )
    return found


def _read_place(found: Collected, walk: Walk, place: Place) -> None:
    folder, names, name = place.folder, place.files, walk.name(place.folder)
    config, command = {}, None
    if CONFIG in names and (content := _read(found, name, folder / CONFIG)) is not None:
        config, command = content, _command(folder / CONFIG)
    kinds = {PROFILE: found.profiles, SENSITIVITY: found.scans, SWEEP: found.sweeps, EVALUATION: found.evaluations}
    for file, kept in kinds.items():
        if file in names and (content := _read(found, name, folder / file)) is not None:
            kept.append(Found(name, folder, content, config, command))
    for file in sorted(names):
        if file.endswith(".yaml") and file not in _LOOKED_FOR and (content := _profile_in(folder / file)):
            found.profiles.append(Found(walk.name(folder / Path(file).stem), folder, content))
    if SENSITIVITY in names:  # its metrics.yaml is a finish mark, not one network's figures
        if METRICS not in names:
            found.problems.append(Problem(name, _unfinished(command, folder, config)))
        return
    if SWEEP in names:
        found.problems += _open_sweep(found.sweeps, folder, name)
        return
    is_trial = TRIAL in names and folder.resolve().parent.name == TRIALS
    sweep = place.sweep or (folder.resolve().parent.parent if is_trial else None)
    if METRICS in names:
        if (content := _read(found, name, folder / METRICS)) is not None:
            _add_run(found, Found(name, folder, content, config, command, sweep))
    elif TRIAL in names and (content := _read(found, name, folder / TRIAL)) is not None:
        found.ended.append(_ended(name, content))
    elif CONFIG in names and sweep is None:  # of a sweep that is not over, the sweep's own line says so
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


def _ended(name: str, trial: Mapping[str, Any]) -> tuple[bool, Problem]:
    """A trial of a sweep that left no network: stopped early, which is on purpose, or failed."""
    reason = text(trial.get("reason")) or "no reason recorded"
    stopped = trial.get("state") == "pruned"
    said = "that its sweep stopped early" if stopped else f"that came to nothing ({trial.get('state')})"
    return stopped, Problem(name, f"a trial {said}: {reason}")


def _place_trials(found: Collected) -> None:
    """Beside other runs a sweep's trials stand in the sweep's own section; alone they are the runs of the report."""
    made = [run for run in found.runs if run.sweep is not None]
    found.trials = made
    if len(made) == len(found.runs):
        found.left_out += [problem for on_purpose, problem in found.ended if on_purpose]
        found.problems += [problem for on_purpose, problem in found.ended if not on_purpose]
        return
    found.runs = [run for run in found.runs if run.sweep is None]


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
    given = run.content.get("accuracy")
    accuracy, validation = number(given), number(run.content.get("val_accuracy"))
    if given is None and validation is not None:  # goal.evaluate_test=false: the test images were not read
        accuracy = validation
    if accuracy is None:
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
