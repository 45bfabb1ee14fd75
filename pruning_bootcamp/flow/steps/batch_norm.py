"""Batch norm re-estimated after pruning, on training images, judged on others of them: the same wherever it is done."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pruning_bootcamp.config import Config
from pruning_bootcamp.flow.settings import batch_norm_images
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.results import BatchNorm, Recovery
from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.tools.datasets import Splits, calibration_batches, eval_batches
from pruning_bootcamp.training.batch_norm import DenseJudge, Reestimated, apart, has_batch_norm, improve_batch_norm
from pruning_bootcamp.training.recovery import first_images

Improve = Callable[[nn.Module], Reestimated | None]


def improver(
    dense: nn.Module, cfg: Config, splits: Splits, device: torch.device, count: int
) -> tuple[Improve, dict[str, int]]:
    """What improves a pruned network's batch norm on `count` training images, and how many images it uses for what.

    Estimated on augmented images, as in training; judged on others as they are. Both are training images: validation
    is for later choices (the best epoch, a sweep's), and must not have been chosen by before.
    """
    total = len(splits.train)
    estimating, judging = (splits.train.subset(part) for part in apart(first_images(total, total, cfg.seed), count))
    options: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "device": device}
    images = {"estimated_on": len(estimating), "judged_on": len(judging)}
    if len(estimating) < 2 or len(judging) == 0:
        LOGGER.info("Batch-norm statistics kept as they were: %d training images are too few to estimate on", total)
        return lambda _: None, images
    with preserved_rng():
        judge = DenseJudge(
            dense, lambda: (shown for shown, _ in eval_batches(judging, batch_size=256, **options)), task_of(cfg)
        )

    def improve(model: nn.Module) -> Reestimated | None:
        batches = calibration_batches(
            estimating,
            images=len(estimating),
            batch_size=min(128, len(estimating)),
            seed=cfg.seed,
            augment=splits.augment if cfg.train.augment is None else cfg.train.augment,
            **options,
        )
        with preserved_rng():
            return improve_batch_norm(model, judge, batches)

    return improve, images


def recover_batch_norm(
    model: nn.Module, dense: nn.Module, cfg: Config, splits: Splits, device: torch.device
) -> Recovery:
    """Batch norm re-estimated as `recover` of the config says, where the network then decides more as the dense one.

    Nothing known where the config asks for nothing or the network has no batch norm.
    """
    count = batch_norm_images(cfg)
    if count == 0 or not has_batch_norm(model):
        return Recovery()
    improve, images = improver(dense.to(device), cfg, splits, device, count)
    found = improve(model.to(device))
    if found is None:
        return Recovery()
    LOGGER.info(
        "Batch-norm statistics %s on %d training %s: %.2f%% of %d others decided as the dense network does before, "
        "%.2f%% after; divergence from its outputs %.4f before, %.4f after",
        "re-estimated" if found.kept else "kept as they were; re-estimating them was tried",
        images["estimated_on"],
        task_of(cfg).noun,
        found.before.agreement_pct,
        images["judged_on"],
        found.after.agreement_pct,
        found.before.divergence,
        found.after.divergence,
    )
    metrics = BatchNorm(
        estimated_on=images["estimated_on"],
        judged_on=images["judged_on"],
        agreement_pct_before=round(found.before.agreement_pct, 4),
        agreement_pct_after=round(found.after.agreement_pct, 4),
        divergence_before=round(found.before.divergence, 6),
        divergence_after=round(found.after.divergence, 6),
    )
    return Recovery(batch_norm_reestimated=found.kept, batch_norm=metrics)
