"""Does a network know its validation images? Pure: accuracies in, a word out.

A network is better on images that it was trained on than on new ones. So validation images on which it does as on
training images, and not as on test images, are no new ones: they flatter it, and a drop there says too much.
"""

import math

from pruning_bootcamp.results import Fit

KEY, FIT, HASH = "validation_was_trained_on", "dense_fit", "held_out"
# What KEY may say. "possible": as good as on training images, and the test images were not read.
NO, NO_SIGN, POSSIBLE, LIKELY = "no, it was held out", "no sign of it", "possible", "likely"
NOT_MEASURED = "not measured"  # the task's samples are not right or wrong, one by one

_SAME = 2.0  # standard errors: no more than that may be chance
_ODDS = 10.0  # so many times likelier is strong evidence (Jeffreys)


def as_on_training(fit: Fit) -> bool:
    """Not worse on the validation images than on training images, within chance."""
    return standard_errors(fit.train_accuracy, fit.images, fit.val_accuracy, fit.images) < _SAME


def standard_errors(one: float, images: int, other: float, others: int) -> float:
    """How far the first accuracy (percent of so many images) is above the second, in standard errors."""
    together = (one * images + other * others) / (images + others) / 100
    error = 100 * math.sqrt(max(together * (1 - together), 0.0) * (1 / images + 1 / others))
    return (one - other) / error if error > 0 else 0.0


def odds(fit: Fit, test_accuracy: float, test_images: int) -> float:
    """How many times likelier the validation accuracy is of images like the training ones than of ones like the test's.

    A ratio of binomial likelihoods; half a right and half a wrong image are added, so that no share is 0 or 1.
    """
    known, new = _share(fit.train_accuracy, fit.images), _share(test_accuracy, test_images)
    right = fit.val_accuracy / 100 * fit.images
    logarithm = right * math.log(known / new) + (fit.images - right) * math.log((1 - known) / (1 - new))
    return math.exp(min(logarithm, 700.0))


def _share(accuracy: float, images: int) -> float:
    return (accuracy / 100 * images + 0.5) / (images + 1)


def judge(fit: Fit, test_accuracy: float | None = None, test_images: int = 0) -> str:
    """What KEY says of these accuracies; without one on test images, "possible" is the most that can be said."""
    if not as_on_training(fit):
        return NO_SIGN
    if test_accuracy is None:
        return POSSIBLE
    better = fit.val_accuracy > test_accuracy
    return LIKELY if better and odds(fit, test_accuracy, test_images) > _ODDS else NO_SIGN


def caveat(found: str | None) -> str:
    """What to add where a validation metric is judged, by what KEY says; nothing where nothing speaks against it."""
    words = {POSSIBLE: "may have been", LIKELY: "was probably"}.get(found or NO_SIGN)
    return f", which the dense network {words} trained on" if words else ""
