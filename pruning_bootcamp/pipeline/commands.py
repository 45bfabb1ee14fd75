"""pipeline run, resume and status: a config in, a verified network, its report and its card out."""

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pruning_bootcamp.checkpoints.new_process import check_saved
from pruning_bootcamp.config import Config, as_dict, fingerprint
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.exporters import EXPORTERS
from pruning_bootcamp.locks import command_line, locked, owner_of
from pruning_bootcamp.logs import LOGGER, also_to_file
from pruning_bootcamp.memorised import FIT, KEY, caveat
from pruning_bootcamp.pipeline import finishing, report, view
from pruning_bootcamp.pipeline.compression import COMPRESSIONS
from pruning_bootcamp.pipeline.machine import STAGES, Machine, keys_of
from pruning_bootcamp.pipeline.plan import Plan
from pruning_bootcamp.pipeline.status import STATUS, Board, Watch, read_status
from pruning_bootcamp.pipeline.step import NETWORK, Desk, Done, Step, check_unique
from pruning_bootcamp.reporting import with_verdict
from pruning_bootcamp.runs import (
    CONFIG,
    METRICS,
    Run,
    atomic_path,
    command_in,
    open_run,
    read_yaml,
    siblings,
    write_text,
    write_yaml,
)
from pruning_bootcamp.runtime import environment
from pruning_bootcamp.stages import common, memorised, verdict
from pruning_bootcamp.stages.export import formats_in
from pruning_bootcamp.stages.verdict import Goal, Verdict, goal_of
from pruning_bootcamp.tools.datasets import Splits

COMMAND = "pipeline run"
EXPORTS, CARD, REPORT = "export", "model_card.md", "report.md"
_OUTPUTS = ("pruned_model.pth", REPORT, f"{EXPORTS}/{CARD}")
_NOTE = "flops_g: multiply-accumulates in 10^9, as pruning papers print FLOPs; accuracy and drops in percent points"


def make_plan(cfg: Config, checkpoint: str | None) -> Plan:
    """Every step, in order. `checkpoint` is the hash of the given one's content; None when the network is trained."""
    plan = Plan(cfg)
    finishing.add_dense(plan, checkpoint)
    for number, name in enumerate(cfg.pipeline.steps, start=1):
        plan.part = f"{number}-{name}"
        COMPRESSIONS[name](cfg, plan)
    finishing.add_evaluation(plan)
    finishing.add_export(plan)
    check_unique(plan.steps)
    return plan


def run(cfg: Config, resume: bool | None = None) -> dict[str, Any]:
    """Run the pipeline, or what is left of it; the metrics, with the verdict (`goal_met`).

    A failed gate is a GoalNotMet, and nothing is exported. A missed goal keeps what was made, as in every command.
    """
    common.one_process(COMMAND)
    folder = folder_of(cfg)
    checkpoint = None if cfg.checkpoint is None else common.content_hash(common.checkpoint_path(cfg.checkpoint))
    plan = make_plan(cfg, checkpoint)
    parts = {
        "keys": keys_of(plan.steps),
        "gates": as_dict(cfg)["gates"],
        "card": as_dict(cfg)["card"],
        "name": cfg.name,
    }
    print_ = fingerprint(COMMAND, parts)
    with locked(folder, command_line()):
        _check_folder(cfg, folder)
        known = Run(folder, COMMAND, print_, (*_OUTPUTS, *_exports(cfg)))
        done = None if resume is False else known.finished()
        if done is not None:
            LOGGER.info("%s is already finished (same config, same inputs); --no-resume does it again", folder)
            return _judge_again(known, done, _goal(cfg))
        comment = f"pruning-bootcamp {COMMAND}"
        open_run(folder, comment, as_dict(cfg), print_, fresh=resume is False, kept_for_others=(STAGES,))
        for name in (METRICS, EXPORTS):  # of a run that a gate stopped, or that was killed while it published
            _remove(folder / name)
        with also_to_file(known.path("log.txt")):
            return _run(cfg, plan, known)


def folder_of(cfg: Config) -> Path:
    return Path(cfg.save_dir) if cfg.save_dir else common.RESULTS / "pipeline" / cfg.name


def _check_folder(cfg: Config, folder: Path) -> None:
    """Nothing that the run moves aside, or removes to write it anew, is somebody else's or its own beginning."""
    elsewhere = "Choose another folder with --save-dir DIR."
    if cfg.checkpoint is not None:
        path, places = Path(cfg.checkpoint).resolve(), (folder / EXPORTS, folder / STAGES)
        if path.parent == folder.resolve() or any(path.is_relative_to(place.resolve()) for place in places):
            raise BootcampError(f"--save-dir: {folder} holds the checkpoint to start from. {elsewhere}")
    is_run = (folder / CONFIG).exists() or (folder / METRICS).exists()
    if not is_run and os.path.lexists(folder / EXPORTS):
        raise BootcampError(
            f"--save-dir: {folder} holds an '{EXPORTS}' that no run of ours wrote, and a pipeline puts its files "
            f"there. {elsewhere}"
        )


def _exports(cfg: Config) -> list[str]:
    """The files that ship."""
    return [f"{EXPORTS}/model{EXPORTERS[name].facts['suffix']}" for name in formats_in(cfg.export.format)]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass
class _Found:
    """What is known so far, for the report of a pipeline that goes through and of one that is stopped."""

    metrics: dict[str, Any] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)


def _run(cfg: Config, plan: Plan, run: Run) -> dict[str, Any]:
    device = common.start(cfg)
    splits = common.open_data(cfg)
    board = Board(run.folder, cfg.name, command_line(), plan.steps)
    found = _Found({"seed": cfg.seed, **common.judged_on(splits, testing=False)})

    def desk(step: Step, folder: Path, key: str, inputs: dict[str, Done]) -> Desk:
        return Desk(cfg, device, splits, folder, key, inputs, Watch(board, step))

    finishing.check_names(cfg, splits)
    machine = Machine(run.folder, cfg.seed, board, desk)  # type: ignore[arg-type]
    try:
        with view.live(board):
            _work(cfg, plan, machine, found)
            _publish(cfg, plan, machine, run, found, splits)
            board.complete()
        return _finish(cfg, board, run, found, device)
    except GoalNotMet as failure:
        board.fail("; ".join(failure.problems))
        _stopped(cfg, board, run, found, device, failure.problems)
        raise
    except (KeyboardInterrupt, SystemExit):
        board.fail("stopped by the user", interrupted=True)
        raise
    except BaseException as error:
        board.fail(f"{type(error).__name__}: {error}" if not isinstance(error, BootcampError) else str(error))
        raise


def _work(cfg: Config, plan: Plan, machine: Machine, found: _Found) -> None:
    """Every step; the gates are judged as soon as their figures are there, and a failed one stops the rest."""
    for step in plan.steps:
        done = machine.run(step)
        if done is None:
            continue
        metrics, figures = found.metrics, done.figures
        if step.name == plan.dense:
            metrics |= {key: figures[key] for key in (KEY, FIT) if key in figures}
        if step.name == finishing.EVALUATION:
            every = (text for known in machine.done.values() for text in known.figures.get("fall_backs", []))
            some = list(dict.fromkeys(every))  # each cycle says it again
            metrics["validation"], metrics["fall_backs"] = figures, some
            found.verdicts += verdict.judge_accuracy(
                cfg.gates, figures, f"{figures['images']} validation images{caveat(metrics)}"
            )
            costs = verdict.judge_cost(cfg.gates, figures, some)
            found.verdicts += costs
            if any(gate.gate == verdict.LATENCY for gate in verdict.failed(costs)):
                _remove(done.folder)  # the next run measures anew: a busy machine must not decide for good
        elif step.name == finishing.TEST:
            cost = {key: value for key, value in metrics["validation"].items() if key not in figures}
            cost.pop("val_accuracy", None)
            baseline = metrics["validation"]["baseline"] | figures["baseline"]
            metrics |= memorised.settle(metrics, figures["baseline"]["accuracy"], figures["images"])
            metrics["judged_on"] = "test"
            metrics["test"] = cost | figures | {"baseline": baseline}
            found.verdicts += verdict.judge_accuracy(cfg.gates, figures, f"{figures['images']} test images")
        elif step.name == finishing.EXPORT:
            metrics |= {"files": figures["files"], "dense_size_mb": figures["dense_size_mb"]}
            of_files = verdict.judge_files(cfg.gates, figures["files"], caveat(metrics))
            found.verdicts += of_files
            if any(verdict.failed(of_files)):
                _remove(done.folder)  # what a gate stopped is not left lying about to be shipped
        _check(found.verdicts)


def _check(verdicts: Sequence[Verdict]) -> None:
    if texts := [f"{gate}." for gate in verdict.failed(verdicts)]:
        raise GoalNotMet(*texts)


def _publish(cfg: Config, plan: Plan, machine: Machine, run: Run, found: _Found, splits: Splits) -> None:
    """Copies of the network and of the exported files in their place, and the card beside them."""
    _copy(machine.done[plan.last].folder / NETWORK, run.path("pruned_model.pth"))
    check_saved(run.path("pruned_model.pth"), common.recipe_for(cfg, splits))
    exported = machine.done[finishing.EXPORT].folder
    files = {name: run.folder / EXPORTS / file["file"] for name, file in found.metrics["files"].items()}
    for path in files.values():
        _copy(exported / path.name, path)
    shape = "x".join(str(side) for side in splits.shape)
    found.metrics["input"] = {"shape": shape, "mean": list(splits.mean), "std": list(splits.std)}
    card = report.model_card(cfg, found.metrics, machine.board.status, files, splits.class_names)
    write_text(run.folder / EXPORTS / CARD, card)


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _finish(cfg: Config, board: Board, run: Run, found: _Found, device: torch.device) -> dict[str, Any]:
    goal = _goal(cfg)
    metrics = _metrics(found, device, goal)
    write_text(run.path(REPORT), report.pipeline_report(cfg, found.metrics, found.verdicts, board, metrics))
    if found.verdicts:
        LOGGER.info("\n=== Gates ===")
    for gate in found.verdicts:
        LOGGER.info("%s", gate)
    LOGGER.info("%s", report.size_table(metrics) if metrics["files"] else "")
    _say(metrics, run.folder, goal)
    return run.finish(metrics)


def _goal(cfg: Config) -> Goal:
    """The same as the plain commands': FLOPs count where channels are cut."""
    return goal_of(cfg, cut="prune-structured" in cfg.pipeline.steps)


def _judge_again(run: Run, metrics: dict[str, Any], goal: Goal) -> dict[str, Any]:
    """A finished pipeline under the goal of today; its gates are part of what it is known by, and all held."""
    with verdict.reading(run.path(METRICS)):
        gates = [Verdict(**gate) for gate in metrics["gates"]]
        judged = metrics | verdict.judge(goal, metrics, gates)
        _say(judged, run.folder, goal)
    if judged == metrics:
        return metrics
    path = run.path(REPORT)
    write_text(path, with_verdict(path.read_text(encoding="utf-8"), judged))
    return run.finish(judged)


def _say(metrics: Mapping[str, Any], folder: Path, goal: Goal) -> None:
    LOGGER.info("\nTest accuracy: %.2f%% (dense %.2f%%)", metrics["accuracy"], metrics["baseline"]["accuracy"])
    LOGGER.info("Results saved to %s; what ships is in %s", folder, folder / EXPORTS)
    common.say_goal(metrics, goal.missed(metrics))


def _stopped(cfg: Config, board: Board, run: Run, found: _Found, device: torch.device, problems: Sequence[str]) -> None:
    """Report and metrics of a pipeline that a gate or a proof stopped."""
    metrics = _metrics(found, device, _goal(cfg)) | {"goal_met": False, "stopped": list(problems)}
    write_text(run.path(REPORT), report.pipeline_report(cfg, found.metrics, found.verdicts, board, metrics))
    write_yaml(run.path(METRICS), {**metrics, "fingerprint": run.fingerprint, "status": "failed"}, _NOTE)
    LOGGER.info("\nStopped before exporting anything. Report: %s", run.path(REPORT))


def _metrics(found: _Found, device: torch.device, goal: Goal) -> dict[str, Any]:
    """The test figures in front, where the test split was read; else what validation says, under its own name."""
    metrics = found.metrics
    first = {key: value for key, value in metrics.get("test", {}).items() if key not in ("summary", "images")}
    if "test" in metrics:
        first |= {"test_images": metrics["test"]["images"], "val_accuracy": metrics["validation"]["accuracy"]}
    judged = {"gates": []} | verdict.judge(goal, first, found.verdicts)
    kept = {key: value for key, value in metrics.items() if key != "test"}
    if "validation" in kept:
        kept["validation"] = _accuracies(kept["validation"])
    return first | judged | kept | {"environment": environment(device)}


def _accuracies(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What validation adds: the costs are the same as on the test images."""
    named = ("accuracy", "accuracy_drop", "latency_reduction_pct", "images")
    return {key: figures[key] for key in named if key in figures} | {
        "baseline_accuracy": figures["baseline"]["accuracy"]
    }


def resume(folder: Path, load: Any) -> dict[str, Any]:
    """Go on with what `run` began in the folder; `load(path, options)` gives the checked config."""
    if not (folder / CONFIG).exists():
        raise BootcampError(f"--save-dir: {folder} holds no pipeline to go on with. {siblings(folder / CONFIG)}")
    if (command := command_in(folder)) not in (None, COMMAND):
        raise BootcampError(
            f"--save-dir: {folder} holds a run of `{command}`, not a pipeline. Name a pipeline's folder."
        )
    return run(load(folder / CONFIG, {"save_dir": str(folder)}))


def status(folder: Path, watch: bool = False) -> None:
    """Show where the pipeline in the folder stands; with `watch` until it ends."""
    if not (folder / STATUS).exists():
        raise BootcampError(f"--save-dir: there is no pipeline in {folder}. {siblings(folder / STATUS)}")
    if watch and sys.stdout.isatty():
        view.follow(lambda: read_status(folder))
        return
    found = read_status(folder)
    view.show(found)
    if found.state == "complete" and (folder / METRICS).exists():
        with verdict.reading(folder / METRICS):
            common.say_goal(read_yaml(folder / METRICS))
    if watch:
        LOGGER.info("--watch: shown once, since this is no terminal")
    if found.state == "interrupted":
        LOGGER.info("Go on: pruning-bootcamp pipeline resume --save-dir %s", folder)
    elif (owner := owner_of(folder)) is not None:
        LOGGER.info("Running: %s; last change %.0f s ago", owner, max(0.0, time.time() - found.updated))
