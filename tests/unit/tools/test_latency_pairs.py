"""Paired ratios: ranks from tables, coverage by simulation, and what is called noise."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.tools.latency import LatencyStats, TimedNetwork, flops_latency_analysis
from pruning_bootcamp.tools.latency.pairs import (
    PairedRatio,
    block_length,
    interval_ranks,
    judged_pairs,
    paired_ratio,
)

Series = Callable[[np.random.Generator, int], np.ndarray]


@pytest.mark.parametrize(
    ("n", "ranks"),
    # Conover, Practical Nonparametric Statistics: the sign test's interval for the median at 95%, two-sided
    [(5, None), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (10, (2, 9)), (15, (4, 12)), (20, (6, 15)), (25, (8, 18))],
)
def test_ranks_are_those_of_the_tables(n: int, ranks: tuple[int, int] | None) -> None:
    assert interval_ranks(n) == ranks


@pytest.mark.parametrize("n", [6, 11, 50, 99, 317, 1000, 6001])
def test_ranks_are_the_narrowest_that_scipys_binomial_allows(n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    low, high = interval_ranks(n) or (0, 0)
    assert low + high == n + 1
    assert stats.binomtest(low - 1, n).pvalue <= 0.05 < stats.binomtest(low, n).pvalue
    assert 1 - 2 * stats.binom.cdf(low - 1, n, 0.5) >= 0.95 > 1 - 2 * stats.binom.cdf(low, n, 0.5)


def test_ten_pairs_by_hand() -> None:
    ratios = [0.97, 0.91, 0.95, 1.02, 0.90, 0.94, 0.93, 0.99, 0.92, 0.96]
    found = paired_ratio([2.0] * 10, [2.0 * ratio for ratio in ratios])
    assert (found.n, found.block) == (10, 1)
    assert found.median == pytest.approx(0.945)
    assert (found.low, found.high) == pytest.approx((0.91, 0.99))  # the 2nd and the 9th
    assert found.certain
    assert found.verdict == "faster"
    assert str(found) == "5.5% (95% interval 1.0 to 9.0, n 10 pairs)"
    figures = found.as_result()
    assert figures.latency_reduction_pct == pytest.approx(5.5)
    assert (figures.latency_reduction_low_pct, figures.latency_reduction_high_pct) == pytest.approx((1.0, 9.0))
    assert figures.speedup == pytest.approx(1 / 0.945)
    assert figures.latency_pairs == 10
    slower = paired_ratio([2.0 * ratio for ratio in ratios], [2.0] * 10)
    assert slower.verdict == "slower"
    assert str(slower).startswith("-5.8% (95% interval -9.9 to -1.0")


def test_too_few_pairs_decide_nothing() -> None:
    found = paired_ratio([1.0, 1.0, 1.0], [0.5, 0.5, 0.5])
    assert (found.median, found.low, found.high) == (0.5, 0.0, math.inf)
    assert not found.certain
    assert found.verdict == "may be noise"
    assert str(found) == "50.0% (n 3 pairs, too few for a 95% interval)"
    assert found.as_result().latency_reduction_low_pct is None


def test_the_same_times_are_noise_and_an_interval_that_ends_at_1_too() -> None:
    assert paired_ratio([1.0] * 20, [1.0] * 20).verdict == "may be noise"
    assert not PairedRatio(0.9, 0.8, 1.0, 20).certain
    assert PairedRatio(0.9, 0.8, 0.999, 20).certain
    assert PairedRatio(1.1, 1.001, 1.2, 20).verdict == "slower"


@pytest.mark.parametrize(
    ("baseline", "pruned", "words"),
    [([1.0], [1.0, 2.0], "are not pairs"), ([], [], "are not pairs"), ([1.0, 0.0], [1.0, 1.0], "not above 0")],
)
def test_what_is_no_pair_is_refused(baseline: list[float], pruned: list[float], words: str) -> None:
    with pytest.raises(BootcampError, match=words):
        paired_ratio(baseline, pruned)


def normal(generator: np.random.Generator, n: int) -> np.ndarray:
    return 0.1 * generator.standard_normal(n)


def disturbed(generator: np.random.Generator, n: int) -> np.ndarray:
    """Mostly alike; every fifth pass is disturbed, in one network or the other, by up to many times its time."""
    hit = (generator.random(n) < 0.2) * generator.choice([-1, 1], n)
    return 0.02 * generator.standard_normal(n) + hit * generator.exponential(0.5, n)


def spells(generator: np.random.Generator, n: int) -> np.ndarray:
    """Each round like the one before (a correlation of 0.9)."""
    drawn = generator.standard_normal(n) * math.sqrt(1 - 0.9**2)
    drawn[0] = generator.standard_normal()
    for before, after in pairwise(range(n)):
        drawn[after] += 0.9 * drawn[before]
    return 0.1 * drawn


def coverage(series: Series, n: int, judge: Callable[..., PairedRatio], trials: int = 400) -> float:
    generator = np.random.default_rng(7)
    inside = 0
    for _ in range(trials):
        found = judge(np.ones(n), 0.8 * np.exp(series(generator, n)))
        inside += found.low <= 0.8 <= found.high
    return inside / trials


@pytest.mark.parametrize("series", [normal, disturbed])
@pytest.mark.parametrize("n", [12, 50, 317])
def test_of_independent_pairs_the_interval_holds_the_truth_in_95_of_100(series: Series, n: int) -> None:
    for judge in (paired_ratio, judged_pairs):
        # 400 trials: 3 standard errors are 3.3 points; discrete ranks and pairs taken together only make it wider
        assert 0.917 <= coverage(series, n, judge) <= 0.99


def test_where_rounds_are_alike_blocks_keep_the_promise_that_pairs_break() -> None:
    assert coverage(spells, 1000, paired_ratio) < 0.6
    assert coverage(spells, 1000, judged_pairs) > 0.9
    generator = np.random.default_rng(0)
    assert block_length(np.exp(spells(generator, 1000))) >= 7
    lengths = [block_length(np.exp(normal(generator, 317))) for _ in range(100)]
    assert lengths.count(1) > 85, "independent rounds are judged one by one"
    assert all(length % 2 for length in lengths)
    assert "in blocks of" in str(judged_pairs(np.ones(1000), np.exp(spells(generator, 1000))))


def test_an_equal_noisy_pair_is_noise_and_five_percent_in_many_rounds_is_not() -> None:
    """Both networks share a machine that is now and then 3 times slower: the ranges overlap, the pairs tell."""
    generator = np.random.default_rng(3)

    def times(n: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
        machine = np.where(generator.random(n) < 0.3, 3.0, 1.0)  # slow in the same rounds for both
        return machine * np.exp(normal(generator, n)), factor * machine * np.exp(normal(generator, n))

    verdicts = [judged_pairs(*times(200, 1.0)).verdict for _ in range(200)]
    assert verdicts.count("may be noise") >= 183  # 95% of 200, less 2.3 standard errors
    for factor, verdict in ((0.95, "faster"), (1.05, "slower")):
        found = [judged_pairs(*times(1000, factor)).verdict for _ in range(50)]
        assert found == [verdict] * 50
    before, after = times(1000, 0.95)
    assert np.percentile(after, 95) > np.percentile(before, 5), "p5 to p95 would have called it noise"


def stats(rounds: np.ndarray) -> LatencyStats:
    low, high = np.percentile(rounds, [5, 95])
    middle = float(np.median(rounds))
    return LatencyStats(
        *(middle, middle, 0.1, float(low), float(high), len(rounds), 1, "cpu", 1, "torch"),
        rounds_ms=tuple(rounds.tolist()),
    )


def test_the_analysis_goes_by_the_pairs_not_by_the_ranges() -> None:
    machine = np.where(np.arange(60) % 3 == 0, 3.0, 1.0)
    wobble = 1 + 0.01 * np.sin(np.arange(60) * 1.7)
    dense, pruned = stats(machine), stats(0.65 * machine * wobble)
    assert pruned.p95_ms > dense.p5_ms, "the ranges overlap"
    found = flops_latency_analysis(TimedNetwork(100.0, dense), TimedNetwork(50.0, pruned))
    assert found.certain
    assert found.ratio is not None
    assert found.latency_reduction_pct == found.ratio.reduction_pct == pytest.approx(35.0, abs=0.5)
    assert found.discrepancy_points == pytest.approx(15.0, abs=0.5)
    apart = LatencyStats(*(1.0, 1.0, 0.0, 1.0, 1.0, 30, 1, "cpu", 1, "torch"))
    assert apart.ratio_to(dense) is None, "not of the same rounds"
    assert "rounds_ms" not in to_plain(dense.as_result())
