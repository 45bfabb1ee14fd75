"""Settings of pipelines, their gates, and the files that ship."""

import torch

from pruning_bootcamp.backends import BACKENDS, lacking
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.export_settings import check_export
from pruning_bootcamp.exporters import EXPORTERS
from pruning_bootcamp.flow.compressions import check_order
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.flow.steps.export import FORMATS, formats_in
from pruning_bootcamp.preflight import pruning
from pruning_bootcamp.preflight.training import duration
from pruning_bootcamp.runtime import choose_device


def export(cfg: Config) -> list[Problem]:
    """Problems with the section `export`: unknown formats, and an opset too old for one of them."""
    problems = check_export(cfg.export)
    for name in formats_in(cfg.export.format):
        if name not in EXPORTERS:
            problems += EXPORTERS.missing(name, "export.format", tuple(FORMATS))
            continue
        least = EXPORTERS[name].facts.get("first_opset", 0)
        if cfg.export.opset is not None and cfg.export.opset < least:
            problems.append(
                Problem("export.opset", f"{cfg.export.opset} is too old for {name}, which needs {least} or up.")
            )
    return problems


def backend(cfg: Config) -> list[Problem]:
    """Whether everything that is to run the network exists, and has here what it needs."""
    try:
        device = choose_device(cfg.device)[0]
    except BootcampError:  # said of the device
        device = None
    problems = [problem for name in cfg.profile.backends for problem in _backend(name, device)]
    sizes = [size for size in cfg.profile.more_batch_sizes if size < 1]
    return problems + [
        Problem("profile.more_batch_sizes", f"{size} is not a whole number from 1 up.") for size in sizes
    ]


def _backend(name: str, device: torch.device | None) -> list[Problem]:
    where = "profile.backend"
    if problems := BACKENDS.missing(name, where):
        return problems
    return [Problem(where, f"{name} {reason}.") for reason in lacking(BACKENDS[name], device)]


def steps(cfg: Config) -> list[Problem]:
    """The pipeline's steps by name, in an order that makes sense, and the limits of its gates."""
    g = cfg.gates
    problems = check_order(cfg.pipeline.steps, cfg.structured.only_dead) + duration(
        cfg.quantize.epochs, "quantize.epochs", least=1
    )
    if g.max_accuracy_drop is not None and g.max_accuracy_drop > 100:
        problems.append(Problem("gates.max_accuracy_drop", f"{g.max_accuracy_drop:g} is more than there is to lose."))
    if g.min_accuracy is not None and not task_of(cfg).metric.higher_is_better:
        title = task_of(cfg).metric.title
        problems.append(
            Problem(
                "gates.min_accuracy", f"of {title} less is better, so no least is asked. Set gates.max_accuracy_drop."
            )
        )
    return problems


def pipeline(cfg: Config) -> list[Problem]:
    """The steps, and what each of them needs."""
    problems = steps(cfg)
    if "prune-unstructured" in cfg.pipeline.steps:
        problems += pruning.zeros(cfg, trains=cfg.checkpoint is None)
        if cfg.prune.rewind is not None and "prune-structured" in cfg.pipeline.steps:
            text = "the steps of the training are of the network before channels were cut. Leave one of them out."
            problems.append(Problem("prune.rewind", text))
    if "prune-structured" in cfg.pipeline.steps:
        problems += pruning.channels(cfg)
    if cfg.gates.export_verified and not cfg.export.verify:
        problems.append(
            Problem("gates.export_verified", "can't be met with export.verify=false. Set one of them to the other.")
        )
    return problems
