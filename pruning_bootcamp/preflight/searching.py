"""Settings of a sweep: the search, and every value of its space as the command that it runs sees it."""

import contextlib
import importlib.util
from collections.abc import Callable, Sequence

from pruning_bootcamp.config import Config, with_values
from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.schema import shown
from pruning_bootcamp.sweep.known import SECTIONS
from pruning_bootcamp.sweep.space import Dimension, grid_size, parse_space
from pruning_bootcamp.sweep.trial import COSTS
from pruning_bootcamp.training.settings import TrainSettings

Check = Callable[[Config], list[Problem]]


def search(cfg: Config, parts: Sequence[Check]) -> list[Problem]:
    """The search itself, and whether the command that it runs, checked by `parts`, takes every value of the space."""
    s = cfg.sweep
    dimensions, problems = parse_space(s.space)
    if len(s.objectives) != 2 or "accuracy" not in s.objectives or not set(s.objectives) & set(COSTS):
        problems.append(
            Problem(
                "sweep.objectives",
                f"{shown(s.objectives)} is not accuracy and one of {', '.join(COSTS)}. "
                "Write for instance [accuracy, flops_g].",
            )
        )
    elif "flops_g" in s.objectives and s.command == "prune-unstructured":
        problems.append(
            Problem(
                "sweep.objectives",
                "zeros alone save no FLOPs, so every trial would cost the same. Use [accuracy, size_mb].",
            )
        )
    elif "latency_ms" in s.objectives and s.workers > 1:
        problems.append(
            Problem(
                "sweep.workers",
                f"{s.workers} workers would disturb each other's latency, which is to be compared. Use 1.",
            )
        )
    if s.storage is not None and s.command != "train" and cfg.checkpoint is None:
        problems.append(
            Problem(
                "sweep.storage",
                "each machine would train a dense network of its own, and what is pruned from different "
                "ones can't be compared. Train one first, and give --checkpoint FILE everywhere.",
            )
        )
    if s.sampler == "grid":
        problems += _grid(cfg, dimensions)
    for module, extra, needed in (("optuna", "sweep", True), ("ray", "cluster", s.executor == "ray")):
        if needed and importlib.util.find_spec(module) is None:
            problems.append(Problem("sweep", f"needs {module}, which is not installed. Install the extra '{extra}'."))
    return problems + _space(cfg, dimensions, parts)


def _grid(cfg: Config, dimensions: list[Dimension]) -> list[Problem]:
    trials = cfg.sweep.trials
    problems = [
        Problem(
            f"sweep.space.{dimension.key}", "a grid needs an end of values. Give a step, a list, or another sampler."
        )
        for dimension in dimensions
        if dimension.points() is None
    ]
    size = grid_size(dimensions)
    if size is not None and trials is not None and trials < size:
        problems.append(
            Problem(
                "sweep.trials",
                f"{trials} is less than the grid's {size} combinations. Leave it out, take values away, or "
                "choose the sampler random or tpe.",
            )
        )
    return problems


def _space(cfg: Config, dimensions: list[Dimension], parts: Sequence[Check]) -> list[Problem]:
    """Each value, set alone: what the schema or the command's own checks say about it."""
    command, problems = cfg.sweep.command, []
    sections = [section for section in SECTIONS[command] if section != "data"]
    known = set(found_by(parts, cfg))  # said without the space
    first = {dimension.key: dimension.probes()[0] for dimension in dimensions}
    for dimension in dimensions:
        section = dimension.key.partition(".")[0]
        place = f"sweep.space.{dimension.key}"
        if section == "data":
            problems.append(Problem(place, "trials on other images can't be compared. Leave it out."))
            continue
        if hasattr(cfg, section) and section not in (*sections, "seed"):
            problems.append(
                Problem(place, f"changes nothing in {command}, which depends on {', '.join(sections)} and seed.")
            )
            continue
        if command != "train" and (reason := _fixed(cfg, dimension)):
            problems.append(Problem(place, reason))
            continue
        for value in dimension.probes():
            try:
                probe = with_values(cfg, {dimension.key: value})
            except BootcampError as error:
                problems += [problem.under("sweep.space") for problem in error.problems]
                continue
            found = [problem for problem in found_by(parts, probe) if problem not in known]
            if found and len(first) > 1:  # perhaps only beside a setting that the space replaces
                with contextlib.suppress(BootcampError):
                    probe = with_values(cfg, first | {dimension.key: value})
                    found = [problem for problem in found_by(parts, probe) if problem not in known]
            problems += [Problem(f"{place}={shown(value)}", str(problem)) for problem in found]
    return list(dict.fromkeys(problems))


def _fixed(cfg: Config, dimension: Dimension) -> str | None:
    """Why a key of `model` or `train` is the same for every trial that prunes: the dense network is there before."""
    section, _, key = dimension.key.partition(".")
    if section == "model":
        return "the trials prune one and the same network. Leave it out, or set sweep.command=train."
    if section != "train" or key == "augment":
        return None
    found: list[TrainSettings] = []
    for value in dimension.probes():
        with contextlib.suppress(BootcampError):  # said of the value itself
            probe = with_values(cfg, {dimension.key: value})
            found.append(probe.fine_tune.after(probe.train))
    if len(found) < 2 or any(settings != found[0] for settings in found):
        return None
    instead = f" Did you mean fine_tune.{key}?" if hasattr(cfg.fine_tune, key) else ""
    return f"changes nothing in {cfg.sweep.command}: the dense network is trained once, before the trials.{instead}"


def found_by(parts: Sequence[Check], cfg: Config) -> list[Problem]:
    """What these checks say, each problem once."""
    return list(dict.fromkeys(problem for part in parts for problem in part(cfg)))
