"""Runtimes timed in turn, a block of passes at a time: what one leaves behind does not fall on the next one's clock."""

import statistics
from collections.abc import Mapping
from dataclasses import replace

from pruning_bootcamp.tools.latency.clock import Candidate, LatencyStats, compare_latencies

_BLOCKS, _PASSES, _SECONDS, _MOST_SECONDS = 15, 5, 0.04, 1.0
_WARM_UP, _WARM_UP_SECONDS = 2, 0.02


def compare_in_blocks(candidates: Mapping[str, Candidate], blocks: int = _BLOCKS) -> dict[str, LatencyStats]:
    """Timings of candidates that disturb each other, as two runtimes do whose idle threads spin on for a while.

    Each has the machine to itself for a block of passes, the first of them unmeasured; every second round of blocks
    goes backwards. `rounds_ms` are the medians of the blocks, and `n` counts these: they are what is compared.
    """
    found: dict[str, list[LatencyStats]] = {name: [] for name in candidates}
    for number in range(blocks):
        for name in candidates if number % 2 == 0 else reversed(list(candidates)):
            alone = {name: candidates[name]}
            block = compare_latencies(
                alone,
                runs=_PASSES,
                min_seconds=_SECONDS,
                max_seconds=_MOST_SECONDS,
                warmup_runs=_WARM_UP,
                warmup_seconds=_WARM_UP_SECONDS,
            )
            found[name].append(block[name])
    return {name: _together(some) for name, some in found.items()}


def _together(blocks: list[LatencyStats]) -> LatencyStats:
    medians = [block.median_ms for block in blocks]
    return replace(
        blocks[0],
        median_ms=statistics.median(medians),
        mean_ms=statistics.fmean(medians),
        std_ms=statistics.stdev(medians) if len(medians) > 1 else 0.0,
        p5_ms=min(block.p5_ms for block in blocks),
        p95_ms=max(block.p95_ms for block in blocks),
        n=len(medians),
        rounds_ms=tuple(medians),
    )
