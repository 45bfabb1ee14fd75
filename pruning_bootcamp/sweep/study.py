"""Optuna's side: the study and its database, samplers, what to try next, and what every trial came to."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain, from_plain, to_plain
from pruning_bootcamp.results import TrialResult
from pruning_bootcamp.sweep.settings import SweepSettings
from pruning_bootcamp.sweep.space import Dimension, grid, text_of

if TYPE_CHECKING:
    import optuna

DATABASE = "study.db"
_SETTINGS, _FINGERPRINT, _RESULT, _REPEATS, _OWNER = "settings", "fingerprint", "result", "repeats", "owner"
_STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}


@dataclass
class TrialRow:
    """A trial as the database knows it."""

    number: int
    settings: dict[str, Plain]
    state: str
    """running, complete, pruned or failed"""
    fingerprint: str
    owner: str
    """the sweep folder that runs it: several machines may share a study"""
    repeats: int | None = None
    """the trial that had the same settings before"""
    result: TrialResult | None = None


@dataclass
class OptunaStudy:
    """The study, and how its parameters are spelled there."""

    study: "optuna.Study"
    storage: "optuna.storages.BaseStorage"
    dimensions: list[Dimension]
    owner: str
    cost: str
    private: bool = True
    """no other machine writes to the database"""
    spaces: dict[str, Any] = field(default_factory=dict)

    _rows: list[TrialRow] | None = None
    _asked: bool = False

    def rows(self) -> list[TrialRow]:
        """Every trial that was really begun, by number."""
        if self._rows is not None and self.private:
            return self._rows
        found = []
        for trial in self.study.get_trials(deepcopy=False):
            facts = trial.user_attrs
            if _FINGERPRINT not in facts:
                continue  # whoever asked for it was killed before it had settings
            result = _result(json.loads(facts[_RESULT])) if _RESULT in facts else None
            state = result.state if result is not None and trial.state.is_finished() else "running"
            row = TrialRow(trial.number, json.loads(facts[_SETTINGS]), state, facts[_FINGERPRINT], facts[_OWNER])
            row.repeats, row.result = facts.get(_REPEATS), result
            found.append(row)
        self._rows = found
        return found

    def is_mine(self, owner: str | None) -> bool:
        """Whether a trial is for this folder to run; in a database of the folder's own all are."""
        return self.private or owner == self.owner

    def ask(self) -> tuple[int, dict[str, Plain]]:
        """Number and settings of the next trial, chosen from what is known; or of one whose asker was killed."""
        import optuna

        running = (
            () if self._asked else self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        )
        for frozen in running:
            if _FINGERPRINT not in frozen.user_attrs and self.is_mine(frozen.user_attrs.get(_OWNER)):
                try:
                    return frozen.number, self._settings(optuna.trial.Trial(self.study, self._id(frozen.number)))
                except ValueError:  # killed so early that the grid had no point for it
                    self.study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)
        self._asked = True  # what a killed sweep left half asked is taken up
        trial = self.study.ask()
        trial.set_user_attr(_OWNER, self.owner)
        return trial.number, self._settings(trial)

    def begin(self, number: int, settings: Mapping[str, Plain], fingerprint: str) -> None:
        """From here on the trial is known by its settings, and goes on after a kill."""
        self._rows = None
        self._note(number, _SETTINGS, json.dumps(dict(settings)))
        self._note(number, _FINGERPRINT, fingerprint)

    def tell(self, result: TrialResult, repeats: int | None = None) -> None:
        """What a trial came to; for one with the settings of another, whose metrics these are."""
        import optuna

        self._rows = None
        if repeats is not None:
            self._note(result.number, _REPEATS, repeats)
        self._note(result.number, _RESULT, json.dumps(to_plain(result)))
        values = [result.values["accuracy"], result.values[self.cost]] if result.state == "complete" else None
        self.study.tell(result.number, values, state=optuna.trial.TrialState[_STATES[result.state]])

    def _note(self, number: int, key: str, value: str | int) -> None:
        """A fact about a trial, which may be another process's."""
        self.storage.set_trial_user_attr(self._id(number), key, value)

    def _id(self, number: int) -> int:
        """What the storage calls the trial."""
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)

    def _settings(self, trial: "optuna.trial.Trial") -> dict[str, Plain]:
        return {dimension.key: self._suggest(trial, dimension) for dimension in self.dimensions}

    def _suggest(self, trial: "optuna.trial.Trial", dimension: Dimension) -> Any:
        key, space = dimension.key, self.spaces[dimension.key]
        if hasattr(space, "choices"):
            return decoded(dimension, trial.suggest_categorical(key, space.choices))
        suggest = trial.suggest_int if isinstance(space.low, int) else trial.suggest_float
        return decoded(dimension, suggest(key, space.low, space.high, step=space.step, log=space.log))


def decoded(dimension: Dimension, found: Any) -> Any:
    """What the study's parameter means as a setting."""
    if not dimension.values:
        return found
    if dimension.ordered:
        return sorted(dimension.values)[int(found)]
    return next(value for value in dimension.values if text_of(value) == found)


def encoded(dimension: Dimension, value: Any) -> Any:
    """The study's parameter for a setting."""
    if not dimension.values:
        return value
    return sorted(dimension.values).index(value) if dimension.ordered else text_of(value)


def distribution(dimension: Dimension) -> Any:
    """Ordered values are positions, so that a sampler learns from neighbours; others are names."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.ordered:
        return IntDistribution(0, len(dimension.values) - 1)
    if dimension.values:
        return CategoricalDistribution([text_of(value) for value in dimension.values])
    low, high, step, log = dimension.low, dimension.high, dimension.step, dimension.log
    if dimension.whole:
        return IntDistribution(int(low), int(high), step=int(step or 1), log=log)
    return FloatDistribution(low, high, step=step, log=log)


def make_sampler(name: str, dimensions: list[Dimension], seed: int, parallel: bool = False) -> Any:
    """Optuna's sampler of that name; all of them take two objectives."""
    import optuna

    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=8)
    if name == "tpe":  # few trials, which cost minutes each: start to learn early, and look at the settings together
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=6, multivariate=True, constant_liar=parallel)

    class Grid(optuna.samplers.GridSampler):
        """Ends no study: the sweep counts its trials itself."""

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            pass

    points = {dimension.key: [encoded(dimension, p) for p in dimension.points() or ()] for dimension in dimensions}
    assert grid(dimensions), "preflight refuses a grid without an end"
    return Grid(points, seed=seed)


def open_study(
    folder: Path,
    sweep: SweepSettings,
    name: str,
    dimensions: list[Dimension],
    *,
    seed: int,
    cost: str,
) -> OptunaStudy:
    """The study of this name: a new one, or the one that a killed sweep or another machine began."""
    import warnings

    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    url = sweep.storage or f"sqlite:///{folder / DATABASE}"
    try:
        kept = optuna.storages.get_storage(url)
        study = optuna.create_study(
            storage=kept, study_name=name, directions=["maximize", "minimize"], load_if_exists=True
        )
        begun = len(study.get_trials(deepcopy=False))
    except (SQLAlchemyError, ImportError, ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BootcampError(
            f"sweep.storage: {url} can't be opened ({reason}). Give an optuna URL such as sqlite:///study.db or "
            "postgresql://user@host/database, or leave --storage out."
        ) from None
    # a sampler that starts from its seed again would only repeat itself; the grid has its own memory
    drawn = seed if sweep.sampler == "grid" else seed + begun
    study.sampler = make_sampler(sweep.sampler, dimensions, drawn, parallel=sweep.workers > 1)
    spaces = {dimension.key: distribution(dimension) for dimension in dimensions}
    owner = f"{socket.gethostname()}:{folder.resolve()}"
    return OptunaStudy(study, kept, dimensions, owner, cost, sweep.storage is None, spaces)


def _result(content: dict[str, Plain]) -> TrialResult:
    """JSON knows no numbers as names."""
    curve = content.pop("curve", {})
    epochs = {int(epoch): value for epoch, value in curve.items()} if isinstance(curve, dict) else {}
    return from_plain(TrialResult, {**content, "curve": epochs})
