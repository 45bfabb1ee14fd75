"""sweep and sweep show: ask the sampler, run the trials, tell it what they came to; killed anywhere, it goes on."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pruning_bootcamp.config import Config, as_dict, fingerprint
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.evaluation import evaluate_on
from pruning_bootcamp.locks import command_line, locked
from pruning_bootcamp.logs import LOGGER, also_to_file
from pruning_bootcamp.runs import CONFIG, open_run, read_yaml, write_yaml
from pruning_bootcamp.runtime import choose_device, environment
from pruning_bootcamp.stages import common, train
from pruning_bootcamp.sweep import outputs, trial, view
from pruning_bootcamp.sweep.executors import Event, Executor, LocalExecutor, cores
from pruning_bootcamp.sweep.hopeless import Finished
from pruning_bootcamp.sweep.known import finished, folder_of, name_of, target
from pruning_bootcamp.sweep.showing import NETWORKS, say
from pruning_bootcamp.sweep.space import Dimension, grid_size, parse_space, text_of
from pruning_bootcamp.sweep.study import Book, Row, open_study
from pruning_bootcamp.sweep.trial import Result, Task

TRIALS, DENSE = "trials", "dense"
_MOST_REPEATS = 100  # in a row: the sampler has nothing new to say
_EVENT_SECONDS = 0.5


def run(cfg: Config, resume: bool | None = None) -> dict[str, Any]:
    """Run the sweep, or what is left of it; what sweep.yaml holds."""
    common.one_process("sweep")
    folder = folder_of(cfg)
    dimensions, _ = parse_space(cfg.sweep.space)
    name = name_of(cfg)
    with locked(folder, command_line()):
        done = None if resume is False else finished(folder, name, target(cfg, dimensions))
        if done is not None:
            LOGGER.info("%s is already finished (same config, same inputs); --no-resume does it again\n", folder)
            say(folder, done)
            return done
        open_run(folder, "pruning-bootcamp sweep", as_dict(cfg), name, fresh=resume is False)
        write_yaml(folder / CONFIG, as_dict(cfg), f"pruning-bootcamp sweep -c {folder / CONFIG}\nfingerprint: {name}")
        with also_to_file(folder / "log.txt"):
            return _run(cfg, folder, dimensions, name)


def _run(cfg: Config, folder: Path, dimensions: list[Dimension], name: str) -> dict[str, Any]:
    s = cfg.sweep
    network = _dense_network(cfg, folder)
    cost = next(objective for objective in s.objectives if objective != "accuracy")
    book = open_study(
        folder,
        s.storage,
        f"{cfg.name}-{name}",
        dimensions,
        sampler=s.sampler,
        seed=cfg.seed,
        cost=cost,
        parallel=s.workers > 1,
    )
    content = _head(cfg, folder, dimensions, name, network, cost)
    total = target(cfg, dimensions)
    threads = cfg.threads or max(1, cores() // s.workers)
    size = grid_size(dimensions)
    space = "a range has no end of values" if size is None else f"{size} combinations"
    LOGGER.info("\n=== Sweep: %s, %d trials by %s (%s) ===", s.command, total, s.sampler, space)
    LOGGER.info("Workers: %d (%s), %d threads each", s.workers, s.executor, threads)
    study = _Sweep(cfg, folder, book, content, network, total, view.Board(cfg.name, total, s.workers))
    study.take_up()
    executor = _executor(cfg, folder, threads, total) if study.has_work() else None
    try:
        with view.live(study.board):
            if executor is not None:
                study.work(executor)
    finally:
        if executor is not None:
            executor.close()
        study.write("interrupted")  # replaced below by a sweep that got through
    return study.finish()


def _executor(cfg: Config, folder: Path, threads: int, trials: int) -> Executor:
    if cfg.sweep.executor == "ray":
        from pruning_bootcamp.sweep.cluster import RayExecutor

        return RayExecutor(trial.run_trial, cfg.sweep.workers, threads)
    return LocalExecutor(trial.run_trial, min(cfg.sweep.workers, trials), threads, folder)


def _dense_network(cfg: Config, folder: Path) -> Path | None:
    """The network to prune: the one given, or one trained here first, once. None where the trials train."""
    if cfg.sweep.command == "train":
        return None
    if cfg.checkpoint is not None:
        return common.checkpoint_path(cfg.checkpoint)
    LOGGER.info("=== The dense network (no checkpoint was given) ===")
    train(trial.config_for(cfg, {}, folder / DENSE, None))
    return folder / DENSE / NETWORKS["train"]


def _head(
    cfg: Config, folder: Path, dimensions: list[Dimension], name: str, network: Path | None, cost: str
) -> dict[str, Any]:
    """sweep.yaml without its trials; the dense network's figures are measured once, before any worker is there."""
    before = read_yaml(folder / outputs.SWEEP) if (folder / outputs.SWEEP).exists() else {}
    dense = before.get("dense") if before.get("fingerprint") == name else None
    device, _ = choose_device(cfg.device)
    if network is not None and dense is None:
        splits = common.open_data(cfg)
        checkpoint = common.open_network(network, cfg, splits)
        task = Task(0, "train", as_dict(trial.config_for(cfg, {}, folder, network)), "", "", cost)
        found = evaluate_on(checkpoint.model, splits.val, splits, device=device, batch_size=cfg.data.batch_size)
        dense = trial.dense_costs(network, task) | {"accuracy": round(found["accuracy"], 4)}
    return {
        "name": cfg.name,
        "command": cfg.sweep.command,
        "sampler": cfg.sweep.sampler,
        "space": {d.key: list(d.values) or _range_of(d) for d in dimensions},
        "objectives": [{"name": "accuracy", "direction": "maximize"}, {"name": cost, "direction": "minimize"}],
        "split": "validation",
        "max_drop": cfg.goal.accuracy_drop,
        "dense": dense,
        "seed": cfg.seed,
        "fingerprint": name,
        "environment": environment(device) | {"workers": cfg.sweep.workers},
    }


def _range_of(dimension: Dimension) -> dict[str, Any]:
    return {"low": dimension.low, "high": dimension.high, "step": dimension.step, "log": dimension.log}


@dataclass
class _Sweep:
    """A sweep at work: what waits, what runs, what is known."""

    cfg: Config
    folder: Path
    book: Book
    content: dict[str, Any]
    network: Path | None
    total: int
    board: view.Board
    waiting: deque[Task] = field(default_factory=deque)
    running: dict[int, Task] = field(default_factory=dict)
    twins: dict[int, list[int]] = field(default_factory=dict)
    """trials with the settings of one that still runs"""
    deaths: dict[int, int] = field(default_factory=dict)
    exhausted: bool = False

    def take_up(self) -> None:
        """The trials that a killed sweep had begun here go on first."""
        for row in self.book.rows():
            if row.state == "running" and self.book.is_mine(row.owner):
                first = self._known(row.fingerprint, before=row.number)
                if first is None:
                    self.waiting.append(self._task(row.number, row.settings, row.fingerprint))
                elif first.result is not None:
                    self._repeat(row.number, first.number, first.result)
                else:
                    self.twins.setdefault(first.number, []).append(row.number)
        if self.waiting:
            LOGGER.info("Going on with %d trials that were begun", len(self.waiting))
        self._count()

    def has_work(self) -> bool:
        return bool(self.waiting) or self._room()

    def work(self, executor: Executor) -> None:
        """Until every trial is over."""
        self.write("running")
        while True:
            while executor.free() > 0 and (task := self._next()) is not None:
                self.running[task.number] = task
                self.board.running[task.number] = view.Line(self._settings(task.number), time.time())
                executor.submit(task)
            if not self.running:
                return
            for event in executor.events(_EVENT_SECONDS):
                self._happened(event)

    def finish(self) -> dict[str, Any]:
        """The last files; the error when no trial got through."""
        rows = [row for row in self.book.rows() if row.repeats is None]
        elsewhere = sum(row.state == "running" for row in rows)
        if rows and all(row.state == "failed" for row in rows):
            self.write("failed")
            reasons = dict.fromkeys(row.result.reason for row in rows if row.result is not None)
            raise BootcampError(*list(reasons)[:5], where=f"sweep: all {len(rows)} trials failed")
        content = self.write("complete" if not elsewhere else "running")
        outputs.write_csv(self.folder, content)
        page = outputs.write_page(self.folder, content)
        LOGGER.info("")
        say(self.folder, content)
        if elsewhere:
            LOGGER.info("%d trials still run on other machines; the same command shows them when over", elsewhere)
        if self.board.repeats:
            LOGGER.info("%d suggestions repeated settings that were known; they cost nothing", self.board.repeats)
        LOGGER.info("Results: %s%s", self.folder / outputs.TABLE, f", {self.folder / outputs.PAGE}" if page else "")
        if not page:
            LOGGER.info("No %s: plotly is not installed (the extra `report`)", outputs.PAGE)
        return content

    def write(self, status: str) -> dict[str, Any]:
        """sweep.yaml as things stand."""
        rows = self.book.rows()
        content = {key: value for key, value in self.content.items() if key not in ("fingerprint", "environment")}
        content["trials"] = [self._entry(row) for row in rows if row.repeats is None and not self._is_twin(row.number)]
        content["repeats"] = [{"number": row.number, "of": row.repeats} for row in rows if row.repeats is not None]
        content |= outputs.summary(content)
        content |= {"fingerprint": self.content["fingerprint"], "status": status}
        content["environment"] = self.content["environment"]
        outputs.write_sweep(self.folder, content)
        by_number = {entry["number"]: entry for entry in content["trials"]}
        self.board.front = [(number, by_number[number]["values"]) for number in content["pareto"]]
        return content

    def _entry(self, row: Row) -> dict[str, Any]:
        result = row.result or Result(row.number, "running")
        own = self.book.is_mine(row.owner)
        host, _, there = row.owner.partition(":")  # another folder of the study, perhaps of another machine
        folder = f"{TRIALS}/{row.number:04d}"
        entry = {
            "number": row.number,
            "state": row.state,
            "params": row.settings,
            "values": result.values,
            "folder": folder if own else f"{there}/{folder}",
            "seconds": result.seconds,
        }
        entry |= {} if own else {"host": host}
        return entry | ({"reason": result.reason} if result.reason else {})

    def _next(self) -> Task | None:
        """The next trial to run; None when there is none, or none that is new."""
        if self.waiting:
            return self.waiting.popleft()
        for _ in range(_MOST_REPEATS):
            if not self._room():
                return None
            number, settings = self.book.ask()
            try:
                folder = self._folder(number)
                print_ = trial.fingerprint_of(
                    self.cfg.sweep.command, trial.config_for(self.cfg, settings, folder, self.network)
                )
            except BootcampError as error:  # these settings don't go together
                self.book.begin(number, settings, fingerprint("refused", settings))
                self._over(Result(number, "failed", reason=str(error)))
                continue
            first = self._known(print_)
            self.book.begin(number, settings, print_)
            if first is None:
                return self._task(number, settings, print_)
            if first.result is None:
                self.twins.setdefault(first.number, []).append(number)
            else:
                self._repeat(number, first.number, first.result)
        self.exhausted = True
        LOGGER.info("The sampler only repeats itself: the sweep ends with what is there")
        return None

    def _room(self) -> bool:
        rows = self.book.rows()
        mine = [row for row in rows if row.repeats is None and not self._is_twin(row.number)]
        return not self.exhausted and len(mine) < self.total

    def _is_twin(self, number: int) -> bool:
        return any(number in twins for twins in self.twins.values())

    def _known(self, print_: str, before: int | None = None) -> Row | None:
        """The first trial with these settings, finished or running."""
        rows = [row for row in self.book.rows() if row.fingerprint == print_ and row.repeats is None]
        return next((row for row in rows if before is None or row.number < before), None)

    def _repeat(self, number: int, first: int, result: Result) -> None:
        self.book.tell(replace(result, number=number), repeats=first)
        LOGGER.info("Trial %d would repeat trial %d: its figures are taken, nothing is run", number, first)
        self._count()

    def _task(self, number: int, settings: Mapping[str, Any], print_: str) -> Task:
        s, folder = self.cfg.sweep, self._folder(number)
        rows = [row.result for row in self.book.rows() if row.state == "complete" and row.repeats is None]
        others = [Finished(r.weight, r.curve) for r in rows if r is not None and r.weight is not None and r.curve]
        early = {"startup_trials": s.startup_trials, "warmup_epochs": s.warmup_epochs}
        return Task(
            number,
            s.command,
            as_dict(trial.config_for(self.cfg, settings, folder, self.network)),
            str(folder),
            print_,
            self.book.cost,
            tuple(others),
            early if s.early_stopping else None,
        )

    def _folder(self, number: int) -> Path:
        return self.folder / TRIALS / f"{number:04d}"

    def _settings(self, number: int) -> dict[str, Any]:
        return next(row.settings for row in self.book.rows() if row.number == number)

    def _happened(self, event: Event) -> None:
        task = self.running.get(event.number)
        if task is None:
            return
        if event.kind == "said":
            self.board.running[event.number].text = str(event.content)
            return
        del self.running[event.number]
        self.board.running.pop(event.number, None)
        if event.kind == "done" and event.content.state == "halted":
            raise BootcampError(f"trial {event.number}: {event.content.reason} Then type the same command: it goes on.")
        if event.kind == "done":
            self._over(event.content)
        elif event.kind == "killed" and self.deaths.get(event.number, 0) < self.cfg.sweep.retries:
            self.deaths[event.number] = self.deaths.get(event.number, 0) + 1
            LOGGER.info("Trial %d: %s; it is tried again", event.number, event.content)
            self.waiting.appendleft(task)
        else:
            self._over(Result(event.number, "failed", reason=str(event.content)))

    def _over(self, result: Result) -> None:
        self.book.tell(result)
        for twin in self.twins.pop(result.number, []):
            self._repeat(twin, result.number, result)
        self._count()
        self.write("running")
        settings = ", ".join(
            f"{key.rpartition('.')[2] if key.count('.') == 1 else key} {text_of(value)}"
            for key, value in self._settings(result.number).items()
        )
        figures = ", ".join(
            f"{outputs.FORMATS[name].format(value)} {outputs.TITLES[name]}"
            for name, value in result.values.items()
            if name in ("accuracy", self.book.cost)
        )
        what = {"complete": figures, "pruned": f"stopped {result.reason}", "failed": f"failed: {result.reason}"}
        left = self.board.time_left()
        LOGGER.info(
            "Trial %d (%d of %d): %s: %s (%.1f s%s)",
            result.number,
            self.board.done,
            self.total,
            settings,
            what[result.state],
            result.seconds,
            "" if left is None or not self._room() else f"; about {left:.0f} s left",
        )

    def _count(self) -> None:
        rows = [row for row in self.book.rows() if row.result is not None]
        first = [row for row in rows if row.repeats is None]
        board = self.board
        board.done, board.repeats = len(first), len(rows) - len(first)
        board.stopped = sum(row.state == "pruned" for row in first)
        board.failed = sum(row.state == "failed" for row in first)
        board.seconds = [row.result.seconds for row in first if row.result is not None and row.result.seconds > 0]
