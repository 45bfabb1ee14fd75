"""The machine: runs what is not there yet, and keeps each step's outcome under a hash of what it depends on."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning_bootcamp.config import fingerprint
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.outcomes import Outcome
from pruning_bootcamp.flow.status import Progress
from pruning_bootcamp.flow.step import NETWORK, Done, Network, Step
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import from_plain, to_plain
from pruning_bootcamp.runs import content_hash, read_yaml, remove_leftovers, write_yaml
from pruning_bootcamp.runtime import device_memory_mb, peak_memory_mb, restart_peak_memory, seed_everything
from pruning_bootcamp.training.distributed import World
from pruning_bootcamp.training.state import NAME as TRAINING_STATE

RESULT = "result.yaml"
STAGES = "stages"
# Raised when what a step keeps, or how it works, changes so much that earlier results mean something else.
_VERSION = 3


@dataclass
class Machine:
    """Runs steps in order. Killed anywhere, the next run takes up what is finished and goes on within the rest.

    Under torchrun every process runs the same steps; the leader alone writes, and all read what it wrote.
    """

    root: Path
    seed: int
    progress: Progress | None
    """None in processes that don't lead"""
    context: Callable[[Step[Any], Path, str, Mapping[str, Done[Any]]], Any]
    """(step, its folder, its key, finished inputs by role) -> what it works with"""
    world: World = field(default_factory=World)
    given: Mapping[str, Path] = field(default_factory=dict)
    """step -> the file of its network, which stays where it is"""
    done: dict[str, Done[Any]] = field(default_factory=dict)

    def run(self, step: Step[Any]) -> Done[Any] | None:
        """The step's result, made now or kept from before; None for a step that has nothing to do."""
        reason = step.skipped or self._needless(step)
        if reason is not None:
            if self.progress is not None:
                self.progress.skip(step, reason)
            if step.gives_network:
                self.done[step.name] = self.done[step.inputs["before"]]
            return None
        inputs = {role: self.done[name] for role, name in step.inputs.items()}
        key = key_of(step, {role: done.key for role, done in inputs.items()})
        folder = self.root / STAGES / f"{step.name}-{key[:12]}"
        found = self._kept(step, folder, key)
        if found is None:
            found = self._make(step, folder, key, inputs)
        elif self.progress is not None:
            (folder / TRAINING_STATE).unlink(missing_ok=True)  # a kill just after the finish mark leaves it
            self.progress.reuse(step, found)
        self.done[step.name] = found
        return found

    def _needless(self, step: Step[Any]) -> str | None:
        """Why the step's cycle has nothing to do: the network is as sparse already."""
        if step.least is None:
            return None
        name, sparsity = step.least
        there = self._network_of(name).sparsity
        return f"{100 * there:.2f}% of the weights are zero already" if there >= sparsity else None

    def _network_of(self, name: str) -> Network:
        step = Step(name, name, None, Outcome)
        return self.context(step, self.root, "", {"before": self.done[name]}).network()

    def _kept(self, step: Step[Any], folder: Path, key: str) -> Done[Any] | None:
        """What was finished before, if the leader finds it."""
        found = self._read(step, folder, key) if self.world.leads else None
        there = bool(self.world.leaders([found is not None])[0])
        return self._read_leaders(step, folder, key) if there and found is None else found

    def _read_leaders(self, step: Step[Any], folder: Path, key: str) -> Done[Any]:
        found = self._read(step, folder, key)
        if found is None:
            raise BootcampError(
                f"process {self.world.rank} does not find what process 0 wrote to {folder}. Give all of them one "
                "--save-dir on a shared disk."
            )
        return found

    def _read(self, step: Step[Any], folder: Path, key: str) -> Done[Any] | None:
        return read_result(step, folder, key, self.given.get(step.name))

    def _make(self, step: Step[Any], folder: Path, key: str, inputs: Mapping[str, Done[Any]]) -> Done[Any]:
        if self.world.leads:
            self._work(step, folder, key, inputs)
            self.world.sums([1.0])  # the others may read it now
            found = self._read(step, folder, key)  # as a later run will: the same bits, read or made
            assert found is not None, folder
            if self.progress is not None:
                self.progress.end(step, found)
            return found
        if step.together:
            assert step.work is not None
            seed_everything(self.seed)
            step.work(self.context(step, folder, key, inputs))
        self.world.sums([1.0])
        return self._read_leaders(step, folder, key)

    def _work(self, step: Step[Any], folder: Path, key: str, inputs: Mapping[str, Done[Any]]) -> None:
        assert step.work is not None
        remove_leftovers(folder)
        (folder / RESULT).unlink(missing_ok=True)  # of files that are gone or damaged
        if self.progress is not None:
            self.progress.begin(step)
        restart_peak_memory()
        seed_everything(self.seed)  # not what earlier steps left: they may have been read from their files
        begun = time.perf_counter()
        outcome = step.work(self.context(step, folder, key, inputs))
        seconds, memory = round(time.perf_counter() - begun, 2), round(peak_memory_mb(), 1)
        if (on_device := device_memory_mb()) is not None:
            LOGGER.info("%s: peak memory of the device %.0f MiB", step.title, on_device)
        (folder / TRAINING_STATE).unlink(missing_ok=True)
        content = {"key": key, "step": step.name, "outcome": plain(to_plain(outcome)), "files": hashes_in(folder)}
        first = self.progress.line(step).first if self.progress is not None else 0
        write_yaml(folder / RESULT, content | {"seconds": seconds, "peak_memory_mb": memory, "first": first})


def key_of(step: Step[Any], inputs: Mapping[str, str]) -> str:
    """A hash of all that the step's outcome depends on."""
    return fingerprint(step.name, {"version": _VERSION, "settings": plain(step.settings), "inputs": dict(inputs)})


def read_result(step: Step[Any], folder: Path, key: str, given: Path | None = None) -> Done[Any] | None:
    """A finished step; None when it is not finished, another one's, or a file of it is gone or changed."""
    if not (folder / RESULT).exists():
        return None
    try:
        content = read_yaml(folder / RESULT)
        if content["key"] == key and content["files"] == hashes_in(folder):
            network = folder / NETWORK
            return Done(
                step.name,
                key,
                folder,
                from_plain(step.gives, content["outcome"]),
                float(content["seconds"]),
                float(content["peak_memory_mb"]),
                int(content["first"]),
                network if network.exists() else given,
            )
    except (BootcampError, KeyError, TypeError, ValueError):
        pass  # said below: to the user it is the same, and the step is done again
    LOGGER.info("%s: its files are not as they were left, so the step is done again", folder)
    return None


def hashes_in(folder: Path) -> dict[str, str]:
    """File -> hash of its content, of what a step keeps."""
    return {
        path.relative_to(folder).as_posix(): content_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (RESULT, TRAINING_STATE) and not path.name.startswith(".")
    }


def plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """As YAML will give it back: no tuples, no NumPy numbers."""
    return dict(json.loads(json.dumps(metrics, default=_number)))


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def check_unique(steps: Sequence[Step[Any]]) -> None:
    """Names are unique and inputs come earlier: a plan is put together by us, so anything else is our bug."""
    seen: set[str] = set()
    for step in steps:
        assert step.name not in seen, step.name
        assert set(step.inputs.values()) <= seen, (step.name, step.inputs)
        seen.add(step.name)
