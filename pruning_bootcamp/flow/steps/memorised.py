"""Whether the dense network was trained on the validation images: looked up or measured, said, and put on record.

Networks of ours bring a hash of the images that were held out; any other is measured. The test images are never read
for this: their accuracy is used once it is known.
"""

from typing import Any

import torch

from pruning_bootcamp.checkpoints import Checkpoint
from pruning_bootcamp.config import Config
from pruning_bootcamp.evaluation import evaluate_on
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.memorised import HASH, LIKELY, NO, NOT_MEASURED, POSSIBLE, judge
from pruning_bootcamp.results import Fit, Known
from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.tools.datasets import Splits
from pruning_bootcamp.tools.datasets.selection import take
from pruning_bootcamp.tools.datasets.splits import HELD_OUT

MOST_IMAGES = 1000


def check_validation_images(
    dense: Checkpoint, cfg: Config, splits: Splits, device: torch.device, testing: bool | None = None
) -> Known:
    """Whether the dense network knows its validation images; a warning where it may. `testing` as for `open_data`."""
    name = splits.val.content_hash()
    if dense.metrics.get(HASH) == name:
        return Known(validation_was_trained_on=NO, held_out=name)
    if not task_of(cfg).metric.share_of_samples:  # the odds are those of samples that are right or wrong
        return Known(validation_was_trained_on=NOT_MEASURED)
    fit = _measure(dense, cfg, splits, device)
    word = judge(fit)
    if word == POSSIBLE:
        LOGGER.info("%s", _warning(fit, splits, cfg.goal.evaluate_test if testing is None else testing))
    return Known(validation_was_trained_on=word, dense_fit=fit)


def _measure(dense: Checkpoint, cfg: Config, splits: Splits, device: torch.device) -> Fit:
    count = min(len(splits.val), len(splits.train), MOST_IMAGES)
    accuracies = []
    with preserved_rng():
        for split in (splits.val, splits.train):
            part = split.subset(take(split.labels, count, seed=0))
            how: dict[str, Any] = {"device": device, "batch_size": cfg.data.batch_size, "progress": False}
            accuracies.append(round(evaluate_on(dense.model, part, splits, task=task_of(cfg), **how).score, 4))
    dense.model.cpu()
    return Fit(accuracies[0], accuracies[1], count)


def _warning(fit: Fit, splits: Splits, testing: bool) -> str:
    why = ", which are part of train/ for whoever trained it elsewhere" if splits.val_from == HELD_OUT else ""
    meaning = (
        "Validation metrics may flatter it; what is lost is judged on the test images."
        if testing
        else "Then it has no fair accuracy here, and what a pruned network loses against it is overstated."
    )
    return (
        f"Warning: the dense network puts {fit.val_accuracy:.2f}% of {fit.images:,} validation images into their class "
        f"and {fit.train_accuracy:.2f}% of as many training images: it may have been trained on the validation "
        f"images{why}. {meaning}"
    )


def settle(fit: Fit, test_accuracy: float, test_images: int) -> str:
    """The last word, now that the dense network's test accuracy is known; a warning where it is "likely"."""
    found = judge(fit, test_accuracy, test_images)
    if found == LIKELY:
        LOGGER.info(
            "Warning: the dense network was probably trained on its validation images: %.2f%% there, %.2f%% on "
            "training images, %.2f%% on test images. What was lost is said on the test images; choices on validation "
            "images were made on known ones.",
            fit.val_accuracy,
            fit.train_accuracy,
            test_accuracy,
        )
    return found
