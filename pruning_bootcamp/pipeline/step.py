"""One step of a pipeline: what it depends on, and the work; what a step has at hand while it works."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Recipe, load_checkpoint, save_checkpoint
from pruning_bootcamp.checkpoints.files import read_file, write_file
from pruning_bootcamp.config import Config
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.runs import atomic_path
from pruning_bootcamp.stages import common
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.training.hooks import Hook

NETWORK = "network.pth"

Figures = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """Its result depends on `settings` and on the results of `inputs`, and on nothing else.

    `inputs` is role -> name of an earlier step. A step with a reason in `skipped` has nothing to do.
    """

    name: str
    title: str
    stage: PruningStage | None
    work: Callable[["Desk"], Figures] | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    skipped: str | None = None


@dataclass
class Network:
    """What is handed from step to step."""

    model: nn.Module
    recipe: Recipe
    masks: dict[str, Tensor] = field(default_factory=dict)
    """name -> keep mask"""
    ranges: dict[str, Tensor] | None = None
    """of its activations, where the network was trained for int8"""


@dataclass(frozen=True)
class Done:
    """A finished step: where its files are, and what it measured."""

    key: str
    folder: Path
    figures: Figures
    seconds: float
    peak_memory_mb: float
    first: int = 0
    """the training's step from which the seconds count: where the process that ended it took it up"""


@dataclass
class Desk:
    """What a step works with. Everything it keeps goes into `folder`, atomically; figures are what `work` returns."""

    cfg: Config
    device: torch.device
    splits: Splits
    folder: Path
    key: str
    inputs: Mapping[str, Done]
    watch: Hook
    """a training hook that tells the status how far it is"""

    def figures(self, role: str) -> Figures:
        return self.inputs[role].figures

    def network(self, role: str = "before") -> Network:
        """An input's network, read from its file: a step that goes on after a kill sees the same bits."""
        path = self.inputs[role].folder / NETWORK
        found = load_checkpoint(path, recipe=common.recipe_for(self.cfg, self.splits))
        return Network(found.model, found.recipe, found.masks, found.extra.get("ranges"))

    def keep_network(self, network: Network) -> None:
        """Write the step's network; the next one opens it by `network()`."""
        extra = {} if network.ranges is None else {"ranges": network.ranges}
        save_checkpoint(self.folder / NETWORK, network.model.cpu(), network.recipe, masks=network.masks, extra=extra)

    def tensors(self, role: str, name: str) -> dict[str, dict[str, Tensor]]:
        """What an input kept by `keep_tensors`; empty when there is no such input."""
        if role not in self.inputs:
            return {}
        return read_file(self.inputs[role].folder / name)

    def keep_tensors(self, name: str, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        plain = {kind: {key: value.detach().cpu() for key, value in some.items()} for kind, some in tensors.items()}
        with atomic_path(self.folder / name) as temporary:
            write_file(temporary, plain)


def check_unique(steps: list[Step]) -> None:
    """Names are unique and inputs come earlier: a pipeline is put together by us, so anything else is our bug."""
    seen: set[str] = set()
    for step in steps:
        assert step.name not in seen, step.name
        assert set(step.inputs.values()) <= seen, (step.name, step.inputs)
        seen.add(step.name)
