"""The stage machine: runs what is not there yet, and keeps each result under a hash of what it depends on."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning_bootcamp.config import fingerprint
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pipeline.status import Board
from pruning_bootcamp.pipeline.step import Desk, Done, Figures, Step
from pruning_bootcamp.runs import content_hash, read_yaml, remove_leftovers, write_yaml
from pruning_bootcamp.runtime import device_memory_mb, peak_memory_mb, restart_peak_memory, seed_everything
from pruning_bootcamp.training.state import NAME as TRAINING_STATE

RESULT = "result.yaml"
STAGES = "stages"
# Raised when what a step keeps, or how it works, changes so much that earlier results mean something else.
_VERSION = 2
_CURVES = "logs"


@dataclass
class Machine:
    """Runs steps in order. Killed anywhere, the next run takes up what is finished and goes on within the rest."""

    root: Path
    seed: int
    board: Board
    desk: Callable[[Step, Path, str, Mapping[str, Done]], Desk]
    """(step, its folder, its key, finished inputs by role) -> what it works with"""
    done: dict[str, Done] = field(default_factory=dict)

    def run(self, step: Step) -> Done | None:
        """The step's result, made now or kept from before; None for a step that has nothing to do."""
        if step.skipped is not None or step.work is None:
            self.board.skip(step)
            return None
        inputs = {role: self.done[name] for role, name in step.inputs.items()}
        key = key_of(step, {role: done.key for role, done in inputs.items()})
        folder = self.root / STAGES / f"{step.name}-{key[:12]}"
        found = read_result(folder, key)
        if found is not None:
            (folder / TRAINING_STATE).unlink(missing_ok=True)  # a kill just after the finish mark leaves it
            self.board.reuse(step, found)
        else:
            found = self._work(step, folder, key, inputs)
        self.done[step.name] = found
        return found

    def _work(self, step: Step, folder: Path, key: str, inputs: Mapping[str, Done]) -> Done:
        assert step.work is not None
        remove_leftovers(folder)
        (folder / RESULT).unlink(missing_ok=True)  # of files that are gone or damaged
        self.board.begin(step)
        restart_peak_memory()
        seed_everything(self.seed)  # not what earlier steps left: they may have been read from their files
        begun = time.perf_counter()
        figures = step.work(self.desk(step, folder, key, inputs))
        seconds, memory = round(time.perf_counter() - begun, 2), round(peak_memory_mb(), 1)
        if (on_device := device_memory_mb()) is not None:
            LOGGER.info("%s: peak memory of the device %.0f MiB", step.title, on_device)
        (folder / TRAINING_STATE).unlink(missing_ok=True)
        content = {"key": key, "step": step.name, "figures": plain(figures), "files": hashes_in(folder)}
        cost = {"seconds": seconds, "peak_memory_mb": memory, "first": self.board.line(step).first}
        write_yaml(folder / RESULT, content | cost)
        found = read_result(folder, key)  # as a later run will: figures are the same bits, read or made
        assert found is not None, folder
        self.board.end(step, found)
        return found


def key_of(step: Step, inputs: Mapping[str, str]) -> str:
    """A hash of all that the step's result depends on."""
    return fingerprint(step.name, {"version": _VERSION, "settings": plain(step.settings), "inputs": dict(inputs)})


def keys_of(steps: Sequence[Step]) -> dict[str, str]:
    """The key of every step that has something to do, before anything runs."""
    keys: dict[str, str] = {}
    for step in steps:
        if step.skipped is None:
            keys[step.name] = key_of(step, {role: keys[name] for role, name in step.inputs.items()})
    return keys


def read_result(folder: Path, key: str) -> Done | None:
    """A finished step's result; None when it is not finished, another one's, or a file of it is gone or changed."""
    if not (folder / RESULT).exists():
        return None
    try:
        content = read_yaml(folder / RESULT)
        whole = content["key"] == key and content["files"] == hashes_in(folder)
        if whole:
            seconds, memory = float(content["seconds"]), float(content["peak_memory_mb"])
            return Done(key, folder, content["figures"], seconds, memory, int(content["first"]))
    except (BootcampError, KeyError, TypeError, ValueError):
        pass  # said below: to the user it is the same, and the step is done again
    LOGGER.info("%s: its files are not as they were left, so the step is done again", folder)
    return None


def hashes_in(folder: Path) -> dict[str, str]:
    """File -> hash of its content, of what a step keeps; curves for TensorBoard are not a result."""
    return {
        path.relative_to(folder).as_posix(): content_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in (RESULT, TRAINING_STATE)
        and not path.name.startswith(".")
        and _CURVES not in path.relative_to(folder).parts
    }


def plain(figures: Mapping[str, Any]) -> Figures:
    """As YAML will give it back: no tuples, no NumPy numbers."""
    return dict(json.loads(json.dumps(figures, default=_number)))


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
