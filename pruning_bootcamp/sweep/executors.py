"""Where trials run. Processes of this machine, each with its share of the cores, watched: one that dies is replaced."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

_TERMINATED = 128 + signal.SIGTERM  # the exit code of a worker that was told to end, as shells give it

Function = Callable[[Any, Callable[[str], None]], Any]
"""(spec, report) -> result; a module's own function, since other processes import it"""


@dataclass(frozen=True)
class Event:
    """What happened to a spec."""

    number: int
    kind: str
    """done (content: the result), said (a line of progress), killed or broken (how its process ended)"""
    content: Any


class Executor(Protocol):
    """Runs specs that have a `number`, each in a process of its own."""

    def free(self) -> int:
        """How many more specs can begin now."""

    def submit(self, spec: Any) -> None:
        """Begin with it; only while `free` says that there is room."""

    def events(self, seconds: float) -> list[Event]:
        """What happened, after waiting for it at most so long."""

    def close(self) -> None:
        """Stop what still runs; it has written its state by then."""


@dataclass
class _Worker:
    process: Any
    connection: Connection
    number: int | None = None


class LocalExecutor:
    """Processes of this machine."""

    def __init__(self, function: Function, workers: int, threads: int, logs: Path) -> None:
        self._function, self._threads, self._logs = function, threads, logs
        self._context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads half-alive
        self._workers = [self._start(place) for place in range(workers)]

    def free(self) -> int:
        """Worker processes that have nothing to do."""
        return sum(worker.number is None for worker in self._workers)

    def submit(self, spec: Any) -> None:
        """The first idle worker takes it; one that has died meanwhile is found by `events`."""
        worker = next(worker for worker in self._workers if worker.number is None)
        worker.number = spec.number
        with contextlib.suppress(BrokenPipeError):  # it died idle: `events` finds that out
            worker.connection.send(spec)

    def events(self, seconds: float) -> list[Event]:
        """A worker that has died is an event, where it had a spec, and is replaced."""
        ends = [end for worker in self._workers for end in (worker.connection, worker.process.sentinel)]
        ready = wait(ends, timeout=seconds)
        found = []
        for place, worker in enumerate(self._workers):
            if worker.connection not in ready and worker.process.sentinel not in ready:
                continue
            found += self._read(worker)
            if not worker.process.is_alive():
                code = worker.process.exitcode
                if worker.number is not None:
                    kind = "killed" if _signal_of(code) else "broken"
                    found.append(Event(worker.number, kind, self._ending(place, code)))
                worker.connection.close()
                self._workers[place] = self._start(place)
        return found

    def close(self) -> None:
        """Workers are asked to end; one that has not within 30 seconds is killed."""
        for worker in self._workers:
            worker.connection.close()  # an idle one ends by itself
            if worker.number is not None:
                worker.process.terminate()  # a training writes its state, then obeys
        for worker in self._workers:
            worker.process.join(timeout=30)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _read(self, worker: _Worker) -> list[Event]:
        found = []
        with contextlib.suppress(EOFError, OSError):
            while worker.connection.poll():
                kind, content = worker.connection.recv()
                assert worker.number is not None
                found.append(Event(worker.number, kind, content))
                if kind == "done":
                    worker.number = None
        return found

    def _start(self, place: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        log = str(self._logs / f"worker_{place + 1}.log")
        with _threads_in_environment(self._threads):
            process = self._context.Process(target=_serve, args=(theirs, self._function, self._threads, log))
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def _ending(self, place: int, code: int) -> str:
        if number := _signal_of(code):
            name = signal.Signals(number).name
            return f"its process was ended by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
        log = self._logs / f"worker_{place + 1}.log"
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"its process ended with code {code}: {lines[-1] if lines else 'it said nothing'} (see {log})"


def _signal_of(code: int) -> int | None:
    """The signal that ended a process: SIGKILL leaves minus its number, SIGTERM what `_leave` makes of it."""
    return -code if code < 0 else signal.SIGTERM if code == _TERMINATED else None


@contextlib.contextmanager
def _threads_in_environment(threads: int) -> Iterator[None]:
    """OpenMP reads it when a process begins, so it must be there before."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _serve(connection: Connection, function: Function, threads: int, log: str) -> None:
    """A worker's life: a spec, its result, the next one, until the sweep closes the line or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the sweep says what to do
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare_worker(threads, log)
    while True:
        try:
            spec = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(("done", function(spec, lambda text: connection.send(("said", text)))))


def _leave(number: int, frame: object) -> None:
    """The sweep says so, or somebody's `kill`; what was opened is closed on the way out."""
    sys.exit(_TERMINATED)


def _end_with_parent() -> None:
    """The sweep was killed: its trials stop too, as if killed with it, so that the next one can go on with them."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def prepare_worker(threads: int, log: str | None = None) -> None:
    """Its share of the cores, and its words in log files instead of the screen."""
    import logging

    import torch

    from pruning_bootcamp.logs import LOGGER

    torch.set_num_threads(threads)
    LOGGER.handlers.clear()
    LOGGER.propagate = False
    LOGGER.setLevel(logging.INFO)
    if log is not None:
        stream = open(log, "a", buffering=1)  # noqa: SIM115 - for as long as the process lives
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stdout = sys.stderr = stream


def share_of_cores(workers: int) -> int:
    """Threads for each of so many workers; no more than OMP_NUM_THREADS, which every other command obeys too."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, there // workers)
    return min(share, int(wanted)) if wanted.isdigit() and int(wanted) else share
