"""One step of a plan: what it depends on, the work, and what a step has at hand while it works."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import NeedsRecipeError, Recipe, load_checkpoint, save_checkpoint
from pruning_bootcamp.checkpoints.files import read_file, write_file
from pruning_bootcamp.checkpoints.stored import table, tensors_in
from pruning_bootcamp.config import Config
from pruning_bootcamp.flow.outcomes import Outcome
from pruning_bootcamp.flow.start import recipe_for, task_of
from pruning_bootcamp.plain import Plain, to_plain
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.runs import atomic_path
from pruning_bootcamp.tasks import Task
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.tools.metrics import compute_sparsity
from pruning_bootcamp.training.hooks import Hook

NETWORK = "network.pth"

R = TypeVar("R", bound=Outcome)


@dataclass
class Network:
    """What is handed from step to step."""

    model: nn.Module
    recipe: Recipe
    masks: dict[str, Tensor] = field(default_factory=dict)
    """name -> keep mask"""
    ranges: dict[str, Tensor] | None = None
    """of its activations, where the network was trained for int8"""

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that its masks prune."""
        return compute_sparsity(self.model, self.masks).total if self.masks else 0.0


@dataclass(frozen=True)
class Step(Generic[R]):
    """Its outcome depends on `settings` and on the results of `inputs`, and on nothing else.

    `inputs` is role -> name of an earlier step. A step with a reason in `skipped` has nothing to do.
    """

    name: str
    title: str
    work: Callable[[Any], R] | None
    """what it is given is what the machine makes for it: a StepContext in every command"""
    gives: type[R]
    stage: PruningStage | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    skipped: str | None = None
    gives_network: bool = False
    together: bool = False
    """under torchrun every process works on it; otherwise the leader alone does, and the others read what it kept"""
    cycle: int = 0
    """of pruning, from 1; 0: in none"""
    least: tuple[str, float] | None = None
    """(an earlier step, a sparsity): not done where that step's network is as sparse already"""


@dataclass(frozen=True)
class Done(Generic[R]):
    """A finished step: where its files are, and what came out."""

    step: str
    key: str
    folder: Path
    outcome: R
    seconds: float
    peak_memory_mb: float
    first: int = 0
    """the training's step from which the seconds count: where the process that ended it took it up"""
    network: Path | None = None
    """the file of its network, where it has one"""


@dataclass
class StepContext:
    """What a step works with. What it keeps goes into `folder`, atomically; its outcome is what `work` returns."""

    cfg: Config
    device: torch.device
    data: Callable[[], Splits]
    folder: Path
    logs: Path
    """for the curves of a training"""
    key: str
    inputs: Mapping[str, Done[Any]]
    hooks: list[Hook]
    """of whoever looks on while it trains"""
    opened: dict[Path, Network]
    """networks that steps of this process have read"""
    leads: bool = True
    """whether this process is the one that writes"""
    tell: Callable[[int, int, str], None] = lambda done, total, text: None
    """how far its work is, for the status: so many of how many are done, and which is next"""

    @property
    def is_shown(self) -> bool:
        """Whether the status is shown while it works, so that no bar is to be drawn."""
        return any(hook.shows_progress for hook in self.hooks)

    @property
    def splits(self) -> Splits:
        """The data, opened when first asked for."""
        return self.data()

    @property
    def task(self) -> Task:
        """The config's task, opened."""
        return task_of(self.cfg)

    def outcome(self, role: str, kind: type[R]) -> R:
        """What an input came to."""
        found = self.inputs[role].outcome
        assert isinstance(found, kind), (role, kind)
        return found

    def network(self, role: str = "before") -> Network:
        """An input's network, read from its file: a step that goes on after a kill sees the same bits."""
        path = self.inputs[role].network
        assert path is not None, role
        if path not in self.opened:
            needed = {done.network for done in self.inputs.values()}
            for other in self.opened.keys() - needed:
                del self.opened[other]
            self.opened[path] = read_network(path, lambda: recipe_for(self.cfg, self.splits))
        found = self.opened[path]
        return Network(detached_copy(found.model), found.recipe, dict(found.masks), found.ranges)

    def keep_network(self, network: Network, more: Mapping[str, Plain] | None = None) -> None:
        """Write the step's network; the next one opens it by `network()`.

        With it goes what is known of the dense network and the validation images, for whoever begins with the file.
        """
        if not self.leads:
            return
        known = to_plain(self.inputs["dense"].outcome.known) if "dense" in self.inputs else {}
        save_checkpoint(
            self.folder / NETWORK,
            network.model.cpu(),
            network.recipe,
            masks=network.masks or None,
            metrics={**known, **(more or {})},
            extra={} if network.ranges is None else {"ranges": network.ranges},
        )

    def tensors(self, role: str, name: str) -> dict[str, dict[str, Tensor]]:
        """What an input kept by `keep_tensors`; empty when there is no such input."""
        kept = read_file(self.inputs[role].folder / name) if role in self.inputs else {}
        return {kind: tensors_in(table(some, kind)) for kind, some in kept.items()}

    def keep_tensors(self, name: str, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Write {kind: {name: tensor}} into the folder, detached and on the CPU; only the leading process does."""
        if self.leads:
            plain = {kind: {key: value.detach().cpu() for key, value in some.items()} for kind, some in tensors.items()}
            with atomic_path(self.folder / name) as temporary:
                write_file(temporary, plain)


def read_network(path: Path, recipe: Callable[[], Recipe]) -> Network:
    """The network in a checkpoint that a step kept, or began with; `recipe()` builds one that doesn't say how."""
    try:
        found = load_checkpoint(path)
    except NeedsRecipeError:
        found = load_checkpoint(path, recipe=recipe())
    ranges = found.extra.get("ranges")
    return Network(
        found.model, found.recipe, found.masks, None if ranges is None else tensors_in(table(ranges, "ranges"))
    )
