"""A config before anything runs: names, settings, durations, files. All problems at once."""

from collections.abc import Callable, Mapping

from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.flow.steps.scan import check_scan, check_sparsities
from pruning_bootcamp.preflight import basics, pruning, searching, shipping, training
from pruning_bootcamp.schema import shown


def check(cfg: Config, command: str, where: str) -> None:
    """Raise one BootcampError with everything that would stop `command`; settings are put in their right types."""
    problems: list[Problem] = []
    for part in CHECKS[command]:
        try:
            problems += part(cfg)
        except OSError as error:  # a name longer than the file system takes, a file where a folder is needed
            problems.append(Problem(shown(str(error.filename)), f"can't be looked up ({error.strerror})."))
    if problems:
        raise BootcampError(*problems, where=where)


def _trials(cfg: Config) -> list[Problem]:
    """What the trials' own command wants of the config."""
    return searching.found_by(CHECKS[cfg.sweep.command], cfg)


def _search(cfg: Config) -> list[Problem]:
    return searching.search(cfg, CHECKS[cfg.sweep.command])


def _search_if_any(cfg: Config) -> list[Problem]:
    return _search(cfg) if cfg.sweep.space else []


_EVERY = (basics.task, basics.data, basics.model, basics.device, basics.save_dir)
_OPENING = (*_EVERY, basics.checkpoint)
_TRAINING = (*_EVERY, training.train)
_PRUNING = (*_TRAINING, basics.checkpoint, training.fine_tune)
_SHIPPING = (shipping.export, shipping.backend)
CHECKS: Mapping[str, tuple[Callable[[Config], list[Problem]], ...]] = {
    "quickstart": (*_TRAINING, training.fine_tune, pruning.channels, *_SHIPPING, basics.reads_test),
    "train": _TRAINING,
    "eval": (*_OPENING, shipping.backend),
    "prune-unstructured": (*_PRUNING, pruning.zeros),
    "prune-structured": (*_PRUNING, pruning.channels, shipping.backend),
    "pipeline run": (*_PRUNING, shipping.pipeline, *_SHIPPING, basics.reads_test),
    "sensitivity": (*_OPENING, check_scan),
    "sweep": (basics.by_accuracy, _trials, _search, shipping.backend),
    "export": (*_OPENING, shipping.export),
    "profile": (*_OPENING, shipping.backend),
    "validate": (
        *(*_PRUNING, pruning.zeros, pruning.channels, shipping.steps, *_SHIPPING),
        *(check_sparsities, _search_if_any),
    ),
}
