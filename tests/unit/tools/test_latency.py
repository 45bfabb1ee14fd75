"""Timing against sleeps of known length, tables against counts, and the gap's causes against their sum."""

import gc
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.latency import (
    OUTSIDE,
    LatencyStats,
    LayerLatency,
    TimedNetwork,
    compare_latencies,
    flops_latency_analysis,
    measure_latency,
    measure_latency_with_stats,
    profile_layer_latency,
    profile_layers,
    what_would_pay,
)
from pruning_bootcamp.tools.latency.clock import _stats, _Timed

QUICK = {"min_seconds": 0.0, "warmup_seconds": 0.0, "warmup_runs": 1}


class Sleeper(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x


def test_a_network_that_sleeps_takes_that_long() -> None:
    stats = measure_latency_with_stats(Sleeper(0.01), torch.zeros(4, 3), runs=5, **QUICK)
    assert 10 <= stats.median_ms < 20
    assert stats.n == 5
    assert (stats.batch_size, stats.device, stats.backend) == (4, "cpu", "torch")
    assert stats.threads == torch.get_num_threads()
    assert (stats.version, stats.precision) == (torch.__version__, "float32")
    assert stats.processor is not None
    assert stats.processor in stats.way
    assert stats.throughput_fps == pytest.approx(4 * 1000 / stats.median_ms)
    assert "batch 4" in str(stats)
    assert measure_latency(Sleeper(0.01), torch.zeros(1, 3), runs=3, **QUICK) >= 10


def test_candidates_take_turns_after_the_warm_up() -> None:
    order: list[str] = []
    candidates = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    found = compare_latencies(candidates, runs=4, min_seconds=0.0, warmup_runs=2, warmup_seconds=0.0)
    assert order == ["a", "a", "b", "b"] + ["a", "b", "b", "a"] * 2
    assert [stats.n for stats in found.values()] == [4, 4]
    assert (found["a"].backend, found["a"].version, found["a"].precision) == ("function", None, None)


def test_quick_networks_run_more_often_and_slow_ones_stop_in_time() -> None:
    quick = compare_latencies({"a": lambda: None}, runs=3, min_seconds=0.05, warmup_seconds=0.0)["a"]
    assert quick.n > 3
    slow = measure_latency_with_stats(Sleeper(0.02), torch.zeros(1), runs=1000, max_seconds=0.05, warmup_seconds=0.0)
    assert slow.n == 3


def test_statistics_are_numpys() -> None:
    values = [3.0, 1.0, 2.0, 10.0, 4.0]
    stats = _stats(values, _Timed(lambda: None, 2, torch.device("cpu"), "torch", 1))
    assert stats.median_ms == 3.0
    assert stats.mean_ms == pytest.approx(np.mean(values))
    assert stats.std_ms == pytest.approx(np.std(values, ddof=1))
    assert (stats.p5_ms, stats.p95_ms) == pytest.approx((np.percentile(values, 5), np.percentile(values, 95)))


def test_the_network_runs_without_gradients_in_eval_mode_and_is_left_as_found() -> None:
    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.seen = nn.Dropout(), set[tuple[bool, bool, bool]]()

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add((self.drop.training, torch.is_inference_mode_enabled(), gc.isenabled()))
            return x

    spy = Spy()
    measure_latency(spy, torch.zeros(1), runs=3, min_seconds=0.0, warmup_runs=0, warmup_seconds=0.0)
    assert spy.seen == {(False, True, False)}
    assert spy.training
    assert spy.drop.training
    assert gc.isenabled()


def test_nothing_to_time_is_an_error() -> None:
    with pytest.raises(BootcampError, match="nothing to time"):
        compare_latencies({})
    with pytest.raises(BootcampError, match="0 runs"):
        measure_latency(Sleeper(0), torch.zeros(1), runs=0)


class Branch(nn.Module):
    """A convolution, a slow layer that runs twice, an attention that calls its own projection, and time in between."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.slow = Sleeper(0.003)
        self.conv = nn.Conv2d(2, 4, 1)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slow(self.slow(self.conv(x)))
        time.sleep(0.002)
        flat = x.flatten(2).transpose(1, 2)
        return self.attention(flat, flat, flat)[0]


def test_each_layer_has_its_time_and_the_rest_is_said() -> None:
    model = Branch().train()
    rows = {row.name: row for row in profile_layer_latency(model, torch.randn(2, 2, 3, 3), runs=4)}
    assert list(rows) == ["conv", "slow", "attention", OUTSIDE]
    assert 6 <= rows["slow"].median_ms < 12
    assert 2 <= rows[OUTSIDE].median_ms < 6
    assert sum(row.share for row in rows.values()) == pytest.approx(1.0)
    assert rows["conv"].macs == 4 * 2 * 9
    assert rows["conv"].width == 4
    assert rows["attention"].macs == 9 * 4 * 12 + 2 * 9 * 9 * 4 + 9 * 16
    assert rows["slow"].macs == 0
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_networks_are_profiled_in_turn() -> None:
    order: list[str] = []

    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.layer = name, nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            order.append(self.name)
            return self.layer(x)

    tables = profile_layers({name: (Named(name), torch.zeros(1)) for name in "ab"}, runs=3)
    assert [row.name for row in tables["b"]] == ["layer", OUTSIDE]
    timed = order[6:12]  # before: three passes of each to find the layers; after: the counting of FLOPs
    assert timed == ["a", "b"] * 3


def latency(median: float, spread: float = 0.01) -> LatencyStats:
    return LatencyStats(
        median,
        median,
        spread,
        median - spread,
        median + spread,
        n=9,
        batch_size=1,
        device="cpu",
        threads=1,
        backend="t",
    )


def measured(rows: list[tuple[str, str, float, float, int | None]]) -> TimedNetwork:
    total = sum(row[2] for row in rows)
    layers = [LayerLatency(name, kind, ms, ms / total, macs, width) for name, kind, ms, macs, width in rows]
    return TimedNetwork(sum(row[3] for row in rows), latency(total), layers)


DENSE = measured(
    [
        ("conv1", "Conv2d", 4.0, 400.0, 64),
        ("conv2", "Conv2d", 2.0, 600.0, 64),
        ("bn", "BatchNorm2d", 3.0, 0.0, None),
        (OUTSIDE, "", 1.0, 0.0, None),
    ]
)


def test_causes_add_up_to_the_gap() -> None:
    pruned = measured(
        [
            ("conv1", "Conv2d", 3.5, 300.0, 48),
            ("conv2", "Conv2d", 1.6, 200.0, 44),
            ("bn", "BatchNorm2d", 2.5, 0.0, None),
            (OUTSIDE, "", 1.0, 0.0, None),
        ]
    )
    found = flops_latency_analysis(DENSE, pruned)
    assert found.flops_reduction_pct == pytest.approx(50.0)
    assert found.latency_reduction_pct == pytest.approx(14.0)
    assert found.discrepancy_points == pytest.approx(36.0)
    assert found.significant
    assert found.certain
    # by hand, in points of the baseline's 10 ms
    by_hand = {
        "BatchNorm2d": 10.0,  # 2.5 - 3.0 / 2
        "between the layers": 5.0,  # 1.0 - 1.0 / 2
        "kept most": 6.67,  # 4 * 3/4 + 2 / 3 - 6 / 2
        "no multiple of 8": 9.33,  # conv2: 1.6 - 2 / 3
        "cut to a multiple of 8": 5.0,  # conv1: 3.5 - 3
    }
    assert sum(cause.points for cause in found.causes) == pytest.approx(found.discrepancy_points)
    assert [cause.points for cause in found.causes] == sorted((c.points for c in found.causes), reverse=True)
    for part, points in by_hand.items():
        (cause,) = [cause for cause in found.causes if part in cause.text]
        assert cause.points == pytest.approx(points, abs=0.01), part
    (uneven,) = [cause for cause in found.causes if "no multiple of 8" in cause.text]
    assert "width 64 -> 44, time fell by 20%, multiply-accumulates fell by 67%" in uneven.text


def test_time_in_step_with_flops_has_no_causes() -> None:
    half = measured([(row.name, row.kind, row.median_ms / 2, row.macs / 2, row.width and 32) for row in DENSE.layers])
    found = flops_latency_analysis(DENSE, half)
    assert found.discrepancy_points == pytest.approx(0.0)
    assert not found.significant
    assert found.causes == []


def test_a_difference_within_the_spread_is_not_certain() -> None:
    dense = TimedNetwork(100.0, latency(10.0, spread=2.0))
    found = flops_latency_analysis(dense, TimedNetwork(50.0, latency(9.0, spread=2.0)))
    assert not found.certain
    assert found.causes == [], "without tables nothing is known of causes"


def test_what_would_pay_is_the_slowest_first_with_its_rate() -> None:
    first, second = what_would_pay(DENSE, most=2)
    assert first.startswith("conv1: 4.000 ms, 40% of the pass; 0.0")
    assert second.startswith("bn: 3.000 ms, 30% of the pass; no multiply-accumulates")


@pytest.mark.gpu
def test_on_cuda_the_wait_for_the_device_is_in_the_figure() -> None:
    model = nn.Linear(4096, 4096, bias=False).cuda()
    example = torch.zeros(8192, 4096)
    stats = measure_latency_with_stats(model, example, runs=5)
    assert stats.device == "cuda:0"
    # 2 * 8192 * 4096^2 FLOPs: no GPU does them at 10 PFLOP/s in float32, and a launch alone takes microseconds
    assert stats.median_ms > 1e3 * 2 * 8192 * 4096**2 / 1e16
    rows = profile_layer_latency(nn.Sequential(model), example, runs=3)
    assert rows[0].median_ms == pytest.approx(stats.median_ms, rel=0.5)
