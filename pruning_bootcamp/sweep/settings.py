"""What a search can be told: the section `sweep`, light enough for `--help`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pruning_bootcamp.schema import between


@dataclass
class SweepSettings:
    """A search over settings: what `sweep` tries, how it chooses, and what accuracy is weighed against."""

    command: Literal["prune-structured", "prune-unstructured", "train"] = "prune-structured"
    """what a trial runs, with this config"""
    space: dict[str, Any] = field(default_factory=dict)
    """key of this config -> the values to try: a list, or {low, high, step, log} (step and log may be left out)"""
    sampler: Literal["grid", "random", "tpe", "nsga2"] = "tpe"
    """grid: every combination; random; tpe: Bayesian; nsga2: genetic"""
    trials: int | None = between(None, 1)
    """how many different settings are run; left out: the whole grid, or 20 for the other samplers"""
    objectives: list[str] = field(default_factory=lambda: ["accuracy", "flops_g"])
    """accuracy (on validation images, as high as possible), and flops_g, latency_ms or size_mb (as low as possible)"""
    early_stopping: bool = True
    """end a trial that is less accurate at an epoch than the median of the finished ones that cost no more"""
    startup_trials: int = between(5, 1)
    """so many finished trials that cost no more must be there before one is stopped"""
    warmup_epochs: int = between(1, 0)
    """no trial is stopped before so many epochs"""
    workers: int = between(1, 1)
    """trials at the same time; each process gets its share of the cores"""
    executor: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: tasks of a Ray cluster, or of a local one"""
    storage: str | None = None
    """the study's database, any optuna URL, for several machines; left out: study.db in the folder"""
    retries: int = between(2, 0)
    """how often a trial whose process was killed is tried again"""
