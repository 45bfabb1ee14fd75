"""A sweep at work: ask the sampler, run the trial, tell it what came out; what waits, what runs, what is known."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pruning_bootcamp.config import Config, as_dict, fingerprint
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.commands import fingerprint_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.results import TRIALS, Repeat, Study, Trial, TrialResult
from pruning_bootcamp.sweep import outputs, trial, view
from pruning_bootcamp.sweep.executors import Event, Executor
from pruning_bootcamp.sweep.median_pruner import Finished
from pruning_bootcamp.sweep.showing import say
from pruning_bootcamp.sweep.space import shown_setting
from pruning_bootcamp.sweep.study import OptunaStudy, TrialRow
from pruning_bootcamp.sweep.trial import TrialSpec

_MOST_REPEATS = 100  # in a row: the sampler has nothing new to say
_EVENT_SECONDS = 0.5


@dataclass
class Sweep:
    """A sweep at work: what waits, what runs, what is known."""

    cfg: Config
    folder: Path
    trials: OptunaStudy
    network: Path | None
    total: int
    progress: view.SweepProgress
    head: Study | None = None
    """the sweep without its trials, once the dense network is judged"""
    waiting: deque[TrialSpec] = field(default_factory=deque)
    running: dict[int, TrialSpec] = field(default_factory=dict)
    duplicates: dict[int, list[int]] = field(default_factory=dict)
    """trials with the settings of one that still runs"""
    retries: dict[int, int] = field(default_factory=dict)
    exhausted: bool = False

    def take_up(self) -> None:
        """The trials that a killed sweep had begun here go on first."""
        for row in self.trials.rows():
            if row.state == "running" and self.trials.is_mine(row.owner):
                first = self._known(row.fingerprint, before=row.number)
                if first is None:
                    self.waiting.append(self._spec(row.number, row.settings, row.fingerprint))
                elif first.result is not None:
                    self._repeat(row.number, first.number, first.result)
                else:
                    self.duplicates.setdefault(first.number, []).append(row.number)
        if self.waiting:
            LOGGER.info("Going on with %d trials that were begun", len(self.waiting))
        self._count()

    def has_work(self) -> bool:
        """Whether a trial waits to be begun, or may still be suggested."""
        return bool(self.waiting) or self._room()

    def work(self, executor: Executor) -> None:
        """Until every trial is over."""
        self.write("running")
        while True:
            while executor.free() > 0 and (spec := self._next()) is not None:
                self.running[spec.number] = spec
                self.progress.running[spec.number] = view.Line(self._settings(spec.number), time.time())
                executor.submit(spec)
            if not self.running:
                return
            for event in executor.events(_EVENT_SECONDS):
                self._happened(event)

    def finish(self) -> Study:
        """The last files; the error when no trial got through."""
        for row in self._firsts():  # what another machine has finished since
            if row.state != "running" and row.result is not None:
                self._settle(row.number, row.result)
        rows = self._firsts()
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
            LOGGER.info("Trials that still run on other machines: %d; the same command shows them when over", elsewhere)
        if self.progress.repeats:
            LOGGER.info("%d suggestions repeated settings that were known; they cost nothing", self.progress.repeats)
        LOGGER.info("Results: %s%s", self.folder / outputs.TABLE, f", {self.folder / outputs.PAGE}" if page else "")
        if not page:
            LOGGER.info("No %s: plotly is not installed (the extra `report`)", outputs.PAGE)
        return content

    def write(self, status: str) -> Study:
        """sweep.yaml as things stand."""
        assert self.head is not None, "the dense network is judged first"
        repeats = [(row.number, row.repeats) for row in self.trials.rows()]
        study = replace(
            self.head,
            trials=tuple(self._entry(row) for row in self._firsts()),
            repeats=tuple(Repeat(number=number, of=first) for number, first in repeats if first is not None),
            status=status,
        )
        study = outputs.concluded(study)
        outputs.write_sweep(self.folder, study)
        by_number = {trial.number: trial for trial in study.trials}
        self.progress.front = [(number, by_number[number].values) for number in study.pareto]
        return study

    def _entry(self, row: TrialRow) -> Trial:
        result = row.result or TrialResult(row.number, "running")
        own = self.trials.is_mine(row.owner)
        host, _, there = row.owner.partition(":")  # another folder of the study, perhaps of another machine
        folder = f"{TRIALS}/{row.number:04d}"
        return Trial(
            number=row.number,
            state=row.state,
            params=row.settings,
            values=result.values,
            folder=folder if own else f"{there}/{folder}",
            seconds=result.seconds,
            host=None if own else host,
            reason=result.reason or None,
            latency_way=result.latency_way,
        )

    def _next(self) -> TrialSpec | None:
        """The next trial to run; None when there is none, or none that is new."""
        if self.waiting:
            return self.waiting.popleft()
        for _ in range(_MOST_REPEATS):
            if not self._room():
                return None
            number, settings = self.trials.ask()
            try:
                folder = self._folder(number)
                mark = fingerprint_of(
                    self.cfg.sweep.command, trial.config_for(self.cfg, settings, folder, self.network)
                )
            except BootcampError as error:  # these settings don't go together
                self.trials.begin(number, settings, fingerprint("refused", settings))
                self._over(TrialResult(number, "failed", reason=str(error)))
                continue
            first = self._known(mark)
            self.trials.begin(number, settings, mark)
            if first is None:
                return self._spec(number, settings, mark)
            if first.result is None:
                self.duplicates.setdefault(first.number, []).append(number)
            else:
                self._repeat(number, first.number, first.result)
        self.exhausted = True
        LOGGER.info("The sampler only repeats itself: the sweep ends with what is there")
        return None

    def _room(self) -> bool:
        return not self.exhausted and len(self._firsts()) < self.total

    def _firsts(self) -> list[TrialRow]:
        """One trial for each settings, whichever machines asked for them: one that is over, or else the first."""
        rows: dict[str, TrialRow] = {}
        for row in self.trials.rows():
            known = rows.get(row.fingerprint)
            if row.repeats is None and (known is None or (known.result is None and row.result is not None)):
                rows[row.fingerprint] = row
        return list(rows.values())

    def _known(self, fingerprint: str, before: int | None = None) -> TrialRow | None:
        """The first trial with these settings, finished or running."""
        rows = [row for row in self.trials.rows() if row.fingerprint == fingerprint and row.repeats is None]
        return next((row for row in rows if before is None or row.number < before), None)

    def _settle(self, first: int, result: TrialResult) -> None:
        """The trials with the settings of one that is over have its metrics."""
        for duplicate in self.duplicates.pop(first, []):
            self._repeat(duplicate, first, result)

    def _repeat(self, number: int, first: int, result: TrialResult) -> None:
        self.trials.tell(replace(result, number=number), repeats=first)
        LOGGER.info("Trial %d would repeat trial %d: its metrics are taken, nothing is run", number, first)
        self._count()

    def _spec(self, number: int, settings: Mapping[str, Plain], fingerprint: str) -> TrialSpec:
        s, folder = self.cfg.sweep, self._folder(number)
        rows = [row.result for row in self.trials.rows() if row.state == "complete" and row.repeats is None]
        others = [Finished(r.weight, r.curve) for r in rows if r is not None and r.weight is not None and r.curve]
        return TrialSpec(
            number,
            s.command,
            as_dict(trial.config_for(self.cfg, settings, folder, self.network)),
            str(folder),
            fingerprint,
            self.trials.cost,
            tuple(others),
            s if s.early_stopping else None,
        )

    def _folder(self, number: int) -> Path:
        return self.folder / TRIALS / f"{number:04d}"

    def _settings(self, number: int) -> dict[str, Plain]:
        return next(row.settings for row in self.trials.rows() if row.number == number)

    def _happened(self, event: Event) -> None:
        spec = self.running.get(event.number)
        if spec is None:
            return
        if event.kind == "said":
            self.progress.running[event.number].text = str(event.content)
            return
        del self.running[event.number]
        self.progress.running.pop(event.number, None)
        if event.kind == "done" and event.content.state == "halted":
            raise BootcampError(f"trial {event.number}: {event.content.reason} Then type the same command: it goes on.")
        if event.kind == "done":
            self._over(event.content)
        elif event.kind == "killed" and self.retries.get(event.number, 0) < self.cfg.sweep.retries:
            self.retries[event.number] = self.retries.get(event.number, 0) + 1
            LOGGER.info("Trial %d: %s; it is tried again", event.number, event.content)
            self.waiting.appendleft(spec)
        else:
            self._over(TrialResult(event.number, "failed", reason=str(event.content)))

    def _over(self, result: TrialResult) -> None:
        self.trials.tell(result)
        self._settle(result.number, result)
        self._count()
        self.write("running")
        settings = ", ".join(
            f"{key.rpartition('.')[2] if key.count('.') == 1 else key} {shown_setting(value)}"
            for key, value in self._settings(result.number).items()
        )
        metrics = ", ".join(
            f"{outputs.FORMATS[name].format(value)} {outputs.TITLES[name]}"
            for name, value in result.values.items()
            if name in ("accuracy", self.trials.cost)
        )
        what = {"complete": metrics, "pruned": f"stopped {result.reason}", "failed": f"failed: {result.reason}"}
        left = self.progress.time_left()
        LOGGER.info(
            "Trial %d (%d of %d): %s: %s (%.1f s%s)",
            result.number,
            self.progress.done,
            self.total,
            settings,
            what[result.state],
            result.seconds,
            "" if left is None or not self._room() else f"; about {left:.0f} s left",
        )

    def _count(self) -> None:
        rows = [row for row in self.trials.rows() if row.result is not None]
        first = [row for row in rows if row.repeats is None]
        progress = self.progress
        progress.done, progress.repeats = len(first), len(rows) - len(first)
        progress.stopped = sum(row.state == "pruned" for row in first)
        progress.failed = sum(row.state == "failed" for row in first)
        progress.seconds = [row.result.seconds for row in first if row.result is not None and row.result.seconds > 0]
