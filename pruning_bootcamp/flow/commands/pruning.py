"""train, prune-unstructured and prune-structured: a dense network, and one with weights or channels gone."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning_bootcamp.checkpoints import example_input
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.evaluation import cost_of
from pruning_bootcamp.flow import plan as plans
from pruning_bootcamp.flow import settings, verdict
from pruning_bootcamp.flow.compressions import compress
from pruning_bootcamp.flow.metrics import collect, of_training
from pruning_bootcamp.flow.outcomes import Cut, DenseNetwork
from pruning_bootcamp.flow.plan import DENSE, TEST, Plan
from pruning_bootcamp.flow.report import say_results
from pruning_bootcamp.flow.run import (
    REPORT,
    Carried,
    Command,
    Watch,
    carry_out,
    finish,
    identify,
    is_kept,
    publish_layer_times,
    publish_network,
    unwatched,
)
from pruning_bootcamp.flow.start import (
    RESULTS,
    checkpoint_path,
    new_network,
    open_network,
    recipe_for,
    task_of,
)
from pruning_bootcamp.flow.step import Step
from pruning_bootcamp.flow.steps import cut, dead
from pruning_bootcamp.flow.steps.dense import open_given
from pruning_bootcamp.flow.verdict import goal_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plugins import short_name
from pruning_bootcamp.pruning.channels.measuring import needs_images
from pruning_bootcamp.pruning.targets import check_layers, choose_targets
from pruning_bootcamp.reporting import run_report, structured_table
from pruning_bootcamp.results import Metrics
from pruning_bootcamp.runs import (
    Run,
    publish,
    write_text,
)
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.training.mixing import unmixable
from pruning_bootcamp.training.optim import check_factors
from pruning_bootcamp.training.quantize import choose_layers


def train(cfg: Config, resume: bool | None = None, watch: Watch = unwatched, dry_run: bool = False) -> Metrics:
    """Train, keep the epoch with the best validation accuracy, read the test split once; metrics.yaml's content."""
    return carry_out(*training_plan(cfg), resume, watch, dry_run)


def training_plan(cfg: Config) -> tuple[Command, Plan]:
    """A dense training as steps, and what it must leave: best_model.pth and a file for each of `train.save_steps`."""
    plan = plans.begin(cfg, None)
    plans.count_costs(plan)
    if cfg.goal.evaluate_test:  # on the validation split its best epoch's is known
        plans.judge_on(plan, TEST)
    outputs = ["best_model.pth"]
    if cfg.train.early_stopping is None:  # else the training may rightly end before a step
        outputs += [f"step_{text.strip()}.pth" for text in cfg.train.save_steps]
    return Command("train", RESULTS / "baseline", _finish_training, tuple(outputs), prepare=check_ahead), plan


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
    """A checkpoint's pruning by the command `name`, as steps; `method`, where given, names the default folder."""
    plan = plans.begin(cfg, checkpoint)
    compress(plan, [name])
    plans.evaluate_both(plan, on_validation=bool(verdict.asked_of_accuracy(cfg.gates)))
    command = Command(
        name,
        default_folder(cfg, name, method),
        _finish_pruning,
        ("pruned_model.pth",),
        goal=goal_of(cfg, cut=name == "prune-structured"),
        prepare=check_ahead,
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
    publish_layer_times(carried)
    recipe = recipe_for(cfg, carried.splits)
    task = task_of(cfg)
    title = f"{run.command}: {recipe.model} on {cfg.data.name}"
    write_text(run.path(REPORT), run_report(title, metrics, task=task))
    carried.progress.complete()
    say_results(metrics, run.folder, lines, task)
    return finish(run, metrics, task.metric)


def check_ahead(plan: Plan, run: Run, data: Callable[[], Splits], device: torch.device) -> None:
    """What can't be done with this network, said before anything is written; a first cut is planned, and shown."""
    cfg, splits = plan.cfg, data()
    problems = unmixable(cfg.train, splits, "train") + unmixable(cfg.recover, splits, "recover")
    if problems:
        raise BootcampError(*problems)
    _warn_of_untrained_cycles(plan)
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
    if first is None or _reads_first(plan, plan.steps[first]) != DENSE or is_kept(plan, run, plan.steps[first]):
        return
    if cfg.structured.only_dead:
        LOGGER.info("\n=== Structured Pruning: dead channels ===")
        found = dead.find(cfg, dense.model, dense.recipe)
        plan.steps[first] = replace(plan.steps[first], work=partial(dead.remove, foreseen=found))
        return
    s = settings.channel_choices(cfg)
    assert s.score is not None
    LOGGER.info("\n=== Structured Pruning: %s (%s) ===", s.score.name, s.allocation)
    measured, cycles = needs_images(cfg.structured), cfg.structured.iterations
    if measured or cycles > 1 or cfg.structured.timed:
        cut.check_reachable(cfg, dense.model, dense.recipe, device)
    if measured:
        LOGGER.info("Channels are chosen once they are measured on training %s.", task_of(cfg).noun)
        return
    part = cut.Part(settings.cut_shares(cfg)[0], cycles == 1)
    foreseen = cut.plan_cut(cfg, dense.model, dense.recipe, device, part=part)
    if cycles > 1:
        LOGGER.info("Cycle 1 of %d, a share of %.3f of the budget:", cycles, part.share)
    LOGGER.info("%s", structured_table(foreseen.plan))
    if plan.steps[first].inputs["before"] == DENSE:
        plan.steps[first] = replace(plan.steps[first], work=partial(cut.cut, foreseen=foreseen, part=part))


def _reads_first(plan: Plan, cutting: Step[Any]) -> str:
    """Whose network is looked at to choose what is cut."""
    scoring = cutting.inputs.get("scores")
    return next(step for step in plan.steps if step.name in (scoring, cutting.name)).inputs["before"]


def _warn_of_untrained_cycles(plan: Plan) -> None:
    cycles = plan.cfg.structured.iterations
    trains = settings.trains_after_cut(plan.cfg) or plan.cfg.structured.grow_penalty is not None
    if "prune-structured" in plan.compressions and cycles > 1 and not trains:
        LOGGER.warning(
            "structured.iterations: %d cycles with no training between them lost more than one shot, where it was "
            "measured. Set fine_tune.enabled=true or recover.method=distill, or structured.iterations=1.",
            cycles,
        )


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
    asked = [checks[name] for name in dict.fromkeys(plan.compressions) if name in checks]
    for where, section in (("train", cfg.train), ("fine_tune", cfg.fine_tune), ("recover", cfg.recover)):
        asked.append((where, partial(check_factors, model, section.lr_factors or {})))
    problems: list[Problem] = []
    for where, check in asked:
        try:
            check()
        except BootcampError as error:
            problems += [problem.under(where) for problem in error.problems]
    if problems:
        raise BootcampError(*problems)


def default_folder(cfg: Config, name: str, method: str | None = None) -> Path:
    """Where prune-structured or prune-unstructured saves when --save-dir says nothing; `method` as it was typed."""
    if name == "prune-structured" and cfg.structured.only_dead:
        return RESULTS / "structured" / "dead"
    if name == "prune-structured":
        s = settings.channel_choices(cfg)
        assert s.score is not None
        words = {
            "sparsity": "sp",
            "flops_reduction": "flops",
            "params_reduction": "params",
            "latency_reduction": "latency",
            "latency_ms": "ms",
            "accuracy_drop": "drop",
        }
        budget = "_".join(f"{words[kind]}{value:g}" for kind, value in s.budget().items())
        cycles = "" if s.iterations == 1 else f"_x{s.iterations}"
        cycles += "" if s.grow_penalty is None else "_grown"
        cycles += f"_{'+'.join(map(short_name, cfg.profile.backends))}_b{cfg.profile.batch_size}" if s.timed else ""
        return RESULTS / "structured" / f"{short_name(s.score.name)}_{budget}{cycles}"
    p = cfg.prune
    mode = {"uniform": "layerwise"}.get(p.allocation.name, short_name(p.allocation.name))
    pattern = "" if p.pattern.name == "unstructured" else "_" + settings.pattern_text(cfg).replace(":", "of")
    solver = "" if p.solver.name == "none" else f"_{short_name(p.solver.name)}"
    solver += "" if p.refit == "none" else "_refit"
    solver += "" if p.stages == 1 else f"_s{p.stages}"
    cycles = "" if p.iterations == 1 else f"_x{p.iterations}"
    cycles += "_gradual" if p.gradual else ""
    cycles += "" if p.rewind is None else f"_rewind_{Path(p.rewind).stem}"
    score, target = short_name(method or p.score.name), settings.target_sparsity(cfg)
    sparsity = "" if target is None else f"_sp{target:g}"
    return RESULTS / "unstructured" / f"{score}_{mode}{sparsity}{pattern}{solver}{cycles}"
