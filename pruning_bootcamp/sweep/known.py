"""Which study a config asks for, and whether it is over: told without torch, so that typing it again is quick."""

from pathlib import Path

from pruning_bootcamp.config import Config, as_dict, fingerprint
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.results import Study
from pruning_bootcamp.runs import content_hash, read_results
from pruning_bootcamp.sweep import outputs
from pruning_bootcamp.sweep.space import Dimension, grid_size, parse_space

DEFAULT_TRIALS = 20
# The sections of the config that a trial's result depends on: the stages' own, which a test compares.
SECTIONS = {
    "prune-structured": ("data", "model", "train", "structured", "recover", "fine_tune"),
    "prune-unstructured": ("data", "model", "train", "prune", "recover", "fine_tune"),
    "train": ("data", "model", "train"),
}


def already_finished(cfg: Config) -> Study | None:
    """What sweep.yaml says when this very sweep is over; a look only, nothing is written."""
    if cfg.checkpoint is not None and not Path(cfg.checkpoint).is_file():
        return None
    dimensions, problems = parse_space(cfg.sweep.space)
    return None if problems else finished(cfg, name_of(cfg), target(cfg, dimensions))


def folder_of(cfg: Config) -> Path:
    """`save_dir`, or results/sweep/NAME."""
    return Path(cfg.save_dir) if cfg.save_dir else Path("results") / "sweep" / cfg.name


def target(cfg: Config, dimensions: list[Dimension]) -> int:
    """How many different settings to run: never more than there are."""
    size = grid_size(dimensions)
    asked = cfg.sweep.trials or (size if cfg.sweep.sampler == "grid" and size else DEFAULT_TRIALS)
    return asked if size is None else min(asked, size)


def finished(cfg: Config, name: str, trials: int) -> Study | None:
    """What sweep.yaml says, when this very sweep is over and everything it writes is there.

    The drop by which its trial to take was chosen is no part of the study: with another, the choice is made anew.
    """
    folder = folder_of(cfg)
    study = written(folder) if (folder / outputs.TABLE).exists() else None
    if study is None or study.status != "complete" or study.fingerprint != name:
        return None
    return study if study.max_drop == cfg.goal.accuracy_drop and len(study.trials) >= trials else None


def written(folder: Path) -> Study | None:
    """What a sweep wrote there; None where there is nothing, or it is damaged: it is written anew."""
    try:
        return read_results(Study, folder / outputs.SWEEP)
    except BootcampError:
        return None


def name_of(cfg: Config) -> str:
    """A hash of what a study depends on. More trials, other workers or another place to run are the same study."""
    everything, s = as_dict(cfg), cfg.sweep
    searched = ("command", "space", "sampler", "objectives", "early_stopping", "startup_trials", "warmup_epochs")
    parts = {section: everything[section] for section in SECTIONS[s.command]}
    parts |= {"seed": cfg.seed, "profile": everything["profile"]}
    parts |= {name: everything["sweep"][name] for name in searched}
    parts["checkpoint"] = content_hash(Path(cfg.checkpoint)) if cfg.checkpoint else None
    return fingerprint("sweep", parts)
