"""sensitivity.yaml, sweep.yaml and search.yaml: what was tried, one point or one trial after the other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pruning_bootcamp.plain import Part, Plain, beside, from_plain, to_plain
from pruning_bootcamp.results.metric import ACCURACY, Metric
from pruning_bootcamp.results.network import Environment
from pruning_bootcamp.results.run import Known

TRIALS = "trials"
"""The folder of the trials of a sweep, or of a search"""


@dataclass(frozen=True)
class Quality(Part):
    """How good a network is on the validation images: percent right, mean cross-entropy."""

    accuracy: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class ScanPoint(Part):
    """What a network is worth with one place pruned to a sparsity."""

    sparsity: float
    accuracy: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class ScanRow(Part):
    """A layer or block pruned alone; its weights and their number."""

    name: str
    weights: tuple[str, ...]
    size: int
    points: tuple[ScanPoint, ...]


@dataclass(frozen=True, kw_only=True)
class Scan(Part):
    """sensitivity.yaml: one place pruned at a time, on so many validation images."""

    by: str
    score: str
    pattern: str
    split: str
    images: int
    noun: str | None = None
    """what the `images` are called"""
    metric: Metric | None = None
    """what stands in the file where else the accuracy does; None: the accuracy"""
    dense: Quality
    sparsities: tuple[float, ...]
    rows: tuple[ScanRow, ...]

    @property
    def judged(self) -> Metric:
        """What the networks are judged by."""
        return self.metric or ACCURACY

    @property
    def judged_on(self) -> str:
        """So many validation images, in words."""
        return f"{self.images} validation {self.noun or 'images'}"

    def points_lost(self, row: ScanRow) -> list[float]:
        """What each sparsity of a row costs, in points of the metric; below 0 where the pruned network does better."""
        return [self.judged.lost(self.dense.accuracy, point.accuracy) for point in row.points]


def scan_as_written(scan: Scan) -> dict[str, Plain]:
    """What sensitivity.yaml holds: the metric under its own name."""
    return _renamed(to_plain(scan), ACCURACY.name, scan.judged.name)


def scan_as_read(content: Mapping[str, Plain], where: str) -> Scan:
    """The scan in a sensitivity.yaml; a BootcampError where it is damaged."""
    metric = content.get("metric")
    name = metric.get("name") if isinstance(metric, Mapping) else None
    return from_plain(Scan, _renamed(dict(content), name, ACCURACY.name), where)


def _renamed(content: Any, before: Any, after: str) -> Any:
    """The metrics of a network, which stand beside its loss, by another name."""
    if isinstance(content, list):
        return [_renamed(inner, before, after) for inner in content]
    if not isinstance(content, dict):
        return content
    named = {before: after} if "loss" in content else {}
    return {named.get(key, key): _renamed(inner, before, after) for key, inner in content.items()}


@dataclass(frozen=True, kw_only=True)
class Trial(Part):
    """A trial of a sweep; `params`: config key -> value; `values`: metric -> value, on validation images."""

    number: int
    state: str
    params: dict[str, Plain]
    values: dict[str, float]
    folder: str
    seconds: float
    host: str | None = None
    reason: str | None = None
    latency_way: str | None = None
    """how latency_ms was measured"""


@dataclass(frozen=True)
class TrialResult(Part):
    """trial.yaml: what a trial came to."""

    number: int
    state: str
    """complete, pruned (stopped early), failed, or halted (by the machine, not by its settings: to be tried again)"""
    values: dict[str, float] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    """epoch -> validation accuracy"""
    weight: float | None = beside("number")
    """what early stopping compares trials by"""
    reason: str = ""
    seconds: float = 0.0
    fingerprint: str | None = None
    latency_way: str | None = None
    """how latency_ms was measured"""


@dataclass(frozen=True, kw_only=True)
class Objective(Part):
    name: str
    direction: str


@dataclass(frozen=True, kw_only=True)
class Repeat(Part):
    """A suggestion whose settings another trial had."""

    number: int
    of: int


@dataclass(frozen=True, kw_only=True)
class Dense(Known):
    """The dense network of a sweep, by the metrics that trials are compared by."""

    accuracy: float
    flops_g: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    params_m: float | None = None
    sparsity: float | None = None
    latency_way: str | None = None
    """how latency_ms was measured"""

    @property
    def values(self) -> dict[str, float]:
        """metric -> value, as of a trial"""
        named = ("accuracy", "flops_g", "latency_ms", "size_mb", "params_m", "sparsity")
        return {name: value for name in named if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class Study(Part):
    """sweep.yaml."""

    name: str
    command: str
    sampler: str
    space: dict[str, Plain]
    objectives: tuple[Objective, ...]
    split: str
    max_drop: float
    dense: Dense | None
    seed: int
    trials: tuple[Trial, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    pareto: tuple[int, ...] = ()
    hypervolume: float | None = None
    hypervolume_reference: dict[str, float] | None = None
    chosen: int | None = beside("chosen_because")
    chosen_because: str | None = None
    chosen_keeps_accuracy: bool | None = None
    fingerprint: str | None = None
    status: str | None = None
    environment: Environment | None = None


@dataclass(frozen=True, kw_only=True)
class SearchTrial(Part):
    """A share that was cut, and what that cost on validation samples."""

    share: float
    drop: float | None
    """points of the task's metric; None: it can't be cut, `why`"""
    reached: float | None = None
    """the share that was really saved"""
    why: str | None = None


@dataclass(frozen=True, kw_only=True)
class Search(Part):
    """search.yaml: as much as may be cut within so many points."""

    limit: float
    by: str
    """what is cut: latency_reduction or flops_reduction"""
    trials: tuple[SearchTrial, ...]

    @property
    def best(self) -> SearchTrial | None:
        """The largest share that keeps within the limit."""
        return max(filter(self.allows, self.trials), key=lambda trial: trial.share, default=None)

    def allows(self, trial: SearchTrial) -> bool:
        """Whether the trial's network keeps within the limit; what can't be cut does not."""
        return trial.drop is not None and trial.drop <= self.limit
