"""A command carried out: its folder, what is there already, the plan on the machine, the verdict, what stays."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pruning_bootcamp.checkpoints.new_process import check_saved
from pruning_bootcamp.config import Config, as_dict, fingerprint
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.flow import verdict, view
from pruning_bootcamp.flow.machine import RESULT, STAGES, Machine, check_unique
from pruning_bootcamp.flow.naming import as_read, as_written
from pruning_bootcamp.flow.outcomes import DenseNetwork, Trained
from pruning_bootcamp.flow.plan import COSTS, EXPORT, VALIDATION, Plan
from pruning_bootcamp.flow.report import say_goal
from pruning_bootcamp.flow.start import is_leader, open_data, recipe_for, start, task_of
from pruning_bootcamp.flow.status import STATUS, Progress, WatchTraining
from pruning_bootcamp.flow.step import Done, Network, Step, StepContext
from pruning_bootcamp.flow.steps.scan import POINTS
from pruning_bootcamp.flow.verdict import Goal
from pruning_bootcamp.locks import check_free, command_line, locked
from pruning_bootcamp.logs import LOGGER, also_to_file
from pruning_bootcamp.plain import from_plain, to_plain
from pruning_bootcamp.reporting import with_verdict
from pruning_bootcamp.results import Metrics
from pruning_bootcamp.runs import CONFIG, LAYER_TIMES, METRICS, Run, open_run, publish, write_text
from pruning_bootcamp.tasks import Metric
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.training.distributed import World, join_world
from pruning_bootcamp.training.hooks import Hook

REPORT = "report.md"

# What follows the trainings of a cycle (from 1), for whoever carries out a command and wants to look on.
Watch = Callable[[int], Sequence[Hook]]


def unwatched(cycle: int) -> Sequence[Hook]:
    """Nobody looks on."""
    return ()


@dataclass
class Carried:
    """A command under way: what its last part, `finish`, has at hand."""

    plan: Plan
    run: Run
    device: torch.device
    data: Callable[[], Splits]
    progress: Progress
    done: dict[str, Done[Any]]

    @property
    def splits(self) -> Splits:
        """The data, opened when first asked for."""
        return self.data()

    @property
    def cfg(self) -> Config:
        """The config of its plan."""
        return self.plan.cfg


@dataclass(frozen=True)
class Command:
    """What a command does beside its plan."""

    name: str
    folder: Path
    """where its results go when --save-dir names no other"""
    finish: Callable[[Carried], Metrics]
    """writes what stays, the metrics last"""
    outputs: tuple[str, ...] = ()
    """files without which it is not finished"""
    goal: Goal | None = None
    target: Path | None = None
    """the one file that it is for; its folder is then for the work alone, and goes once that is written"""
    needs_data: bool = True
    """False: the data are opened only for a network whose file does not say how it is built"""
    testing: bool | None = None
    """whether it reads the test images; as goal.evaluate_test says where left out"""
    check_gates: Callable[[Carried], None] = lambda carried: None
    """raises a GoalNotMet as soon as what is known says that a gate fails"""
    stopped: Callable[[Carried, GoalNotMet], None] | None = None
    """writes what a stopped run leaves; None: nothing, where no network was made"""
    prepare: Callable[[Plan, Run, Callable[[], Splits], torch.device], None] = lambda plan, run, data, device: None
    """looks ahead: what can't be done is said before anything is written"""
    begins: Callable[[Run], None] = lambda run: None
    """once the folder is locked, before anything in it is touched"""
    again: Callable[[Run, Metrics], Metrics] | None = None
    """what a finished run says when it is asked for again; None: its verdict"""
    replaces: tuple[str, ...] = (METRICS,)
    """what a run that did not get through may have left, and this one writes anew"""
    keeps_stages: bool = False
    """the steps' results stay for later runs in the folder"""
    shown: bool = False
    """the stages are shown in a terminal while it works"""
    more: Mapping[str, Any] = field(default_factory=dict)
    """what its result depends on beside the steps"""


def carry_out(
    command: Command, plan: Plan, resume: bool | None = None, watch: Watch = unwatched, dry_run: bool = False
) -> Metrics:
    """The metrics of the finished run, made now or before. Killed anywhere, the same call goes on."""
    check_unique(plan.steps)
    cfg = plan.cfg
    run = identify(command, plan)
    _check_folder(run.folder, plan.checkpoint)
    if not dry_run and (known := _finished(run, resume, command, cfg)) is not None:
        return command.again(run, known) if command.again else judge_again(run, known, cfg, command.goal)
    device = start(cfg)
    data = functools.cache(lambda: open_data(cfg, command.testing))
    if command.needs_data:
        data()
    command.prepare(plan, run, data, device)
    if dry_run:
        _show_plan(plan, run, command.target or run.folder)
        return Metrics()
    with _working(run, plan, resume, command) as new:
        progress = _progress(run, plan, command) if is_leader() else None
        done: dict[str, Done[Any]] = {}
        try:
            return _work(command, plan, run, data, device, progress, watch, done)
        except GoalNotMet as failure:
            _fail(progress, "; ".join(str(problem) for problem in failure.problems))
            if command.stopped is not None and progress is not None:
                command.stopped(Carried(plan, run, device, data, progress, done), failure)
            else:
                _leave_nothing(run, new, command)
            raise
        except (KeyboardInterrupt, SystemExit):
            _fail(progress, "stopped by the user", interrupted=True)
            raise
        except BootcampError as error:
            _fail(progress, str(error))
            _leave_nothing(run, new, command)
            raise
        except BaseException as error:
            _fail(progress, f"{type(error).__name__}: {error}")
            raise


def identify(command: Command, plan: Plan) -> Run:
    """The run that this plan is, by all that its result depends on; nothing is written."""
    folder = Path(plan.cfg.save_dir) if plan.cfg.save_dir and not command.target else command.folder
    keys = {name: key for name, key in plan.keys().items() if name not in (COSTS, VALIDATION)}  # they only judge
    return Run(folder, command.name, fingerprint(command.name, {"keys": keys, **command.more}), command.outputs)


def _check_folder(folder: Path, checkpoint: Path | None) -> None:
    """The run neither moves aside nor removes what it begins with."""
    if checkpoint is None:
        return
    path, places = checkpoint.resolve(), (folder / "export", folder / STAGES)
    if path.parent == folder.resolve() or any(path.is_relative_to(place.resolve()) for place in places):
        raise BootcampError(f"--save-dir: {folder} holds the checkpoint to start from. Choose another folder.")


def _finished(run: Run, resume: bool | None, command: Command, cfg: Config) -> Metrics | None:
    """The metrics of a finished run, said on the screen: doing it again would give the same."""
    if is_leader():
        check_free(run.folder)
    if resume is False or run.finished() is None:
        return None
    _tidy(run, command)  # a kill just after the finish mark may have left something
    LOGGER.info("%s is already finished (same config, same inputs); --no-resume does it again", run.folder)
    return verdict.read_metrics(run.path(METRICS), task_of(cfg).metric)


def _tidy(run: Run, command: Command) -> None:
    if is_leader() and not command.keeps_stages:
        shutil.rmtree(run.folder if command.target else run.folder / STAGES, ignore_errors=True)


def judge_again(run: Run, metrics: Metrics, cfg: Config, goal: Goal | None) -> Metrics:
    """A finished run under the goal and the gates of today: its metrics stay, the judgement may not."""
    if goal is None or metrics.judged_on != "test":  # goal.evaluate_test is false: there is nothing to judge by
        return metrics
    try:
        judged, lines = verdict.verdict_on(cfg, goal, metrics)
    except BootcampError as error:
        raise BootcampError(*error.problems, where=str(run.path(METRICS))) from error
    say_goal(judged, lines)
    if judged == metrics or not is_leader():
        return judged
    if (report := run.path(REPORT)).exists():
        text = report.read_text(encoding="utf-8")
        write_text(report, with_verdict(text, judged.goal or "", bool(judged.goal_met)))
    return finish(run, judged, task_of(cfg).metric)


def finish(run: Run, metrics: Metrics, metric: Metric) -> Metrics:
    """metrics.yaml is written, the last file of a run, with the task's own name of the metric."""
    written = run.finish(as_written(metric, to_plain(metrics)))
    return from_plain(Metrics, as_read(metric, written))


def _work(
    command: Command,
    plan: Plan,
    run: Run,
    data: Callable[[], Splits],
    device: torch.device,
    progress: Progress | None,
    watch: Watch,
    done: dict[str, Done[Any]],
) -> Metrics:
    """Every step, then the command's own end; `done` fills on the way."""
    cfg, opened = plan.cfg, dict[Path, Network]()
    world = join_world(device)

    def context(step: Step[Any], folder: Path, key: str, inputs: Mapping[str, Done[Any]]) -> StepContext:
        hooks: list[Hook] = []
        if progress is not None and key:
            hooks.append(WatchTraining(progress, step, command.shown, task_of(cfg).metric))
        if step.gives in (Trained, DenseNetwork):
            hooks += watch(step.cycle or 1)
        logs = run.path("logs") / step.name
        more = {} if progress is None or not key else {"tell": functools.partial(progress.tell, step)}
        return StepContext(cfg, device, data, folder, logs, key, inputs, hooks, opened, world.leads, **more)

    machine = Machine(run.folder, cfg.seed, progress, context, world, plan.given, done)
    last = max((number for number, step in enumerate(plan.steps) if step.together), default=-1)
    with view.live(progress) if progress is not None and command.shown else contextlib.nullcontext():
        for number, step in enumerate(plan.steps):
            if number == last + 1:
                if progress is None:
                    return Metrics()
                machine.world = World(device=device)  # the others are done
            made = machine.run(step)
            if progress is not None:
                _publish_cycle(plan, number, run, done)
                if made is not None:
                    command.check_gates(Carried(plan, run, device, data, progress, done))
    if progress is None:
        return Metrics()
    metrics = command.finish(Carried(plan, run, device, data, progress, done))
    _tidy(run, command)
    return metrics


def _progress(run: Run, plan: Plan, command: Command) -> Progress:
    return Progress(run.folder, plan.cfg.name, command_line(), plan.steps, detailed=command.shown)


def _publish_cycle(plan: Plan, number: int, run: Run, done: Mapping[str, Done[Any]]) -> None:
    """The network of a cycle of pruning that has just ended, under its own name."""
    step = plan.steps[number]
    following = plan.steps[number + 1 : number + 2]
    cycles = max(other.cycle for other in plan.steps)
    if cycles > 1 and step.cycle and (not following or following[0].cycle != step.cycle):
        found = done.get(step.name)
        if found is not None and found.network is not None and found.step == step.name:
            publish(found.network, run.path(f"cycle_{step.cycle}") / "pruned_model.pth")


def publish_network(carried: Carried, step: str, name: str) -> None:
    """The step's network under its name in the run's folder, proved to open."""
    network = carried.done[step].network
    assert network is not None, step
    publish(network, carried.run.path(name))
    check_saved(carried.run.path(name), recipe_for(carried.cfg, carried.splits))


def publish_layer_times(carried: Carried) -> None:
    """The times by which the last cut chose its widths, where it chose by time."""
    kept = [done.folder / LAYER_TIMES for done in carried.done.values()]
    for path in [path for path in kept if path.exists()][-1:]:
        publish(path, carried.run.path(LAYER_TIMES))


@contextlib.contextmanager
def _working(run: Run, plan: Plan, resume: bool | None, command: Command) -> Iterator[bool]:
    """Inside, the folder is this run's alone, and log.txt takes down what is said; True where it is a new folder.

    config.yaml is written, and another run's files are moved aside. Of several processes the leader holds the folder.
    """
    if not is_leader():
        yield False
        return
    new = not run.folder.exists()
    with locked(run.folder, command_line()):
        if command.target:
            yield new
            return
        if resume and not (run.is_in_folder() and (run.folder / STAGES).exists()):
            raise BootcampError(
                f"--resume: {run.folder} holds no unfinished run of this config. Leave --resume out to begin."
            )
        command.begins(run)
        config = as_dict(plan.cfg)
        if plan.checkpoint is not None:
            config["checkpoint"] = str(plan.checkpoint)
        open_run(
            run.folder,
            f"pruning-bootcamp {run.command}",
            config,
            run.fingerprint,
            fresh=resume is False,
            kept_for_others=(STAGES,),
        )
        for name in command.replaces:  # of a run that a gate stopped, or that was killed while it published
            _remove(run.path(name))
        with also_to_file(run.path("log.txt")):
            yield new


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _fail(progress: Progress | None, reason: str, interrupted: bool = False) -> None:
    if progress is not None:
        progress.fail(reason, interrupted)


def _leave_nothing(run: Run, new: bool, command: Command) -> None:
    """A run that failed before it made a network, or measured a point of a scan, is as if it had never begun."""
    if not is_leader() or any(list(run.folder.glob(f"{STAGES}/*/{name}")) for name in ("*.pth", POINTS)):
        return
    if new or command.target:
        shutil.rmtree(run.folder, ignore_errors=True)
        return
    for path in (run.path(name) for name in (CONFIG, STATUS, "log.txt")):
        path.unlink(missing_ok=True)
    shutil.rmtree(run.folder / STAGES, ignore_errors=True)


def _show_plan(plan: Plan, run: Run, results: Path) -> None:
    """Each step, and whether there is anything to do for it; nothing is changed."""
    LOGGER.info("\nSteps, with their results in %s:", results)
    for step in plan.steps:
        kept = "kept from before" if is_kept(plan, run, step) else "to do"
        state = f"skipped ({step.skipped})" if step.skipped else kept
        LOGGER.info("  %s: %s", step.title, state)
    LOGGER.info("\nDry run: nothing was changed or written.")


def is_kept(plan: Plan, run: Run, step: Step[Any]) -> bool:
    """Whether the step was finished by an earlier process, as far as its mark says."""
    key = plan.keys().get(step.name)
    return key is not None and (run.folder / STAGES / f"{step.name}-{key[:12]}" / RESULT).exists()


def drop_result(carried: Carried, step: str) -> None:
    """The next run does this step anew."""
    shutil.rmtree(carried.done[step].folder, ignore_errors=True)


def check_gates(carried: Carried, metrics: Metrics) -> None:
    """GoalNotMet when a gate fails by what is known; a latency is then measured anew next time, no file stays."""
    gates, _ = verdict.judge_gates(carried.cfg.gates, metrics)
    bad = list(verdict.failed(gates))
    if any(gate.gate == verdict.LATENCY for gate in bad):
        drop_result(carried, COSTS)  # a busy machine must not decide for good
    if bad and EXPORT in carried.done:
        drop_result(carried, EXPORT)  # what a gate stopped is not left lying about to be shipped
    if bad:
        raise GoalNotMet(*(f"{gate}." for gate in bad))
