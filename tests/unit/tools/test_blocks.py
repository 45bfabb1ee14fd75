"""Runtimes in turn, a block at a time: each has the machine to itself, and blocks are what is compared."""

from typing import Any

import pytest

from pruning_bootcamp.tools.latency import LatencyStats, blocks, compare_in_blocks


def test_blocks_alternate_and_their_medians_are_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def alone(candidates: dict[str, Any], **_: Any) -> dict[str, LatencyStats]:
        ((name, (milliseconds, _batch)),) = candidates.items()
        order.append(name)
        slow = 1 + len(order) // 4  # of the machine: alike for both of a round
        one: dict[str, Any] = {"median_ms": slow * milliseconds, "mean_ms": 9.0, "std_ms": 0.0, "n": 7, "threads": 1}
        one |= {"p5_ms": milliseconds, "p95_ms": 99.0, "batch_size": 1, "device": "cpu", "backend": name}
        return {name: LatencyStats(**one)}

    monkeypatch.setattr(blocks, "compare_latencies", alone)
    found = compare_in_blocks({"a": (2.0, None), "b": (1.0, None)}, blocks=8)
    assert order[:6] == ["a", "b", "b", "a", "a", "b"]
    assert found["a"].n == len(found["a"].rounds_ms) == 8
    assert found["a"].backend == "a"
    ratio = found["b"].ratio_to(found["a"])
    assert ratio is not None
    assert ratio.bounded
    assert ratio.median == pytest.approx(0.5, abs=0.1)


def test_real_functions_are_timed() -> None:
    found = compare_in_blocks({"short": lambda: sum(range(100)), "long": lambda: sum(range(20000))}, blocks=6)
    ratio = found["long"].ratio_to(found["short"])
    assert ratio is not None
    assert ratio.verdict == "slower"
    assert ratio.n == 6
