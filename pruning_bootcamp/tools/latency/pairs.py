"""Two networks timed in turn: the median of the paired ratios, and the interval that the noise leaves for it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.results import Comparison

CONFIDENCE = 0.95
# Fewer block medians than these say too little to go on making the blocks longer.
_FEWEST_BLOCKS = 12


@dataclass(frozen=True)
class PairedRatio:
    """Time of the pruned network over the baseline's, round by round: the median, and its 95% interval.

    `n` counts the pairs; where neighbouring rounds were alike the interval is that of the medians of blocks of `block`
    rounds. Of fewer than 6 pairs (or blocks) no such interval exists: it is then 0 to infinity.
    """

    median: float
    low: float
    high: float
    n: int
    block: int = 1

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 1: the one network is quicker than the other, whatever the noise."""
        return not self.low <= 1.0 <= self.high

    @property
    def bounded(self) -> bool:
        """Whether there were enough pairs for an interval; without, `low` is 0 and `high` infinite."""
        return math.isfinite(self.high)

    @property
    def reduction_pct(self) -> float:
        """Percent of the baseline's time that is saved; negative: the pruned network is slower."""
        return 100.0 * (1.0 - self.median)

    @property
    def reduction_interval_pct(self) -> tuple[float, float] | None:
        """The interval of `reduction_pct`, the lower end first; None where there is none."""
        return (100.0 * (1.0 - self.high), 100.0 * (1.0 - self.low)) if self.bounded else None

    @property
    def verdict(self) -> str:
        """faster, slower, or `may be noise`, of the pruned network."""
        if not self.certain:
            return "may be noise"
        return "faster" if self.median < 1 else "slower"

    @property
    def speedup(self) -> str:
        """`3.64x (95%: 3.55 to 3.70, n 60)`: how many times quicker than the baseline."""
        interval = f"95%: {1 / self.high:.2f} to {1 / self.low:.2f}, " if self.bounded else ""
        return f"{1 / self.median:.2f}x ({interval}n {self.n})"

    def as_result(self) -> Comparison:
        """What a comparison of two networks holds of it."""
        low, high = self.reduction_interval_pct or (None, None)
        return Comparison(
            latency_reduction_pct=self.reduction_pct,
            latency_reduction_low_pct=low,
            latency_reduction_high_pct=high,
            latency_pairs=self.n,
            latency_block=self.block,
            speedup=1.0 / self.median,
        )

    @property
    def spread(self) -> str:
        """`95% interval 6.9 to 10.1, n 317 pairs`, of `reduction_pct`."""
        blocks = f" in blocks of {self.block}" if self.block > 1 else ""
        if (interval := self.reduction_interval_pct) is None:
            return f"n {self.n} pairs{blocks}, too few for a 95% interval"
        return f"95% interval {interval[0]:.1f} to {interval[1]:.1f}, n {self.n} pairs{blocks}"

    def __str__(self) -> str:
        return f"{self.reduction_pct:.1f}% ({self.spread})"


def paired_ratio(baseline: Sequence[float], pruned: Sequence[float], block: int = 1) -> PairedRatio:
    """The median of pruned[i] / baseline[i], with its distribution-free interval by order statistics.

    The two are times of the same rounds, so that a slow spell of the machine, which hits both, falls out of the ratio.
    With `block` the interval is taken from the medians of so many consecutive ratios (odd, so that those have the same
    median); a rest that fills no block counts for the median only.
    """
    ratios = _ratios(baseline, pruned)
    median = float(np.median(ratios))
    low, high = 0.0, math.inf
    medians = np.sort(_block_medians(ratios, block))
    if ranks := interval_ranks(len(medians)):
        low, high = (float(medians[rank - 1]) for rank in ranks)
    return PairedRatio(median, min(low, median), max(high, median), len(ratios), block)


def judged_pairs(baseline: Sequence[float], pruned: Sequence[float]) -> PairedRatio:
    """paired_ratio, in blocks as long as it takes for neighbours not to be alike any more."""
    return paired_ratio(baseline, pruned, block_length(_ratios(baseline, pruned)))


def interval_ranks(n: int, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """Ranks (from 1) of the sorted values between which the median lies with at least this confidence; None if n is
    too small. How many of n values lie below the median is binomial (n, 1/2), whatever their distribution."""
    tail = 1.0 - confidence
    limit = math.floor(tail * 2**53) * 2**n // 2**54  # half the tail, in the unit of one of the 2^n outcomes
    below, ways, rank = 0, 1, 0
    while below + ways <= limit:
        below += ways
        ways = ways * (n - rank) // (rank + 1)
        rank += 1
    return (rank, n + 1 - rank) if rank else None


def block_length(ratios: Sequence[float] | np.ndarray) -> int:
    """How many neighbours to take together (odd) until what is above the median says nothing of the next.

    On a busy machine neighbouring rounds are alike, and n of them know less than n that are not. Signs about the
    median, because the interval counts nothing else; the limit is their correlation's 95% under independence.
    """
    length = 1
    while True:
        medians = _block_medians(np.asarray(ratios, dtype=float), length)
        longer = 2 * length + 1
        if len(ratios) // longer < _FEWEST_BLOCKS or _sign_correlation(medians) <= 1.645 / math.sqrt(len(medians)):
            return length
        length = longer


def _ratios(baseline: Sequence[float], pruned: Sequence[float]) -> np.ndarray:
    before, after = np.asarray(baseline, dtype=float), np.asarray(pruned, dtype=float)
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        raise BootcampError(
            f"paired_ratio: {before.size} and {after.size} times are not pairs: time both networks in the same rounds."
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all() and (before > 0).all() and (after > 0).all()):
        raise BootcampError("paired_ratio: some of the times are not above 0 (or not finite): there is no ratio.")
    return after / before


def _block_medians(ratios: np.ndarray, block: int) -> np.ndarray:
    whole = len(ratios) // block * block
    return np.median(ratios[:whole].reshape(-1, block), axis=1)


def _sign_correlation(values: np.ndarray) -> float:
    """Of the signs about the median, each with the next: 0 where they are independent, 1 where they never change."""
    signs = np.sign(values - statistics.median(values.tolist()))
    return float((signs[1:] * signs[:-1]).mean()) if len(signs) > 1 else 0.0
