"""What accuracies say about images that were trained on; by hand, on both sides of every limit."""

import pytest

from pruning_bootcamp.memorised import LIKELY, NO, NO_SIGN, POSSIBLE, Fit, caveat, judge, odds, standard_errors


def test_standard_errors_by_hand() -> None:
    # 90 and 80 of 100: together 0.85, error sqrt(0.85 * 0.15 * 2 / 100) = 0.050498
    assert standard_errors(90, 100, 80, 100) == pytest.approx(0.10 / 0.050498, rel=1e-4)
    assert standard_errors(80, 100, 90, 100) == pytest.approx(-0.10 / 0.050498, rel=1e-4)
    assert standard_errors(100, 30, 100, 70) == 0.0
    assert standard_errors(0, 30, 0, 70) == 0.0


def test_odds_by_hand() -> None:
    # 3 of 4 right; as training images (4 of 4: share 4.5/5) or as test images (1 of 2: share 1.5/3)
    assert odds(Fit(75.0, 100.0, 4), 50.0, 2) == pytest.approx(0.9**3 * 0.1 / 0.5**4, rel=1e-9)
    assert odds(Fit(100.0, 100.0, 10**6), 0.0, 10**6) > 1e300


@pytest.mark.parametrize(
    ("fit", "test", "found"),
    [
        (Fit(99.8, 99.7, 1000), None, POSSIBLE),  # the published ResNet-20 on images held out of its own training set
        (Fit(99.8, 99.7, 1000), (91.73, 10000), LIKELY),
        (Fit(91.5, 99.7, 1000), None, NO_SIGN),  # the same network on images that are new to it
        (Fit(91.5, 99.7, 1000), (91.73, 10000), NO_SIGN),
        (Fit(99.0, 99.2, 1000), (98.9, 10000), NO_SIGN),  # an easy task, on which nothing needs to be memorised
        (Fit(40.0, 41.0, 1000), (39.5, 10000), NO_SIGN),  # a network that has hardly begun to learn
        (Fit(100.0, 100.0, 20), (60.0, 20), LIKELY),  # few images, and a large difference
        (Fit(100.0, 100.0, 20), (90.0, 20), NO_SIGN),  # few images: chance
        (Fit(100.0, 100.0, 12), (75.0, 80), LIKELY),  # of new images 12 of 12 would be right once in 32 times
        (Fit(92.0, 95.0, 1000), (93.0, 10000), NO_SIGN),
        (Fit(100.0, 10.0, 1000), (50.0, 1000), NO_SIGN),  # no training images of its, at least
        (Fit(100.0, 100.0, 1000), (0.0, 10), LIKELY),
    ],
)
def test_as_good_as_on_training_images_and_better_than_on_test_images(
    fit: Fit, test: tuple[float, int] | None, found: str
) -> None:
    assert judge(fit, *(test or ())) == found


def test_what_is_doubtful_is_said_with_every_figure_on_validation_images() -> None:
    assert caveat(LIKELY) == ", which the dense network was probably trained on"
    assert caveat(POSSIBLE) == ", which the dense network may have been trained on"
    assert caveat(NO_SIGN) == caveat(NO) == caveat(None) == ""
