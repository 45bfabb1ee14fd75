"""Who is stopped early: the inaccurate among those that cost as much, never the cheapest."""

from pruning_bootcamp.sweep.median_pruner import Finished, is_below_median
from pruning_bootcamp.sweep.settings import SweepSettings

RULE = SweepSettings(startup_trials=3, warmup_epochs=1)
OTHERS = [Finished(1.0, {1: 80.0, 2: 90.0}), Finished(1.0, {1: 60.0, 2: 80.0}), Finished(1.0, {1: 70.0, 2: 85.0})]


def test_below_the_median_of_those_that_cost_no_more_is_below_median() -> None:
    assert is_below_median({1: 65.0}, 1.0, OTHERS, RULE)
    assert not is_below_median({1: 75.0}, 1.0, OTHERS, RULE)
    assert is_below_median({1: 75.0, 2: 80.0}, 2.0, OTHERS, RULE)


def test_a_cheaper_one_is_never_stopped() -> None:
    assert not is_below_median({1: 1.0}, 0.9, OTHERS, RULE)


def test_the_best_epoch_so_far_counts() -> None:
    assert not is_below_median({1: 88.0, 2: 10.0}, 1.0, OTHERS, RULE)


def test_too_few_to_compare_with_and_too_early_an_epoch_stop_nobody() -> None:
    assert not is_below_median({1: 1.0}, 1.0, OTHERS[:2], RULE)
    assert not is_below_median({1: 1.0}, 1.0, OTHERS, SweepSettings(startup_trials=3, warmup_epochs=2))
