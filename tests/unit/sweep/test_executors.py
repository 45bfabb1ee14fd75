"""Workers: tasks come back with their results, a worker that dies is noticed and replaced, threads are shared out."""

import importlib.util
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.sweep.executors import Event, Executor, LocalExecutor, share_of_cores


@dataclass(frozen=True)
class Job:
    number: int
    what: str
    mark: str = ""


def work(job: Job, report: Callable[[str], None]) -> tuple[int, str]:
    """Runs in a worker."""
    if job.what.startswith("SIG") and not Path(job.mark).exists():
        Path(job.mark).touch()
        os.kill(os.getpid(), signal.Signals[job.what])
    if job.what == "raise":
        raise RuntimeError("a bug in job three")
    report("half-way")
    return job.number, os.environ["OMP_NUM_THREADS"]


def all_events(executor: Executor, jobs: list[Job], seconds: float = 60) -> list[Event]:
    """Until each job is done or broken; a killed one is handed in again."""
    waiting, found, over = list(jobs), [], 0
    deadline = time.monotonic() + seconds
    while over < len(jobs) and time.monotonic() < deadline:
        while waiting and executor.free():
            executor.submit(waiting.pop(0))
        for event in executor.events(0.2):
            found.append(event)
            over += event.kind in ("done", "broken")
            if event.kind == "killed":
                waiting += [job for job in jobs if job.number == event.number]
    return found


@pytest.fixture
def local(tmp_path: Path):
    executor = LocalExecutor(work, workers=2, threads=3, logs=tmp_path)
    yield executor
    executor.close()


@pytest.mark.parametrize("name", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_local_workers_work_die_and_are_replaced(name: str, local: LocalExecutor, tmp_path: Path) -> None:
    jobs = [Job(1, "work"), Job(2, name, str(tmp_path / "mark")), Job(3, "raise"), Job(4, "work")]
    found = all_events(local, jobs)
    done = {event.number: event.content for event in found if event.kind == "done"}
    assert done == {1: (1, "3"), 2: (2, "3"), 4: (4, "3")}
    killed = [event for event in found if event.kind == "killed"]
    assert [event.number for event in killed] == [2]
    assert f"ended by {name}" in killed[0].content
    broken = [event for event in found if event.kind == "broken"]
    assert [event.number for event in broken] == [3]
    assert "a bug in job three" in broken[0].content
    assert {event.content for event in found if event.kind == "said"} == {"half-way"}


def test_the_environment_is_left_as_it_was(local: LocalExecutor) -> None:
    assert os.environ.get("OMP_NUM_THREADS") != "3"


def test_workers_share_the_cores_and_obey_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [share_of_cores(workers) for workers in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [share_of_cores(workers) for workers in (1, 2, 16)] == [3, 3, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")  # nested levels: torch's own business
    assert share_of_cores(2) == 4


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (the extra `cluster`)")
def test_ray_workers_work_die_and_are_replaced(tmp_path: Path) -> None:
    from pruning_bootcamp.sweep.cluster import RayExecutor

    executor = RayExecutor(work, workers=2, threads=1)
    try:
        jobs = [Job(1, "work"), Job(2, "SIGKILL", str(tmp_path / "mark")), Job(3, "raise"), Job(4, "work")]
        found = all_events(executor, jobs, seconds=180)
    finally:
        executor.close()
    done = {event.number: event.content for event in found if event.kind == "done"}
    assert done == {1: (1, "1"), 2: (2, "1"), 4: (4, "1")}
    assert [event.number for event in found if event.kind == "killed"] == [2]
    broken = [event for event in found if event.kind == "broken"]
    assert [event.number for event in broken] == [3]
    assert "a bug in job three" in broken[0].content


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (the extra `cluster`)")
def test_a_trial_that_no_machine_of_the_cluster_can_take_is_refused() -> None:
    import ray

    from pruning_bootcamp.sweep.cluster import RayExecutor

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(BootcampError, match="Set threads=1 or less"):
            RayExecutor(work, workers=1, threads=2)
        assert ray.is_initialized(), "somebody else's cluster is not shut down"
    finally:
        ray.shutdown()
