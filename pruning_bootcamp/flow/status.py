"""Where a run stands: kept in status.yaml at every change, so that another terminal can see it."""

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.step import Done, Step
from pruning_bootcamp.locks import owner_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.runs import atomic_path, read_yaml, write_yaml, yaml_text
from pruning_bootcamp.runtime import peak_memory_mb
from pruning_bootcamp.schema import coerce
from pruning_bootcamp.tasks import Metric
from pruning_bootcamp.training.hooks import Hook, StepState

STATUS = "status.yaml"
State = Literal["waiting", "running", "done", "reused", "skipped", "failed", "interrupted"]
_EVERY_SECONDS = 1.0


@dataclass
class StepStatus:
    """One line of the view."""

    name: str
    title: str
    stage: str | None
    state: State = "waiting"
    seconds: float | None = None
    peak_memory_mb: float | None = None
    begun: float | None = None
    """seconds since the epoch, while it runs"""
    first: int = 0
    """where this process took the training up"""
    done: int = 0
    total: int = 0
    """of the steps of a training, or of other work of many parts"""
    text: str = ""

    @property
    def since(self) -> str:
        """What its seconds leave out."""
        return f" since it was taken up at step {self.first}" if self.first else ""


@dataclass
class Status:
    """The whole run."""

    name: str
    command: str
    stage: str = PruningStage.IDLE.display_name
    state: Literal["running", "complete", "failed", "interrupted"] = "running"
    reason: str = ""
    begun: float = 0.0
    updated: float = 0.0
    steps: list[StepStatus] = field(default_factory=list)
    transitions: list[dict[str, Any]] = field(default_factory=list)
    """{"time", "from", "to", "seconds" in the stage that ended, "peak_memory_mb" (None: nothing was worked on)}"""


class Progress:
    """Keeps the status, in memory for the view and in status.yaml for everybody else, and logs every transition."""

    def __init__(
        self, folder: Path, name: str, command: str, steps: Sequence[Step[Any]], detailed: bool = True
    ) -> None:
        """`detailed`: time and memory of every step are said on the screen too."""
        self._level = logging.INFO if detailed else logging.DEBUG
        self.folder, self._path = folder, folder / STATUS
        now = time.time()
        lines = [StepStatus(step.name, step.title, step.stage and step.stage.display_name) for step in steps]
        self.status = Status(name, command, begun=now, updated=now, steps=lines)
        self._stage_begun = now
        self._stage_memory: float | None = None  # nothing was measured in it yet
        self._written = 0.0
        self._write()

    def line(self, step: Step[Any]) -> StepStatus:
        """The step's line of the status, to be changed in place."""
        return next(line for line in self.status.steps if line.name == step.name)

    def skip(self, step: Step[Any], reason: str) -> None:
        """The step is not done in this run."""
        line = self.line(step)
        line.state, line.text = "skipped", reason
        LOGGER.log(self._level, "\n=== %s: skipped, %s ===", step.title, reason)
        self._write()

    def reuse(self, step: Step[Any], done: Done[Any]) -> None:
        """The step was done by an earlier run: its time and memory are those of then."""
        self._to(step.stage)
        line = self.line(step)
        line.state, line.seconds, line.peak_memory_mb = "reused", done.seconds, done.peak_memory_mb
        line.first = done.first
        line.text = done.outcome.summary
        LOGGER.info("\n=== %s: already done, kept in %s ===", step.title, done.folder.name)
        self._write()

    def begin(self, step: Step[Any]) -> None:
        """The step begins now; so does its stage, where that is another than the last step's."""
        self._to(step.stage)
        line = self.line(step)
        line.state, line.begun = "running", time.time()
        LOGGER.info("\n=== %s ===", step.title)
        self._write()

    def tell(self, step: Step[Any], done: int, total: int, text: str) -> None:
        """How far the step's work is; the file follows once a second."""
        line = self.line(step)
        line.done, line.total, line.text = done, total, text
        if time.time() - self._written >= _EVERY_SECONDS:
            self._write(lightly=True)

    def end(self, step: Step[Any], done: Done[Any]) -> None:
        """The step is done; its outcome's summary is shown."""
        line = self.line(step)
        line.state, line.seconds, line.peak_memory_mb, line.begun = "done", done.seconds, done.peak_memory_mb, None
        line.text = done.outcome.summary
        self._stage_memory = max(self._stage_memory or 0.0, done.peak_memory_mb)
        took = f"{done.seconds:.1f} s{line.since}"
        LOGGER.log(self._level, "%s: took %s, peak memory %.0f MiB", step.title, took, done.peak_memory_mb)
        self._write()

    def complete(self) -> None:
        """Every step is done, and status.yaml says so."""
        self._to(PruningStage.COMPLETE)
        self.status.state = "complete"
        self._write()

    def fail(self, reason: str, interrupted: bool = False) -> None:
        """The end of a run that did not get through; what is finished stays."""
        for line in self.status.steps:
            if line.state == "running":
                line.state, line.begun = ("interrupted" if interrupted else "failed"), None
                line.peak_memory_mb = round(peak_memory_mb(), 1)
                self._stage_memory = max(self._stage_memory or 0.0, line.peak_memory_mb)
        if not interrupted:
            self._to(PruningStage.FAILED)
        self.status.state, self.status.reason = ("interrupted" if interrupted else "failed"), reason
        with contextlib.suppress(BootcampError):  # the disk that failed us may fail again; the error itself counts
            self._write()

    def _to(self, stage: PruningStage | None) -> None:
        if stage is None or stage.display_name == self.status.stage:
            return
        now, memory = time.time(), self._stage_memory
        seconds = round(now - self._stage_begun, 2)
        transition = {
            "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)),
            "from": self.status.stage,
            "to": stage.display_name,
            "seconds": seconds,
            "peak_memory_mb": memory,
        }
        self.status.transitions.append(transition)
        about = "nothing was worked on" if memory is None else f"peak memory {memory:.0f} MiB"
        text = "Stage: %s -> %s (after %.1f s, %s)"
        LOGGER.log(self._level, text, self.status.stage, stage.display_name, seconds, about)
        self.status.stage, self._stage_begun, self._stage_memory = stage.display_name, now, None

    def _write(self, lightly: bool = False) -> None:
        self._written = self.status.updated = time.time()
        if not lightly:
            write_yaml(self._path, asdict(self.status))
            return
        # progress only: a reader sees the old file or the new one, and nothing waits for the disk
        with contextlib.suppress(BootcampError), atomic_path(self._path, durable=False) as temporary:
            temporary.write_text(yaml_text(asdict(self.status)), encoding="utf-8")


class WatchTraining(Hook):
    """Tells the progress after every step of a training how far it is; where that is shown, no bar is drawn."""

    def __init__(self, progress: Progress, step: Step[Any], shown: bool, metric: Metric) -> None:
        self._progress, self._step, self._metric, self._text = progress, step, metric, ""
        self.shows_progress = shown

    def on_start(self, state: StepState) -> None:
        """The training goes on from `state.step`: time left is told by the steps of this process alone."""
        line = self._progress.line(self._step)
        line.first, line.begun = state.step, time.time()
        self._tell(state)

    def on_step_end(self, state: StepState) -> None:
        """The view is told at once, status.yaml at most once a second."""
        self._tell(state)

    def on_epoch_end(self, state: StepState) -> None:
        """Tells the epoch's score on validation."""
        assert state.metrics is not None
        self._text = f"epoch {state.epoch}: validation {self._metric.text(state.metrics.val_accuracy)}"
        self._tell(state)

    def _tell(self, state: StepState) -> None:
        self._progress.tell(self._step, state.step, state.total_steps, self._text)


def read_status(folder: Path) -> Status:
    """What status.yaml says; a run that says it runs and whose process is gone is interrupted."""
    content = read_yaml(folder / STATUS)
    try:
        steps = [StepStatus(**_known(StepStatus, line)) for line in content["steps"]]
        status = Status(**_known(Status, content), steps=steps)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BootcampError(
            f"{folder / STATUS}: is damaged ({type(error).__name__}). The next run writes it anew."
        ) from error
    if status.state == "running" and owner_of(folder) is None:
        status.state, status.reason = "interrupted", "its process is gone"
        for line in steps:
            if line.state == "running":
                line.state, line.begun = "interrupted", None
    return status


def _known(kind: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the dataclass in a table from a file, each in its type; a value of another is a ValueError."""
    hints = get_type_hints(kind)
    return {key: coerce(value, hints[key]) for key, value in content.items() if key in hints and key != "steps"}
