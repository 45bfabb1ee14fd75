"""The commands: a config in, a plan of steps carried out on the machine, metrics out."""

import copy
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning_bootcamp.backends import prepare
from pruning_bootcamp.checkpoints import example_input
from pruning_bootcamp.config import Config, as_dict
from pruning_bootcamp.errors import BootcampError, GoalNotMet, Problem
from pruning_bootcamp.evaluation import cost_of, evaluate_on, say_disagreement, sparsity_text
from pruning_bootcamp.exporters import EXPORTERS
from pruning_bootcamp.flow import plan as plans
from pruning_bootcamp.flow import settings, verdict, view
from pruning_bootcamp.flow.metrics import about, collect, compared, of_training, overlaid
from pruning_bootcamp.flow.naming import as_written
from pruning_bootcamp.flow.outcomes import Cut, DenseNetwork, Scanned
from pruning_bootcamp.flow.plan import DENSE, EXPORT, SCAN, TEST, Plan
from pruning_bootcamp.flow.report import model_card, pipeline_report, say_goal, say_results, size_table
from pruning_bootcamp.flow.run import (
    REPORT,
    Carried,
    Command,
    Watch,
    carry_out,
    check_gates,
    finish,
    identify,
    is_kept,
    publish_network,
    unwatched,
)
from pruning_bootcamp.flow.start import (
    RESULTS,
    checkpoint_path,
    new_network,
    one_process,
    open_alone,
    open_data,
    open_network,
    recipe_for,
    start,
    task_of,
)
from pruning_bootcamp.flow.status import STATUS, read_status
from pruning_bootcamp.flow.steps import cut, scan
from pruning_bootcamp.flow.steps import profile as profiling
from pruning_bootcamp.flow.steps.dense import open_given
from pruning_bootcamp.flow.steps.export import export_network, formats_in, needs_images
from pruning_bootcamp.flow.verdict import goal_of
from pruning_bootcamp.heatmap import show_heat_map
from pruning_bootcamp.locks import owner_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import from_plain, to_plain
from pruning_bootcamp.plugins import short_name
from pruning_bootcamp.pruning.targets import check_layers, choose_targets
from pruning_bootcamp.reporting import comparison_rows, markdown_table, run_report, structured_table
from pruning_bootcamp.results import Environment, Exports, Metrics, ModelInput, Profile, Scan
from pruning_bootcamp.runs import (
    CONFIG,
    METRICS,
    Run,
    command_in,
    publish,
    read_results,
    siblings,
    write_text,
    write_yaml,
)
from pruning_bootcamp.runtime import environment
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.tools.latency import measure_latency_with_stats
from pruning_bootcamp.training.quantize import choose_layers

PIPELINE = "pipeline run"
EXPORTS, CARD = "export", "model_card.md"
_NOTE = "flops_g: multiply-accumulates in 10^9, as pruning papers print FLOPs; accuracy and drops in percent points"


# --- train -----------------------------------------------------------------------------------------------------------


def train(cfg: Config, resume: bool | None = None, watch: Watch = unwatched, dry_run: bool = False) -> Metrics:
    """Train, keep the epoch with the best validation accuracy, read the test split once; metrics.yaml's content."""
    return carry_out(*training_plan(cfg), resume, watch, dry_run)


def training_plan(cfg: Config) -> tuple[Command, Plan]:
    plan = plans.begin(cfg, None)
    plans.evaluate_both(plan, on_validation=False)
    plan.steps = [step for step in plan.steps if step.name != plans.VALIDATION]  # its best epoch's is known
    outputs = ["best_model.pth"]
    if cfg.train.early_stopping is None:  # else the training may rightly end before a step
        outputs += [f"step_{text.strip()}.pth" for text in cfg.train.save_steps]
    return Command("train", RESULTS / "baseline", _finish_training, tuple(outputs), prepare=_look_ahead), plan


def _finish_training(carried: Carried) -> Metrics:
    cfg, run = carried.cfg, carried.run
    dense: DenseNetwork = carried.done[DENSE].outcome
    publish_network(carried, DENSE, "best_model.pth")
    for path in carried.done[DENSE].folder.glob("step_*.pth"):
        publish(path, run.path(path.name))
    metrics = of_training(carried.done, cfg, carried.splits, carried.device)
    LOGGER.info("\nSaved best model (epoch %d) to %s", dense.best_epoch, run.path("best_model.pth"))
    LOGGER.info("=== Training Complete ===")
    task = task_of(cfg)
    metric, noun = task.metric, task.noun
    assert dense.val_accuracy is not None
    LOGGER.info("Best validation %s: %s", metric.title, metric.text(dense.val_accuracy))
    if TEST in carried.done:
        test = metric.text(metrics.accuracy or 0.0)
        LOGGER.info("Test %s: %s (%d %s, read once)", metric.title, test, metrics.test_images, noun)
    else:
        LOGGER.info("The test %s were not read (goal.evaluate_test is false)", noun)
    title = f"Baseline: {cfg.model.name} on {cfg.data.name}"
    write_text(run.path(REPORT), run_report(title, metrics, dense.history, task))
    carried.progress.complete()
    return finish(run, metrics, metric)


# --- prune -----------------------------------------------------------------------------------------------------------


def prune_unstructured(
    cfg: Config,
    method: str | None = None,
    resume: bool | None = None,
    watch: Watch = unwatched,
    dry_run: bool = False,
) -> Metrics:
    """Zero weights in one shot, in cycles or while fine-tuning, then compare with the dense network."""
    pruning = pruning_plan(cfg, "prune-unstructured", checkpoint_path(cfg.checkpoint), method)
    return carry_out(*pruning, resume, watch, dry_run)


def prune_structured(
    cfg: Config, dry_run: bool = False, resume: bool | None = None, watch: Watch = unwatched
) -> Metrics:
    """Cut channels to a budget, prove the cut, fine-tune, and judge the goal."""
    return carry_out(*pruning_plan(cfg, "prune-structured", checkpoint_path(cfg.checkpoint)), resume, watch, dry_run)


def pruning_plan(cfg: Config, name: str, checkpoint: Path, method: str | None = None) -> tuple[Command, Plan]:
    plan = plans.begin(cfg, checkpoint)
    plans.compress(plan, [name])
    plans.evaluate_both(plan, on_validation=bool(verdict.asked_of_accuracy(cfg.gates)))
    command = Command(
        name,
        default_folder(cfg, name, method),
        _finish_pruning,
        ("pruned_model.pth",),
        goal=goal_of(cfg, cut=name == "prune-structured"),
        prepare=_look_ahead,
    )
    return command, plan


def fingerprint_of(command: str, cfg: Config) -> str:
    """Equal for runs of train, prune-unstructured or prune-structured that would do the same work."""
    if command == "train":
        return identify(*training_plan(cfg)).fingerprint
    return identify(*pruning_plan(cfg, command, checkpoint_path(cfg.checkpoint))).fingerprint


def _finish_pruning(carried: Carried) -> Metrics:
    cfg, run, plan = carried.cfg, carried.run, carried.plan
    metrics = collect(plan.steps, carried.done, cfg, carried.splits, carried.device)
    lines: list[str] = []
    if cfg.goal.evaluate_test:
        goal = goal_of(cfg, cut=run.command == "prune-structured")
        metrics, lines = verdict.verdict_on(cfg, goal, metrics)
    publish_network(carried, plan.last, "pruned_model.pth")
    recipe = recipe_for(cfg, carried.splits)
    task = task_of(cfg)
    title = f"{run.command}: {recipe.model} on {cfg.data.name}"
    write_text(run.path(REPORT), run_report(title, metrics, task=task))
    carried.progress.complete()
    say_results(metrics, run.folder, lines, task)
    return finish(run, metrics, task.metric)


def _look_ahead(plan: Plan, run: Run, splits: Splits, device: torch.device) -> None:
    """What can't be done with this network, said before anything is written; a first cut is planned, and shown."""
    cfg = plan.cfg
    if plan.checkpoint is None:
        recipe = recipe_for(cfg, splits)
        model = new_network(recipe)
        cost_of(model, example_input(recipe))  # one that can't take these inputs fails here
        _check_names(plan, model)
        return
    dense = open_network(plan.checkpoint, cfg, splits)
    _check_names(plan, dense.model)
    plan.steps[0] = replace(plan.steps[0], work=partial(open_given, path=plan.checkpoint, found=dense))
    first = next((number for number, step in enumerate(plan.steps) if step.gives is Cut), None)
    if first is None or plan.steps[first].inputs["before"] != DENSE or is_kept(plan, run, plan.steps[first]):
        return
    s = cfg.structured
    LOGGER.info("\n=== Structured Pruning: %s (%s) ===", s.score.name, s.allocation)
    foreseen = cut.plan_cut(cfg, dense.model, dense.recipe, device)
    LOGGER.info("%s", structured_table(foreseen.plan))
    plan.steps[first] = replace(plan.steps[first], work=partial(cut.cut, foreseen=foreseen))


def _check_names(plan: Plan, model: nn.Module) -> None:
    """Raise one BootcampError with every layer that settings name and the network has not: before it is trained."""
    cfg = plan.cfg
    checks: dict[str, tuple[str, Callable[[], object]]] = {
        "prune-structured": ("structured", lambda: check_layers(model, cfg.structured.exclude)),
        "prune-unstructured": (
            "prune",
            lambda: choose_targets(model, include=cfg.prune.include, exclude=cfg.prune.exclude),
        ),
        "quantize": ("quantize", lambda: choose_layers(model, cfg.quantize.exclude)),
    }
    problems: list[Problem] = []
    for name in dict.fromkeys(plan.compressions):
        if name in checks:
            where, look = checks[name]
            try:
                look()
            except BootcampError as error:
                problems += [problem.under(where) for problem in error.problems]
    if problems:
        raise BootcampError(*problems)


def default_folder(cfg: Config, name: str, method: str | None = None) -> Path:
    """Where prune-structured or prune-unstructured saves when --save-dir says nothing; `method` as it was typed."""
    if name == "prune-structured":
        s = cfg.structured
        words = {"sparsity": "sp", "flops_reduction": "flops", "params_reduction": "params"}
        budget = "_".join(f"{words[kind]}{value:g}" for kind, value in s.budget().items())
        return RESULTS / "structured" / f"{short_name(s.score.name)}_{budget}"
    p = cfg.prune
    mode = {"uniform": "layerwise"}.get(p.allocation.name, short_name(p.allocation.name))
    pattern = "" if p.pattern.name == "unstructured" else "_" + settings.pattern_text(cfg).replace(":", "of")
    solver = "" if p.solver.name == "none" else f"_{short_name(p.solver.name)}"
    cycles = "" if p.iterations == 1 else f"_x{p.iterations}"
    cycles += "_gradual" if p.gradual else ""
    cycles += "" if p.rewind is None else f"_rewind_{Path(p.rewind).stem}"
    score, target = short_name(method or p.score.name), settings.target_sparsity(cfg)
    sparsity = "" if target is None else f"_sp{target:g}"
    return RESULTS / "unstructured" / f"{score}_{mode}{sparsity}{pattern}{solver}{cycles}"


# --- pipeline --------------------------------------------------------------------------------------------------------


def pipeline(cfg: Config, resume: bool | None = None, dry_run: bool = False) -> Metrics:
    """Run the pipeline, or what is left of it; the metrics, with the verdict (`goal_met`).

    A failed gate is a GoalNotMet, and nothing is exported. A missed goal keeps what was made, as in every command.
    """
    one_process(PIPELINE)
    return carry_out(*pipeline_plan(cfg), resume, dry_run=dry_run)


def pipeline_plan(cfg: Config) -> tuple[Command, Plan]:
    plan = plans.begin(cfg, None if cfg.checkpoint is None else checkpoint_path(cfg.checkpoint))
    plans.compress(plan, cfg.pipeline.steps)
    plans.evaluate_both(plan, on_validation=True)
    plans.ship(plan)
    latency = () if cfg.gates.min_latency_reduction_pct is None else ("profile",)
    command = Command(
        PIPELINE,
        RESULTS / "pipeline" / cfg.name,
        _finish_pipeline,
        ("pruned_model.pth", REPORT, f"{EXPORTS}/{CARD}", *_exports(cfg)),
        goal=_pipelines_goal(cfg),
        stops=lambda carried: check_gates(carried, _so_far(carried)),
        stopped=_write_stopped,
        prepare=_look_ahead,
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


def _so_far(carried: Carried) -> Metrics:
    return collect(carried.plan.steps, carried.done, carried.cfg, carried.splits, carried.device)


def _finish_pipeline(carried: Carried) -> Metrics:
    """Networks and files in their place, the card beside them, the report, the verdict."""
    cfg, run, splits, plan = carried.cfg, carried.run, carried.splits, carried.plan
    publish_network(carried, plan.last, "pruned_model.pth")
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


def resume_pipeline(folder: Path, load: Callable[[Path, dict[str, Any]], Config]) -> Metrics:
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


# --- sensitivity -----------------------------------------------------------------------------------------------------


def sensitivity(cfg: Config, resume: bool | None = None, dry_run: bool = False) -> Metrics:
    """Prune one layer or block at a time, measure, put it back; then the heat map. A killed scan goes on."""
    one_process("sensitivity")
    plan = plans.begin(cfg, checkpoint_path(cfg.checkpoint))
    plans.scan_layers(plan)
    command = Command(
        "sensitivity",
        RESULTS / "sensitivity" / f"{short_name(cfg.prune.score.name)}_{cfg.sensitivity.by}",
        _finish_scan,
        (scan.RESULT, scan.TABLE),
        testing=False,
        again=_show_scan,
        prepare=_look_ahead,
    )
    return carry_out(command, plan, resume, dry_run=dry_run)


def _show_scan(run: Run, metrics: Metrics) -> Metrics:
    show_heat_map(read_results(Scan, run.path(scan.RESULT)))
    return metrics


def _finish_scan(carried: Carried) -> Metrics:
    cfg, run = carried.cfg, carried.run
    found: Scanned = carried.done[SCAN].outcome
    scan.write_scan(run, found.table, f"Sensitivity of {cfg.model.name} on {cfg.data.name}")
    carried.progress.complete()
    known = overlaid(scan.scan_metrics(found.table), carried.done[DENSE].outcome.known)
    metrics = replace(known, judged_on="validation", seconds=carried.done[SCAN].seconds)
    metric = task_of(cfg).metric
    finished = finish(run, about(metrics, cfg, carried.splits, carried.device), metric)
    show_heat_map(found.table)
    LOGGER.info("\nResults saved to %s", run.folder)
    LOGGER.info(
        "Prune by it: pruning-bootcamp prune-unstructured --mode sensitivity prune.allocation.args.file=%s",
        run.path(scan.RESULT),
    )
    return finished


# --- look: eval, export, profile -------------------------------------------------------------------------------------


def evaluate(cfg: Config, measure_latency: bool = False, baseline_metrics: Path | None = None) -> Metrics:
    """Accuracy on the test split, FLOPs, parameters, sparsity, latency; written to eval_metrics.yaml.

    Against the accuracy of `baseline_metrics` the goal is judged too.
    """
    one_process("eval")
    path = checkpoint_path(cfg.checkpoint)
    task = task_of(cfg)
    baseline = verdict.read_metrics(baseline_metrics, task.metric) if baseline_metrics is not None else None
    device = start(cfg)
    splits = open_data(cfg, testing=True)
    checkpoint = open_network(path, cfg, splits)

    LOGGER.info("\n=== Evaluating Model ===")
    cost, flops = cost_of(checkpoint.model, example_input(checkpoint.recipe), checkpoint.masks)
    test = evaluate_on(checkpoint.model, splits.test, splits, device=device, batch_size=cfg.data.batch_size, task=task)
    title = task.metric.title
    LOGGER.info("%s: %s (%d test %s)", title[0].upper() + title[1:], task.metric.text(test.score), test.n, task.noun)
    LOGGER.info("FLOPs: %.4g G (multiply-accumulates)", cost.flops_g)
    LOGGER.info("Params: %.4g M", cost.params_m)
    LOGGER.info("Sparsity: %s", sparsity_text(cost))
    say_disagreement(flops)
    metrics = overlaid(Metrics(), cost)
    metrics = replace(
        metrics,
        accuracy=round(test.score, 4),
        loss=round(test.loss, 6),
        test_images=test.n,
        judged_on="test",
        test_split=splits.test_from,
        checkpoint=str(path),
    )
    if measure_latency:
        LOGGER.info("\n=== Measuring Latency ===")
        images = example_input(checkpoint.recipe, cfg.profile.batch_size).to(device)
        runner = prepare(cfg.profile.backend, checkpoint.model.to(device), images)
        stats = measure_latency_with_stats(runner, images)
        LOGGER.info("Latency: %s", stats)
        metrics = replace(
            metrics,
            latency_ms=stats.median_ms,
            throughput_fps=stats.throughput_fps,
            latency_batch_size=stats.batch_size,
            latency_backend=stats.backend,
        )
    metrics = about(metrics, cfg, None, device)
    if baseline is not None:
        comparison = compared(_comparable(baseline, metrics), metrics, task.metric)
        LOGGER.info("\n=== Against %s ===", baseline_metrics)
        for name, value in as_written(task.metric, to_plain(comparison)).items():
            LOGGER.info("%s: %.4g", name, value)
        metrics = overlaid(metrics, comparison)
        if metrics.accuracy_drop is not None:
            # a network that costs what its baseline costs had nothing cut out of it
            goal = goal_of(cfg, cut=metrics.flops_reduction_pct not in (None, 0))
            metrics, lines = verdict.verdict_on(cfg, goal, metrics)
            say_goal(metrics, lines)
    target = _beside(path, cfg) / "eval_metrics.yaml"
    written = as_written(task.metric, to_plain(metrics))
    write_yaml(target, written, "flops_g: multiply-accumulates in 10^9")
    LOGGER.info("\nMetrics saved to %s", target)
    return metrics


def _comparable(baseline: Metrics, metrics: Metrics) -> Metrics:
    """The baseline without its latency, unless device, threads, batch, torch and backend were the same."""
    there, here = baseline.environment or Environment(), metrics.environment or Environment()
    same = (there.device, there.threads, there.torch) == (here.device, here.threads, here.torch)
    same &= baseline.latency_batch_size == metrics.latency_batch_size
    same &= (baseline.latency_backend or "torch") == (metrics.latency_backend or "torch")  # older files say none
    if same or baseline.latency_ms is None or metrics.latency_ms is None:
        return baseline
    LOGGER.info("Latency is not compared: the baseline's was measured differently. `profile` measures both, in turn.")
    return replace(baseline, latency_ms=None, throughput_fps=None)


def _beside(checkpoint: Path, cfg: Config) -> Path:
    """--save-dir, else the checkpoint's own run folder, else results/eval/<config's name> for a foreign file."""
    if cfg.save_dir:
        return Path(cfg.save_dir)
    if (checkpoint.parent / CONFIG).exists():
        return checkpoint.parent
    return RESULTS / "eval" / cfg.name


def export(cfg: Config) -> Exports:
    """One file a format in the checkpoint's folder; an unverified file is removed and GoalNotMet raised.

    The data is opened only for a format that is calibrated or judged on real images.
    """
    one_process("export")
    path = checkpoint_path(cfg.checkpoint)
    device = start(cfg)
    splits = open_data(cfg, testing=False) if needs_images(cfg) else None
    checkpoint = open_alone(path, cfg) if splits is None else open_network(path, cfg, splits)
    folder = Path(cfg.save_dir) if cfg.save_dir else path.parent
    LOGGER.info("\n=== Exporting Model ===")
    reports = export_network(cfg, checkpoint.model, checkpoint.recipe, checkpoint.masks, folder, splits)
    found = {"checkpoint": str(path), "formats": reports, "environment": to_plain(environment(device))}
    exports = from_plain(Exports, found)
    write_yaml(folder / "export_metrics.yaml", to_plain(exports))
    LOGGER.info("\nExport complete. Files saved to %s", folder)
    return exports


def profile(cfg: Config, baseline: str | None = None, save_results: Path | None = None) -> Profile:
    """Dense and pruned side by side: cost, interleaved latency, layers, and why the two reductions differ."""
    one_process("profile")
    paths = {
        "baseline": checkpoint_path(baseline, "--baseline"),
        "pruned": checkpoint_path(cfg.checkpoint, "--pruned"),
    }
    device = start(cfg)
    networks = {name: open_alone(path, cfg) for name, path in paths.items()}
    found = profiling.compare(cfg, networks, device, paths["baseline"].samefile(paths["pruned"]))
    where = {
        "environment": to_plain(environment(device)),
        "checkpoints": {name: str(path) for name, path in paths.items()},
    }
    profile = from_plain(Profile, found | where)
    target = save_results or (Path(cfg.save_dir) if cfg.save_dir else paths["pruned"].parent) / "profile.yaml"
    write_yaml(
        target, to_plain(profile), "flops_g: multiply-accumulates in 10^9; latency: medians of interleaved passes"
    )
    LOGGER.info("\nProfile saved to %s", target)
    return profile


# --- quickstart ------------------------------------------------------------------------------------------------------

_QUICKSTART = (
    "Train the dense network",
    "Cut channels to half the FLOPs, prove the cut, fine-tune",
    "Export to ONNX and verify the file",
    "Profile: FLOPs against latency on this machine",
)


def quickstart(cfg: Config) -> Metrics:
    """Every step into its own folder under `results/quickstart`; a finished training or pruning is not done again.

    The metrics of the pruned network, with latency and `goal_met`.
    """
    one_process("quickstart")
    began = time.perf_counter()
    root = Path(cfg.save_dir or "results/quickstart")
    checkpoints = {"dense": root / "baseline" / "best_model.pth", "pruned": root / "structured" / "pruned_model.pth"}

    _announce(1)
    train(_with(cfg, root / "baseline"))
    _announce(2)
    pruned = prune_structured(_with(cfg, root / "structured", checkpoints["dense"]))
    _announce(3)
    exported = export(_with(cfg, root / "structured", checkpoints["pruned"]))
    _announce(4)
    profiled = profile(_with(cfg, root / "structured", checkpoints["pruned"]), baseline=str(checkpoints["dense"]))

    assert pruned.baseline is not None
    assert profiled.baseline is not None
    assert profiled.pruned is not None
    dense = overlaid(pruned.baseline, profiled.baseline)
    metrics = overlaid(pruned, profiled.pruned, profiled.comparison)
    metrics = replace(metrics, baseline=dense, export=exported.formats)
    write_yaml(root / METRICS, to_plain(metrics))
    write_text(root / REPORT, run_report(f"Quickstart: {cfg.model.name} on {cfg.data.name}", metrics))

    LOGGER.info("\n%s", markdown_table(["figure", "dense", "pruned"], comparison_rows(dense, metrics)))
    for name, file in exported.formats.items():
        proof = f"verified, largest difference {file.max_difference:.1e}" if file.verified else "not verified"
        LOGGER.info("%s: %s, %s", name, file.file, proof)
    LOGGER.info("Report: %s", root / REPORT)
    LOGGER.info("Took %.0f s", time.perf_counter() - began)
    say_goal(metrics, verdict.verdict_on(cfg, goal_of(cfg, cut=True), metrics)[1])
    return metrics


def _with(cfg: Config, folder: Path, checkpoint: Path | None = None) -> Config:
    step = copy.deepcopy(cfg)
    step.save_dir = str(folder)
    step.checkpoint = None if checkpoint is None else str(checkpoint)
    return step


def _announce(number: int) -> None:
    LOGGER.info("\n##### Step %d of %d: %s #####", number, len(_QUICKSTART), _QUICKSTART[number - 1])
