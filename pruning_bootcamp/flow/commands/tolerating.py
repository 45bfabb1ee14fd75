"""prune-structured --max-accuracy-drop: as much as may be cut within so many points, found on validation samples."""

import copy
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.flow.commands.pruning import default_folder, pruning_plan
from pruning_bootcamp.flow.machine import STAGES
from pruning_bootcamp.flow.run import Watch, carry_out, unwatched
from pruning_bootcamp.flow.start import checkpoint_path, task_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.pruning.sections import BUDGETS
from pruning_bootcamp.results import TRIALS, Metrics, Search, SearchTrial
from pruning_bootcamp.runs import SEARCH, write_yaml

_FIRST, _LEAST, _MOST = 0.5, 0.02, 0.98
_MOST_TRIALS = 8
_CLOSE = 0.02


def next_share(search: Search) -> float | None:
    """The share to try next; None where the largest that keeps within the limit is known closely enough.

    Between the largest that does and the smallest that does not, on the line of the drops' square roots: a drop grows
    faster and faster.
    """
    good = [trial for trial in search.trials if search.allows(trial)]
    bad = [trial for trial in search.trials if trial not in good]
    low = max((trial.share for trial in good), default=0.0)
    high = min((trial.share for trial in bad), default=1.0)
    if len(search.trials) >= _MOST_TRIALS or high - low <= _CLOSE:
        return None
    if not search.trials:
        return _FIRST
    below = max((trial.drop or 0.0 for trial in good if trial.share == low), default=0.0)
    above = next((trial.drop for trial in bad if trial.share == high), None)
    middle = (low + high) / 2
    if above is not None:
        root = math.sqrt(max(below, 0.0))
        way = (math.sqrt(search.limit) - root) / max(math.sqrt(above) - root, 1e-9)
        middle = low + (high - low) * min(max(way, 0.15), 0.85)
    return round(min(max(middle, _LEAST), _MOST), 3)


def prune_within_drop(
    cfg: Config, dry_run: bool = False, resume: bool | None = None, watch: Watch = unwatched
) -> Metrics:
    """Cut as much as keeps within `structured.max_accuracy_drop` on validation samples, then read the test split once.

    Every trial is a run of its own in `trials/`, recovery included, and is kept: killed, the same call goes on. What is
    cut is time where `goal.latency_reduction_pct` asks for that, else multiply-accumulates.
    """
    limit = cfg.structured.max_accuracy_drop
    assert limit is not None
    name = "flops_reduction" if cfg.goal.latency_reduction_pct is None else "latency_reduction"
    folder = Path(cfg.save_dir) if cfg.save_dir else default_folder(cfg, "prune-structured")
    checkpoint = checkpoint_path(cfg.checkpoint)

    def run(share: float, place: Path, testing: bool, **more: Any) -> Metrics:
        one = at_share(cfg, name, share, place, testing)
        command, plan = pruning_plan(one, "prune-structured", checkpoint)
        return carry_out(replace(command, keeps_stages=not testing), plan, watch=watch, **more)

    if dry_run:
        return run(_FIRST, folder, False, dry_run=True)
    if resume is False:
        shutil.rmtree(folder / TRIALS, ignore_errors=True)
    found = Search(limit=limit, by=name, trials=())
    while (share := next_share(found)) is not None:
        LOGGER.info("\n=== Trial %d: %s %g ===", len(found.trials) + 1, name, share)
        found = replace(found, trials=(*found.trials, _tried(share, found, folder / TRIALS, run, cfg)))
        write_yaml(folder / SEARCH, to_plain(found))
    if (best := found.best) is None:
        raise GoalNotMet(_nothing_to_be_had(found.trials, limit, cfg))
    LOGGER.info("\n=== The most within %g points on validation samples: %s %g ===", limit, name, best.share)
    _hand_over(folder / TRIALS, folder)
    metrics = run(best.share, folder, cfg.goal.evaluate_test, resume=None)
    write_yaml(folder / SEARCH, to_plain(found))  # again: with the files of another run it was moved aside
    for place in (folder / TRIALS).glob(f"*/{STAGES}"):
        shutil.rmtree(place, ignore_errors=True)
    return metrics


def at_share(cfg: Config, name: str, share: float, folder: Path, testing: bool) -> Config:
    """The config of a run that cuts so much; the test samples are read where `testing`."""
    one = copy.deepcopy(cfg)
    assert cfg.structured.max_accuracy_drop is not None
    one.structured.max_accuracy_drop = None
    setattr(one.structured, BUDGETS[name], share)
    one.save_dir = str(folder)
    one.goal = replace(cfg.goal, accuracy_drop=cfg.structured.max_accuracy_drop, evaluate_test=testing)
    one.goal.flops_reduction_pct = 0.0  # as much as can be had: the goal is what is lost
    return one


def _tried(share: float, search: Search, folder: Path, run: Callable[..., Metrics], cfg: Config) -> SearchTrial:
    place = folder / f"{share:g}"
    for other in folder.glob(f"*/{STAGES}"):
        _link(other, place / STAGES)  # what does not depend on the share is done once
    try:
        metrics = run(share, place, False)
    except GoalNotMet as failure:
        why = str(failure)
        LOGGER.info("%s", why)
        return SearchTrial(share=share, drop=None, why=why)
    drop, metric = metrics.val_accuracy_drop, task_of(cfg).metric
    assert drop is not None
    saved = metrics.flops_reduction_pct if search.by == "flops_reduction" else metrics.latency_reduction_pct
    reached = None if saved is None else round(saved / 100, 4)
    trial = SearchTrial(share=share, drop=round(drop, 4), reached=reached)
    verdict = "within" if search.allows(trial) else "beyond"
    LOGGER.info("Trial: %.2f points of %s lost, %s the limit of %g", drop, metric.title, verdict, search.limit)
    return trial


def _nothing_to_be_had(trials: Sequence[SearchTrial], limit: float, cfg: Config) -> str:
    least = min((trial for trial in trials if trial.drop is not None), key=lambda trial: trial.share, default=None)
    if least is None:
        return f"structured.max_accuracy_drop: {limit:g}, and nothing can be cut: {trials[-1].why}"
    return (
        f"structured.max_accuracy_drop: {limit:g} points, and without {least.share:g} of the cost {least.drop:.2f} are "
        f"lost on validation {task_of(cfg).noun}. Allow more, or recover for longer (fine_tune.epochs, or "
        "recover.method=distill)."
    )


def _hand_over(trials: Path, folder: Path) -> None:
    for other in sorted(trials.glob(f"*/{STAGES}")):
        _link(other, folder / STAGES)


def _link(source: Path, target: Path) -> None:
    """The finished steps of another run, without their bytes twice where the disk can do that."""
    for step in source.iterdir():
        if (target / step.name).exists():
            continue
        unfinished = target / f".{step.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            shutil.copytree(step, unfinished, copy_function=_hard_link)
            unfinished.rename(target / step.name)
        except OSError as error:
            raise BootcampError(f"{target}: {error.strerror or error}.") from error


def _hard_link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
