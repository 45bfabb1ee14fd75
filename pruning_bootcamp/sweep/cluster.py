"""Trials as tasks of a Ray cluster, or of a Ray started here; a spec whose worker dies comes back as killed."""

import contextlib
import os
import sys
from typing import Any

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.sweep.executors import Event, Function, prepare_worker


class RayExecutor:
    """The same functions as with local processes. Every machine must see the sweep's folder under the same path."""

    def __init__(self, function: Function, workers: int, threads: int) -> None:
        import ray

        self._ray, self._workers = ray, workers
        self._ours = not ray.is_initialized()
        if self._ours:
            settings: dict[str, Any] = {"address": os.environ.get("RAY_ADDRESS")}
            if settings["address"] is None:
                settings = {"num_cpus": workers * threads, "include_dashboard": False}
            settings["runtime_env"] = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
            settings["log_to_driver"] = False
            ray.init(**settings)
        largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if largest < threads:
            self._end()
            raise BootcampError(
                f"sweep: a trial takes {threads} CPUs (threads), and no machine of the Ray cluster has more than "
                f"{largest:g}, so it would wait for ever. Set threads={max(int(largest), 1)} or less."
            )
        # tries are counted by the sweep, which says so, not by Ray
        remote = ray.remote(num_cpus=threads, max_retries=0)(_call)
        self._begin = lambda spec: remote.remote(function, spec, threads, os.getcwd())
        self._running: dict[Any, int] = {}

    def free(self) -> int:
        """Workers of the cluster that nothing was handed to."""
        return self._workers - len(self._running)

    def submit(self, spec: Any) -> None:
        """Ray chooses the machine."""
        self._running[self._begin(spec)] = spec.number

    def events(self, seconds: float) -> list[Event]:
        """Ends only: a worker of the cluster sends no line while it runs."""
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), timeout=seconds)
        found = []
        for reference in ready:
            number = self._running.pop(reference)
            try:
                found.append(Event(number, "done", self._ray.get(reference)))
            except self._ray.exceptions.RayTaskError as error:
                found.append(Event(number, "broken", f"its spec ended with {str(error).strip().splitlines()[-1]}"))
            except self._ray.exceptions.RayError as error:
                found.append(Event(number, "killed", f"its worker died ({type(error).__name__})"))
        return found

    def close(self) -> None:
        """Running specs are ended without being asked; a cluster that was started here ends too."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._end()

    def _end(self) -> None:
        if self._ours:
            self._ray.shutdown()


def _call(function: Function, spec: Any, threads: int, folder: str) -> Any:
    prepare_worker(threads)
    with contextlib.suppress(FileNotFoundError):  # another machine: then every path must be a whole one
        os.chdir(folder)
    sys.path.insert(0, folder)  # where a module:factory may lie
    return function(spec, lambda text: None)
