"""pipeline run, resume and status: several compressions, gates, files that ship."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pruning_bootcamp.config import Config, as_dict
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.exporters import EXPORTERS
from pruning_bootcamp.flow import plan as plans
from pruning_bootcamp.flow import verdict, view
from pruning_bootcamp.flow.commands.pruning import check_ahead
from pruning_bootcamp.flow.compressions import compress
from pruning_bootcamp.flow.metrics import collect
from pruning_bootcamp.flow.naming import as_written
from pruning_bootcamp.flow.plan import EXPORT, VALIDATION, Plan
from pruning_bootcamp.flow.report import model_card, pipeline_report, say_goal, say_results, size_table
from pruning_bootcamp.flow.run import (
    REPORT,
    Carried,
    Command,
    carry_out,
    check_gates,
    finish,
    publish_layer_times,
    publish_network,
)
from pruning_bootcamp.flow.start import (
    RESULTS,
    checkpoint_path,
    one_process,
    recipe_for,
    task_of,
)
from pruning_bootcamp.flow.status import STATUS, read_status
from pruning_bootcamp.flow.steps.export import formats_in
from pruning_bootcamp.flow.verdict import goal_of
from pruning_bootcamp.locks import owner_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.results import Metrics, ModelInput
from pruning_bootcamp.runs import (
    CONFIG,
    METRICS,
    Run,
    command_in,
    publish,
    siblings,
    write_text,
    write_yaml,
)

PIPELINE = "pipeline run"
EXPORTS, CARD = "export", "model_card.md"
_NOTE = "flops_g: multiply-accumulates in 10^9, as pruning papers print FLOPs; accuracy and drops in percent points"


def pipeline(cfg: Config, resume: bool | None = None, dry_run: bool = False) -> Metrics:
    """Run the pipeline, or what is left of it; the metrics, with the verdict (`goal_met`).

    A failed gate is a GoalNotMet, and nothing is exported. A missed goal keeps what was made, as in every command.
    """
    one_process(PIPELINE)
    return carry_out(*pipeline_plan(cfg), resume, dry_run=dry_run)


def pipeline_plan(cfg: Config) -> tuple[Command, Plan]:
    """The pipeline as steps, and what follows them: gates, export, the model card, report.md, the metrics."""
    plan = plans.begin(cfg, None if cfg.checkpoint is None else checkpoint_path(cfg.checkpoint))
    compress(plan, cfg.pipeline.steps)
    plans.evaluate_both(plan, on_validation=True)
    plans.ship(plan)
    latency = ("profile",) if verdict.times_networks(cfg, "prune-structured" in cfg.pipeline.steps) else ()
    command = Command(
        PIPELINE,
        RESULTS / "pipeline" / cfg.name,
        _finish_pipeline,
        ("pruned_model.pth", REPORT, f"{EXPORTS}/{CARD}", *_exports(cfg)),
        goal=_pipelines_goal(cfg),
        check_gates=_check_gates,
        stopped=_write_stopped,
        prepare=check_ahead,
        begins=_check_exports,
        replaces=(METRICS, EXPORTS),
        keeps_stages=True,
        shown=True,
        more={part: as_dict(cfg)[part] for part in ("gates", "card", "name", *latency)},
    )
    return command, plan


def _exports(cfg: Config) -> list[str]:
    """The files that ship."""
    return [f"{EXPORTS}/model{EXPORTERS[name].facts['suffix']}" for name in formats_in(cfg.export.format)]


def _pipelines_goal(cfg: Config) -> verdict.Goal:
    """The same as the plain commands': FLOPs count where channels are cut."""
    return goal_of(cfg, cut="prune-structured" in cfg.pipeline.steps)


def _check_exports(run: Run) -> None:
    """What is removed to be written anew is no stranger's."""
    place = run.path(EXPORTS)
    if not (run.path(CONFIG).exists() or run.path(METRICS).exists()) and os.path.lexists(place):
        raise BootcampError(
            f"--save-dir: {run.folder} holds an '{EXPORTS}' that no run of ours wrote, and a pipeline puts its files "
            "there. Choose another folder with --save-dir DIR."
        )


def _check_gates(carried: Carried) -> None:
    """Once the validation split was read, so that all that fails by then is said in one go."""
    if VALIDATION in carried.done:
        check_gates(carried, _so_far(carried))


def _so_far(carried: Carried) -> Metrics:
    return collect(carried.plan.steps, carried.done, carried.cfg, carried.splits, carried.device)


def _finish_pipeline(carried: Carried) -> Metrics:
    """Networks and files in their place, the card beside them, the report, the verdict."""
    cfg, run, splits, plan = carried.cfg, carried.run, carried.splits, carried.plan
    publish_network(carried, plan.last, "pruned_model.pth")
    publish_layer_times(carried)
    metrics = _so_far(carried)
    shape = "x".join(str(side) for side in splits.shape)
    below = recipe_for(cfg, splits).input_below
    metrics = replace(metrics, input=ModelInput(shape=shape, mean=splits.mean, std=splits.std, below=below))
    lines: list[str] = []
    if cfg.goal.evaluate_test:
        metrics, lines = verdict.verdict_on(cfg, _pipelines_goal(cfg), metrics)
    files = {name: run.folder / EXPORTS / file.file for name, file in (metrics.files or {}).items()}
    for path in files.values():
        publish(carried.done[EXPORT].folder / path.name, path)
    card = model_card(cfg, metrics, carried.progress.status, files, splits.class_names)
    write_text(run.folder / EXPORTS / CARD, card)
    carried.progress.complete()
    gates, _ = verdict.judge_gates(cfg.gates, metrics)
    write_text(run.path(REPORT), pipeline_report(cfg, metrics, gates, carried.progress))
    if gates:
        LOGGER.info("\n=== Gates ===")
    for gate in gates:
        LOGGER.info("%s", gate)
    LOGGER.info("%s", size_table(metrics, task_of(cfg)))
    LOGGER.info("What ships is in %s", run.folder / EXPORTS)
    say_results(metrics, run.folder, lines, task_of(cfg))
    return finish(run, metrics, task_of(cfg).metric)


def _write_stopped(carried: Carried, failure: GoalNotMet) -> None:
    """Report and metrics of a pipeline that a gate or a proof stopped."""
    cfg, run = carried.cfg, carried.run
    metrics = _so_far(carried)
    gates, _ = verdict.judge_gates(cfg.gates, metrics)
    stopped = tuple(str(problem) for problem in failure.problems)
    metrics = replace(verdict.judge(_pipelines_goal(cfg), metrics, gates), goal_met=False, stopped=stopped)
    write_text(run.path(REPORT), pipeline_report(cfg, metrics, gates, carried.progress))
    failed = replace(metrics, fingerprint=run.fingerprint, status="failed")
    write_yaml(run.path(METRICS), as_written(task_of(cfg).metric, to_plain(failed)), _NOTE)
    LOGGER.info("\nStopped before exporting anything. Report: %s", run.path(REPORT))


def resume_pipeline(folder: Path, load: Callable[[Path, dict[str, str]], Config]) -> Metrics:
    """Go on with what `pipeline` began in the folder; `load(path, options)` gives the checked config."""
    if not (folder / CONFIG).exists():
        raise BootcampError(f"--save-dir: {folder} holds no pipeline to go on with. {siblings(folder / CONFIG)}")
    if (command := command_in(folder)) not in (None, PIPELINE):
        raise BootcampError(
            f"--save-dir: {folder} holds a run of `{command}`, not a pipeline. Name a pipeline's folder."
        )
    return pipeline(load(folder / CONFIG, {"save_dir": str(folder)}))


def show_status(folder: Path, watch: bool = False) -> None:
    """Show where the run in the folder stands; with `watch` until it ends."""
    if not (folder / STATUS).exists():
        raise BootcampError(f"--save-dir: there is no pipeline in {folder}. {siblings(folder / STATUS)}")
    if watch and sys.stdout.isatty():
        view.follow(lambda: read_status(folder))
        return
    found = read_status(folder)
    view.show(found)
    if found.state == "complete" and (folder / METRICS).exists():
        metrics = verdict.read_metrics(folder / METRICS)
        if metrics.accuracy_drop is not None:  # whatever judges no network against another has no goal
            say_goal(verdict.known_goal(metrics, folder / METRICS))
    if watch:
        LOGGER.info("--watch: shown once, since this is no terminal")
    if found.state == "interrupted":
        LOGGER.info("Go on: pruning-bootcamp pipeline resume --save-dir %s", folder)
    elif (owner := owner_of(folder)) is not None:
        LOGGER.info("Running: %s; last change %.0f s ago", owner, max(0.0, time.time() - found.updated))
