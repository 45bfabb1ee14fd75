"""Everything that can be named in a config, by kind, with its first docstring line; users' own functions too."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pruning_bootcamp.backends import BACKENDS, lacking
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError, unknown
from pruning_bootcamp.exporters import EXPORTERS
from pruning_bootcamp.flow.compressions import COMPRESSIONS
from pruning_bootcamp.models import MODELS
from pruning_bootcamp.plugins import is_plugin, source_of
from pruning_bootcamp.pruning.channels.scores import CHANNEL_SCORES
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.pruning.weights.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.weights.schedules import SCHEDULES
from pruning_bootcamp.pruning.weights.scores import SCORES
from pruning_bootcamp.registry import Entry, Registry
from pruning_bootcamp.runtime import choose_device
from pruning_bootcamp.shorthand import comma_separated
from pruning_bootcamp.tasks import TASKS
from pruning_bootcamp.tools.datasets import AUGMENTATIONS, DATASETS
from pruning_bootcamp.training.optim import LR_SCHEDULES, OPTIMIZERS

KINDS: dict[str, tuple[Registry, str]] = {
    "tasks": (TASKS, "task; also FILE.py:task of your own"),
    "datasets": (DATASETS, "data.name; also FILE.py:function of your own"),
    "models": (MODELS, "model.name; also any torchvision or timm name, and module:factory"),
    "optimizers": (OPTIMIZERS, "train.optimizer"),
    "lr_schedules": (LR_SCHEDULES, "train.schedule, fine_tune.schedule"),
    "augmentations": (AUGMENTATIONS, "train.augment, a list"),
    "scores": (SCORES, "prune.score, --method of prune-unstructured; short: l1, l2, global"),
    "allocations": (ALLOCATIONS, "prune.allocation, --mode; short: layerwise"),
    "patterns": (PATTERNS, "prune.pattern, --pattern; short: 2:4"),
    "solvers": (SOLVERS, "prune.solver, --solver"),
    "schedules": (SCHEDULES, "prune.schedule, --schedule"),
    "channel_scores": (CHANNEL_SCORES, "structured.score, --method of prune-structured"),
    "pipeline_steps": (COMPRESSIONS, "pipeline.steps, a list in order"),
    "formats": (EXPORTERS, "export.format, --format; also both and all"),
    "backends": (BACKENDS, "profile.backend, --backend, several with commas; also FILE.py:function of your own"),
}


def names_in(cfg: Config) -> dict[str, list[str]]:
    """Kind -> the names that a config asks for."""
    p, t, f = cfg.prune, cfg.train, cfg.fine_tune
    return {
        "datasets": [cfg.data.name],
        "optimizers": [t.optimizer.name],
        "lr_schedules": [t.schedule.name, *([f.schedule.name] if f.schedule else [])],
        "augmentations": [*(t.augment or []), *(f.augment or [])],
        "scores": [p.score.name],
        "allocations": [p.allocation.name],
        "patterns": [p.pattern.name],
        "solvers": [p.solver.name],
        "schedules": [p.schedule.name],
        "channel_scores": [cfg.structured.score.name] if cfg.structured.score else [],
        "formats": list(comma_separated(cfg.export.format)),
        "backends": list(cfg.profile.backends),
    }


def show(kind: str | None = None, cfg: Config | None = None) -> None:
    """A table a kind: name, settings with their defaults, what it is.

    Ours, then what installed packages bring, then functions of the user's own that the config names.
    """
    if kind is not None and kind not in KINDS:
        raise BootcampError(unknown("kind", kind, KINDS), where="list")
    console = Console()
    for name in [kind] if kind else KINDS:
        registry, where = KINDS[name]
        console.print(f"\n[bold]{name}[/bold]  ({where})", highlight=False)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("name", "settings", "what it is"):
            table.add_column(title, overflow="fold")
        for entry in registry.entries():
            _add(table, entry)
        own = [] if cfg is None else filter(is_plugin, names_in(cfg).get(name, []))
        for brought in dict.fromkeys([*registry.installed(), *own]):
            try:
                _add(table, registry[brought])
            except BootcampError as error:  # the others are still worth showing
                table.add_row(Text(brought), "", Text(str(error)))
        console.print(table, highlight=False)


def _add(table: Table, entry: Entry[Any]) -> None:
    settings = ", ".join(
        setting.name if setting.required else f"{setting.name}={setting.default!r}"
        for setting in entry.settings.values()
    )
    origin = "" if entry.brought is None else f" ({source_of(entry.function)})"
    missing = "".join(f" ({reason})" for reason in lacking(entry, choose_device()[0]))
    table.add_row(Text(entry.name), Text(settings), Text((entry.summary + origin + missing).strip()))
