"""export: deployment files, each checked against the network that it was made from."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Recipe, dense_file_bytes, example_input
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.exporters import EXPORTERS, ExportReport, export_model, proof_of
from pruning_bootcamp.flow.outcomes import Exported
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.flow.step import StepContext
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.results import ExportedFile
from pruning_bootcamp.runs import publish
from pruning_bootcamp.shorthand import comma_separated
from pruning_bootcamp.tasks import Task, evaluate
from pruning_bootcamp.tools.datasets import Split, Splits, eval_batches
from pruning_bootcamp.tools.metrics import compare_metrics

FORMATS = {"both": ("onnx", "torchscript"), "all": tuple(EXPORTERS)}


def files_that_ship(context: StepContext) -> Exported:
    """Every file of the final network; where one does not pass its proof, none is left."""
    final, dense = context.network(), context.network("dense").model
    try:
        files = export_network(context.cfg, final.model, final.recipe, final.masks, context.folder, context.splits)
    except GoalNotMet:
        shutil.rmtree(context.folder)  # the files that did pass
        raise
    shipped = {
        name: replace(_against_dense(context, dense, file), file=Path(file.file).name) for name, file in files.items()
    }
    sizes = ", ".join(f"{name} {file.size_mb:.3f} MB" for name, file in shipped.items())
    return Exported(files=shipped, dense_size_mb=dense_file_bytes(dense) / 1e6, summary=sizes)


def file_beside(context: StepContext, name: str, folder: Path) -> Exported:
    """A file of the network in this format, put in the folder as soon as it passed its proof; the step keeps it too."""
    cfg = replace(context.cfg, export=replace(context.cfg.export, format=name))
    network, splits = context.network(), context.splits if needs_images(cfg) else None
    found = export_network(cfg, network.model, network.recipe, network.masks, folder, splits)
    files = {name: replace(file, file=Path(file.file).name) for name, file in found.items()}
    for file in files.values():
        publish(folder / file.file, context.folder / file.file)
    return Exported(files=files, summary=", ".join(f"{file.size_mb:.3f} MB" for file in files.values()))


def _against_dense(context: StepContext, dense: nn.Module, file: ExportedFile) -> ExportedFile:
    """With what a file with numbers of its own loses against the dense network, on the images that it was judged by."""
    if file.accuracy is None:
        return file
    splits = context.splits
    options: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "limit": file.agreement_images}
    batches = eval_batches(splits.val, batch_size=context.cfg.data.batch_size, device="cpu", **options)
    task = context.task
    before = round(evaluate(dense, batches, task).score, 4)
    compared = compare_metrics(
        {"accuracy": before}, {"accuracy": file.accuracy}, higher_is_better=task.metric.higher_is_better
    )
    return replace(file, dense_accuracy=before, accuracy_drop=compared["accuracy_drop"])


def export_network(
    cfg: Config,
    model: nn.Module,
    recipe: Recipe,
    masks: Mapping[str, Tensor] | None,
    folder: Path,
    splits: Splits | None,
) -> dict[str, ExportedFile]:
    """The files that the config asks for, in `folder`; of each, what was written and how it was verified.

    int8 is calibrated on images of the train split, and what is judged by its choices is judged on images of the
    validation split, all without labels; by the labels its own accuracy there is counted.
    """
    calibration, validation, labels = _images_for(cfg, splits)
    used = calibration if calibration is not None else validation
    if used is not None and tuple(used.shape[1:]) != tuple(recipe.input_shape):
        raise BootcampError(
            f"export: the network takes inputs of {recipe.input_shape}, and the data's are {tuple(used.shape[1:])}. "
            "Give the config that it was trained with: -c FILE."
        )
    reports, task = {}, task_of(cfg)
    for name in _formats(cfg):
        report = export_model(
            model,
            example_input(recipe, 2),
            folder,
            replace(cfg.export, pad_to=None),  # the network that came here is as wide as its files
            format=name,
            examples=validation if _proof(name, cfg) == "agreement" else None,
            calibration=calibration,
            recipe=recipe,
            masks=masks,
            args=_settings(name, cfg),
            task=task,
        )
        LOGGER.info("%s", report)
        reports[name] = _metrics(report, labels, task)
        if (accuracy := reports[name].accuracy) is not None:
            LOGGER.info("The file's %s on these %s: %s", task.metric.title, task.noun, task.metric.text(accuracy))
    return reports


def _formats(cfg: Config) -> tuple[str, ...]:
    return formats_in(cfg.export.format)


def formats_in(text: str) -> tuple[str, ...]:
    """The formats that `onnx`, `both`, `all` or a list such as `int8,sparse` name, each once."""
    return tuple(dict.fromkeys(inner for name in comma_separated(text) for inner in FORMATS.get(name, (name,))))


def _settings(name: str, cfg: Config) -> dict[str, Plain]:
    """What the config says for this format's own settings."""
    e = cfg.export
    said = {"opset": e.opset, "values": e.sparse_values, "reduce_range": e.int8_reduce_range}
    return {key: value for key, value in said.items() if key in EXPORTERS[name].settings and value is not None}


def is_calibrated(cfg: Config) -> bool:
    """Whether a format that the config asks for rounds activations, to ranges measured on real images."""
    return any("calibration" in EXPORTERS[name].facts.get("needs", ()) for name in _formats(cfg))


def _judged(cfg: Config) -> bool:
    return cfg.export.verify and any(_proof(name, cfg) == "agreement" for name in _formats(cfg))


def needs_images(cfg: Config) -> bool:
    """Whether a format that the config asks for is calibrated or judged on real images."""
    return is_calibrated(cfg) or _judged(cfg)


def _images_for(cfg: Config, splits: Splits | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(calibration images, validation images, their labels), each None where no chosen format needs it."""
    if splits is None:
        return None, None, None
    none = (None, None)
    calibration, _ = _images(splits.train, splits, cfg.export.calibration_images) if is_calibrated(cfg) else none
    validation, labels = _images(splits.val, splits, cfg.export.agreement_images) if _judged(cfg) else none
    if calibration is not None:
        noun = task_of(cfg).noun
        LOGGER.info("int8: calibrating on %d training %s, without their labels", len(calibration), noun)
    return calibration, validation, labels


def _proof(name: str, cfg: Config) -> str:
    return proof_of(name, _settings(name, cfg))


def _images(split: Split, splits: Splits, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` images, spread evenly over the split, and their labels."""
    batches = eval_batches(split, batch_size=256, mean=splits.mean, std=splits.std, device="cpu", limit=count)
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def _metrics(report: ExportReport, labels: Tensor | None, task: Task) -> ExportedFile:
    file = ExportedFile(
        file=str(report.path),
        size_mb=round(report.size_mb, 6),
        verified=report.verified,
        max_difference=report.max_difference,
        relative_difference=report.relative_difference,
        batch_sizes=report.batch_sizes,
        new_process=report.new_process,
    )
    if (dense_mb := report.dense_mb) is not None:
        file = replace(file, dense_mb=round(dense_mb, 6), times_smaller=round(dense_mb / report.size_mb, 4))
    if report.notes:
        zeroed, emptied = dict(report.zeroed) or None, dict(report.emptied) or None
        file = replace(file, zeroed_weights=zeroed, emptied_filters=emptied, notes=report.notes)
    if report.agreement is not None:
        file = replace(file, agreement=report.agreement, agreement_images=report.images)
    if report.outputs is not None and labels is not None:
        sums = task.measure(report.outputs, labels).tolist()
        file = replace(file, accuracy=round(task.score(sums, len(labels)), 4))
    return file
