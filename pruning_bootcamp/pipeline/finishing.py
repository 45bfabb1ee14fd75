"""The steps around the compression: the dense network; evaluation, the one look at the test split, and export."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pruning_bootcamp.checkpoints import dense_file_bytes, weights_hash
from pruning_bootcamp.config import Config, as_dict
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.evaluation import cost_of, evaluate_on, say_disagreement
from pruning_bootcamp.exporters import deployable_copy
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.memorised import KEY, NO
from pruning_bootcamp.models import build_model, factory_file, is_factory
from pruning_bootcamp.pipeline.plan import Plan, section
from pruning_bootcamp.pipeline.step import Desk, Figures, Network, Step
from pruning_bootcamp.pipeline.training import as_shipped
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.pruning.targets import check_layers, choose_targets
from pruning_bootcamp.runs import content_hash
from pruning_bootcamp.runtime import choose_device, environment
from pruning_bootcamp.stages import common, memorised
from pruning_bootcamp.stages.export import export_network
from pruning_bootcamp.stages.profile import pair_latency
from pruning_bootcamp.tools.datasets import Split, Splits, eval_batches
from pruning_bootcamp.tools.metrics import classification_metrics, compare_metrics
from pruning_bootcamp.training.loop import fit
from pruning_bootcamp.training.quantize import choose_layers

EVALUATION, TEST, EXPORT = "evaluate", "test", "export"


def add_dense(plan: Plan, checkpoint: str | None) -> None:
    """The network that is compressed: trained here, or taken from the checkpoint (its content's hash)."""
    cfg = plan.cfg
    base: dict[str, Any] = {"seed": cfg.seed, "data": as_dict(cfg)["data"], "model": as_dict(cfg)["model"]}
    base["data"].pop("batch_size")
    if is_factory(cfg.model.name):
        base["factory"] = content_hash(factory_file(cfg.model.name))
    if checkpoint is None:
        settings, title, work = base | section(cfg, "train"), "Training the dense network", _train
    else:
        settings, title, work = base | {"checkpoint": checkpoint}, "Opening the dense network", _open
    plan.steps.append(Step(plan.dense, title, None, work, settings))


def check_names(cfg: Config, splits: Splits) -> None:
    """Raise one BootcampError with every layer that settings name and the network has not: before it is trained."""
    if cfg.checkpoint is None:
        recipe = common.recipe_for(cfg, splits)
        model = common.new_network(recipe)
    else:
        model = common.open_network(common.checkpoint_path(cfg.checkpoint), cfg, splits).model
    checks: dict[str, tuple[str, Callable[[], object]]] = {
        "prune-structured": ("structured", lambda: check_layers(model, cfg.structured.exclude)),
        "prune-unstructured": (
            "prune",
            lambda: choose_targets(model, include=cfg.prune.include, exclude=cfg.prune.exclude),
        ),
        "quantize": ("quantize", lambda: choose_layers(model, cfg.quantize.exclude)),
    }
    problems = []
    for step in dict.fromkeys(cfg.pipeline.steps):
        if step in checks:
            where, look = checks[step]
            try:
                look()
            except BootcampError as error:
                problems += [f"{where}.{problem}" for problem in error.problems]
    if problems:
        raise BootcampError(*problems)


def add_evaluation(plan: Plan) -> None:
    """Judged on the validation images; then the test images, once."""
    cfg = plan.cfg
    latency = as_dict(cfg)["profile"] | _machine(cfg) if cfg.gates.min_latency_reduction_pct is not None else None
    roles = {"dense": plan.dense, "before": plan.last}
    stage = PruningStage.EVALUATING
    for name, title, work in (
        (EVALUATION, "Evaluating on the validation images", _evaluate),
        (TEST, "Evaluating on the test images, once", _test),
    ):
        settings = {"latency": latency} if name == EVALUATION else {}
        plan.steps.append(Step(name, title, stage, work, settings, roles))


def _machine(cfg: Config) -> dict[str, Any]:
    """What a latency depends on beside the networks: measured elsewhere, it says nothing about here."""
    here = environment(choose_device(cfg.device)[0])
    return {"device": here["device"], "threads": here["threads"] if cfg.threads is None else cfg.threads}


def add_export(plan: Plan) -> None:
    settings = section(plan.cfg, "export")
    title = f"Exporting: {plan.cfg.export.format}"
    roles = {"dense": plan.dense, "before": plan.last}
    plan.steps.append(Step(EXPORT, title, PruningStage.EXPORTING, _export, settings, roles))


def _train(desk: Desk) -> Figures:
    cfg = desk.cfg
    recipe = common.recipe_for(cfg, desk.splits)
    model = build_model(recipe.model, classes=recipe.classes, in_channels=recipe.in_channels, args=recipe.args)
    result = fit(
        model.to(desk.device),
        desk.splits,
        common.training_settings(cfg),
        device=desk.device,
        folder=desk.folder,
        seed=cfg.seed,
        hooks=[desk.watch],
        fingerprint=desk.key,
    )
    desk.keep_network(Network(model, recipe))
    accuracy = round(result.best_accuracy, 4)
    return {
        "val_accuracy": accuracy,
        KEY: NO,
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "summary": f"validation {accuracy:.2f}%, best of {len(result.history)} epochs",
    }


def _open(desk: Desk) -> Figures:
    path = common.checkpoint_path(desk.cfg.checkpoint)
    found = common.open_network(path, desk.cfg, desk.splits)
    desk.keep_network(Network(found.model, found.recipe, found.masks))
    known = memorised.look(found, desk.cfg, desk.splits, desk.device)
    return {"checkpoint": path.name, **known, "summary": path.name}


def _accuracies(desk: Desk, split: Split) -> tuple[dict[str, Any], dict[str, Any]]:
    """{"accuracy", "loss", "n"} of the dense network and of the final one, as it will be shipped."""
    dense, final = desk.network("dense"), desk.network()
    look: dict[str, Any] = {"device": desk.device, "batch_size": desk.cfg.data.batch_size, "progress": False}
    before = evaluate_on(dense.model.to(desk.device), split, desk.splits, **look)
    with as_shipped(Network(final.model.to(desk.device), final.recipe, final.masks, final.ranges)) as model:
        after = evaluate_on(model, split, desk.splits, **look)
    LOGGER.info("Dense: %.2f%%, compressed: %.2f%% (%d images)", before["accuracy"], after["accuracy"], after["n"])
    return before, after


def _evaluate(desk: Desk) -> Figures:
    cfg, dense, final = desk.cfg, desk.network("dense"), desk.network()
    before, after = _accuracies(desk, desk.splits.val)
    baseline, _ = cost_of(dense.model.cpu(), common.example_input(dense.recipe))
    cost, flops = cost_of(final.model.cpu(), common.example_input(final.recipe), final.masks)
    say_disagreement(flops)
    baseline |= {"accuracy": round(before["accuracy"], 4), "weights": weights_hash(dense.model)}
    figures = {"accuracy": round(after["accuracy"], 4), **cost}
    paired: dict[str, Any] = {}
    if cfg.gates.min_latency_reduction_pct is not None:
        models = {"baseline": deployable_copy(dense.model), "pruned": deployable_copy(final.model)}
        timed = pair_latency(cfg, models, final.recipe, desk.device)
        for where, stats in ((baseline, timed["baseline"]), (figures, timed["pruned"])):
            where |= {"latency_ms": stats.median_ms, "throughput_fps": stats.throughput_fps}
        way = timed["pruned"]
        ratio = way.ratio_to(timed["baseline"])
        assert ratio is not None, "the pair was timed in the same rounds"
        paired = ratio.figures()
        figures["latency_measured"] = (
            f"medians of ratios, {ratio.spread}; {way.n} passes, batch {way.batch_size}, {way.backend} on "
            f"{way.device}, {way.threads} threads"
        )
    compared = compare_metrics(baseline, figures) | paired
    summary = f"validation {after['accuracy']:.2f}%, dense {before['accuracy']:.2f}%"
    return {**figures, **compared, "images": after["n"], "baseline": baseline, "summary": summary}


def _test(desk: Desk) -> Figures:
    before, after = _accuracies(desk, desk.splits.test)
    baseline, found = (
        {"accuracy": round(look["accuracy"], 4), "loss": round(look["loss"], 6)} for look in (before, after)
    )
    return {
        **found,
        **compare_metrics(baseline, found),
        "images": after["n"],
        "baseline": baseline,
        "summary": f"test {after['accuracy']:.2f}%, dense {before['accuracy']:.2f}%",
    }


def _export(desk: Desk) -> Figures:
    final = desk.network()
    try:
        files = export_network(desk.cfg, final.model, final.recipe, final.masks, desk.folder, desk.splits)
    except GoalNotMet:
        shutil.rmtree(desk.folder)  # the files that did pass: where one does not, none ships
        raise
    dense = desk.network("dense").model
    files = {
        name: {**file, "file": Path(file["file"]).name, **_lost(desk, dense, file)} for name, file in files.items()
    }
    sizes = ", ".join(f"{name} {file['size_mb']:.3f} MB" for name, file in files.items())
    return {"files": files, "dense_size_mb": dense_file_bytes(dense) / 1e6, "summary": sizes}


def _lost(desk: Desk, dense: nn.Module, file: Mapping[str, Any]) -> Figures:
    """What a file with numbers of its own loses against the dense network, on the images that it was judged by."""
    if "accuracy" not in file:
        return {}
    look: dict[str, Any] = {"mean": desk.splits.mean, "std": desk.splits.std, "limit": file["agreement_images"]}
    batches = eval_batches(desk.splits.val, batch_size=desk.cfg.data.batch_size, device="cpu", **look)
    before = classification_metrics(dense, batches)["accuracy"]
    return {"dense_accuracy": round(before, 4), **compare_metrics({"accuracy": round(before, 4)}, file)}
