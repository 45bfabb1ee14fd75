"""The plan of a pipeline: its steps so far, and what each of them depends on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pruning_bootcamp.config import Config, as_dict
from pruning_bootcamp.pipeline.step import Desk, Figures, Step
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.stages import common


@dataclass
class Plan:
    """The steps so far, and whose network comes next."""

    cfg: Config
    steps: list[Step] = field(default_factory=list)
    dense: str = "dense"
    last: str = "dense"
    part: str = ""
    """which of `pipeline.steps` is being added, as 1-prune-structured"""

    def add(
        self,
        name: str,
        title: str,
        stage: PruningStage,
        work: Callable[[Desk], Figures] | None,
        *,
        settings: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
        skipped: str | None = None,
        gives_network: bool = False,
    ) -> str:
        """Its full name; it reads the network of the step before it, and the dense one."""
        full = f"{self.part}-{name}"
        roles = {"dense": self.dense, "before": self.last, **(inputs or {})}
        self.steps.append(Step(full, title, stage, work, settings or {}, roles, skipped))
        if gives_network:
            self.last = full
        return full


def section(cfg: Config, *names: str) -> dict[str, Any]:
    """These sections of the config, as far as they change what comes out."""
    everything = as_dict(cfg)
    if "structured" in names:
        everything["structured"]["round_to"] = common.wanted_round_to(cfg)
    return {name: {k: v for k, v in everything[name].items() if k != "checkpoint_seconds"} for name in names}
