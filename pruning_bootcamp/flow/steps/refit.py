"""Layers of the pruned network fitted to those of the one before it, in order; a killed run goes on after the last."""

import time
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints.files import read_file
from pruning_bootcamp.checkpoints.stored import table, tensors_in
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.outcomes import Refitted
from pruning_bootcamp.flow.step import StepContext
from pruning_bootcamp.flow.steps.batch_norm import recover_batch_norm
from pruning_bootcamp.flow.steps.cut import KEPT, calibration_images, ready_to_cut, renumbered
from pruning_bootcamp.flow.steps.training import judged
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.models.silent import mute
from pruning_bootcamp.pruning.channels.refit import refit
from pruning_bootcamp.results import Recovery, Refit

PROGRESS = "refit.pth"


def refit_cut(context: StepContext) -> Refitted:
    """Every layer whose inputs the cut changed, fitted in closed form; batch norm re-estimated where some can't be.

    To the network that was trained last: the dense one, or in later cycles the one before the cut (`target`, of which
    `earlier` cuts had left so many channels).
    """
    before, s = context.network("target" if "target" in context.inputs else "dense"), context.cfg.structured
    whole, _ = ready_to_cut(before.model, before.recipe)
    kept = renumbered(context.tensors("cut", KEPT)["channels"], context.tensors("earlier", KEPT).get("channels", {}))
    silent = list(context.tensors("cut", KEPT).get("silent", {}))
    return _refitted(context, whole, kept, silent, images=s.calibration_images, rounds=s.refit_rounds)


def refit_weights(context: StepContext) -> Refitted:
    """The weights that stay, fitted in closed form; batch norm re-estimated where some can't be."""
    dense, p = context.network("dense").model, context.cfg.prune
    return _refitted(context, dense, {}, images=p.calibration_images, rounds=p.refit_rounds)


def _refitted(
    context: StepContext,
    dense: nn.Module,
    kept: Mapping[str, Tensor],
    silent: Collection[str] = (),
    *,
    images: int,
    rounds: int,
) -> Refitted:
    cfg, network = context.cfg, context.network()
    model, dense = network.model.to(context.device), dense.to(context.device)
    begun, saved = time.perf_counter(), time.perf_counter()
    fitted = _go_on(context, model)

    def after(path: str, left: float) -> None:
        nonlocal saved
        fitted[path] = left
        if time.perf_counter() - saved >= cfg.train.checkpoint_seconds:
            _keep(context, model, fitted)
            saved = time.perf_counter()

    def say(number: int, total: int, path: str) -> None:
        LOGGER.info("Refitting %d of %d layers: %s (%.0f s)", number + 1, total, path, time.perf_counter() - begun)

    found = refit(
        dense,
        model,
        kept,
        calibration_images(cfg, context.splits, context.device, images),
        masks=network.masks,
        silent=silent,
        rounds=rounds,
        fitted=fitted,
        seed=cfg.seed,
        say=say,
        after=after,
    )
    mute(model, silent)
    seconds = round(time.perf_counter() - begun, 2)
    left = tuple(f"{path} was not refitted: {why}" for path, why in found.left.items())
    for text in left:
        LOGGER.warning("%s; batch norm makes up for what it can", text)
    recovered = Recovery()
    if left:
        recovered = recover_batch_norm(model, context.network("dense").model, cfg, context.splits, context.device)
    LOGGER.info("Refitted %d layers on %d training %s", len(found.layers), found.images, context.task.noun)
    score = judged(context, network)
    return Refitted(
        val_accuracy=score,
        refit=Refit(layers=len(found.layers), images=found.images, seconds=seconds, left=left),
        fall_backs=left,
        summary=f"{len(found.layers)} layers, validation {context.task.metric.text(score)}",
        batch_norm_reestimated=recovered.batch_norm_reestimated,
        batch_norm=recovered.batch_norm,
    )


def _keep(context: StepContext, model: nn.Module, fitted: Mapping[str, float]) -> None:
    shares = {path: torch.tensor(left, dtype=torch.double) for path, left in fitted.items()}
    context.keep_tensors(PROGRESS, {"fitted": shares, "weights": model.state_dict()})


def _go_on(context: StepContext, model: nn.Module) -> dict[str, float]:
    """The layers that a killed process had fitted, their weights loaded; none where there is no whole file of them."""
    try:
        kept = read_file(context.folder / PROGRESS)
        fitted, weights = (tensors_in(table(kept[name], name)) for name in ("fitted", "weights"))
    except (BootcampError, KeyError, FileNotFoundError):
        return {}
    ours = {name: value.shape for name, value in model.state_dict().items()}
    if {name: value.shape for name, value in weights.items()} != ours or any(
        left.numel() != 1 for left in fitted.values()
    ):
        return {}  # damaged: nothing of it is taken over
    model.load_state_dict(weights)
    LOGGER.info("Going on after %d layers", len(fitted))
    return {path: float(left) for path, left in fitted.items()}
