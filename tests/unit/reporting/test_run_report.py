"""Reports show the figures that were measured, and say what was not met."""

from typing import Any

from pruning_bootcamp.plain import from_plain
from pruning_bootcamp.reporting import alternatives_text, analysis_text, comparison_rows, markdown_table, run_report
from pruning_bootcamp.reporting.measured import _difference
from pruning_bootcamp.results import Analysis, Comparison, Metrics, NetworkMetrics
from pruning_bootcamp.tools import latency
from pruning_bootcamp.tools.latency import LatencyStats, TimedNetwork, flops_latency_analysis
from pruning_bootcamp.training.records import Epoch

ENVIRONMENT = {"torch": "2.15.0", "device": "cpu (a CPU)"}
BASELINE = {"accuracy": 91.73, "flops_g": 0.0405, "params_m": 0.27, "sparsity": 0.0}
PRUNED = {
    "accuracy": 90.5,
    "flops_g": 0.02,
    "params_m": 0.15,
    "sparsity": 0.0,
    "test_images": 10000,
    "baseline": BASELINE,
    "accuracy_drop": 1.23,
    "flops_reduction_pct": 50.6,
    "params_reduction_pct": 44.4,
    "goal": ">= 40% fewer FLOPs, <= 1.5 points of accuracy lost",
    "goal_met": True,
    "seed": 0,
    "environment": ENVIRONMENT,
}


def report(**changes: Any) -> str:
    return run_report("A run", from_plain(Metrics, PRUNED | changes))


def test_a_table_has_a_row_a_line_and_equal_widths() -> None:
    lines = markdown_table(["a", "long name"], [[1, 2], ["three", 4]]).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[3] == "| three | 4         |"


def test_only_figures_that_both_know_are_compared() -> None:
    rows = comparison_rows(NetworkMetrics(accuracy=91.0, latency_ms=2.0), NetworkMetrics(accuracy=90.0))
    assert rows == [["Accuracy (%)", "91.00", "90.00"]]


def test_the_report_says_goal_drop_images_seed_and_machine() -> None:
    text = report()
    assert text.startswith("# A run\n")
    for words in ("| 91.73  | 90.50  |", "accuracy drop (points): 1.23", "Goal MET", "10000 test images", "a CPU"):
        assert words in text, words
    assert "no spread is claimed" in text
    assert "**Goal NOT met**" in report(goal_met=False)


def test_a_long_history_is_thinned_and_keeps_the_last_epoch() -> None:
    entry = {"train_loss": 1.0, "train_accuracy": 50.0, "val_loss": 1.0, "val_accuracy": 50.0, "lr": 0.1}
    history = [Epoch(epoch=number, steps=number, seconds=1.0, **entry) for number in range(1, 101)]
    text = run_report("A run", from_plain(Metrics, PRUNED), history)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| 0.1" in line]
    assert 2 <= len(rows) <= 13
    assert rows[-1].startswith("| 100")


def test_the_quickest_way_says_when_the_dense_network_is_quicker_still() -> None:
    def took(ms: float, batch: int = 1) -> LatencyStats:
        return LatencyStats(ms, ms, 0.0, ms, ms, 50, batch, "cpu", 1, "torch")

    torch_one = {"baseline": took(1.0), "pruned": took(0.8)}
    text = alternatives_text({"torch": torch_one, "onnx": {"baseline": took(1.6, 16), "pruned": took(3.2, 16)}})
    assert (
        "Quickest: onnx\nThe dense network is quicker still: 0.1000 ms an image with onnx, the pruned one 0.2000."
        in text
    )
    assert alternatives_text({"torch": torch_one}).endswith("Quickest: torch")


def timed(rounds: list[float], batch: int = 1) -> LatencyStats:
    middle = sorted(rounds)[len(rounds) // 2]
    figures = (middle, middle, 0.1, min(rounds), max(rounds), len(rounds), batch, "cuda:0", 1, "torch")
    return LatencyStats(*figures, rounds_ms=tuple(rounds))


def pair(factor: float, batch: int = 1) -> dict[str, LatencyStats]:
    """Both networks in 30 rounds of a machine that is not steady; the pruned one takes `factor` of the time."""
    machine = [1.0 + 0.01 * (number % 5) for number in range(30)]
    other = [factor * ms * (1 + 0.002 * ((7 * number) % 5 - 2)) for number, ms in enumerate(machine)]
    return {
        "baseline": timed([batch * ms for ms in machine], batch),
        "pruned": timed([batch * ms for ms in other], batch),
    }


def test_the_table_gives_each_speedup_its_interval_and_names_noise_and_launches() -> None:
    text = alternatives_text(
        {"torch, batch 1": pair(1.0), "torch, batch 256": pair(0.5, 256)},
        launch_bound=["torch, batch 1"],
        notes=["torch CUDA graph, batch 1: not timed (it reads a value)"],
    )
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| torch")}
    assert "| 1.00x " in rows["torch, batch 1 (launch-bound)"]
    assert "1.00 to 1.00, may be noise" in rows["torch, batch 1 (launch-bound)"]
    assert "| 2.00x " in rows["torch, batch 256"]
    assert "| 2.00 to 2.00 " in rows["torch, batch 256"]
    assert "not timed (it reads a value)" in text
    assert "Launch-bound: many images take hardly longer than one" in text


def test_widths_are_advised_where_some_are_uneven_and_the_dense_network_is_quicker() -> None:
    slower = {"torch, batch 1": pair(1.3)}
    advice = "3 of the 5 layers that were cut have a width that is no multiple of 8"
    assert "Pruning saved no time there. " + advice in alternatives_text(slower, widths=advice)
    assert alternatives_text(slower).endswith("Pruning saved no time there."), "nothing is advised to even widths"
    assert "quicker still" not in alternatives_text({"torch, batch 1": pair(1.0)}, widths=advice)
    assert "multiple of 8" not in alternatives_text({"torch, batch 1": pair(0.8)}, widths=advice)


def analysis(factor: float) -> latency.Analysis:
    both = pair(factor)
    return flops_latency_analysis(TimedNetwork(100.0, both["baseline"]), TimedNetwork(50.0, both["pruned"]))


def test_the_analysis_says_interval_and_direction_as_the_figure_has_it() -> None:
    for factor, verdict in ((0.9, "The pruned network is faster."), (1.1, "The pruned network is slower.")):
        found = analysis(factor)
        text = analysis_text(found, {}, [])
        assert found.ratio is not None
        assert found.ratio.reduction_pct == found.latency_reduction_pct
        assert f"Latency reduction: {found.latency_reduction_pct:.1f}% (95% interval " in text
        assert ", n 30 pairs)" in text
        assert verdict in text
        assert "noise" not in text
    same = analysis_text(analysis(1.0), {}, [])
    assert "The interval holds 0: the latency difference may be noise." in same
    assert "faster" not in same
    assert "slower" not in same


def test_the_report_of_a_run_gives_the_latency_its_interval() -> None:
    saved = {"latency_reduction_pct": 8.6, "latency_reduction_low_pct": 6.9, "latency_reduction_high_pct": 10.1}
    text = report(**saved, latency_pairs=317)
    assert "- less latency (%): 8.6 (95% interval 6.9 to 10.1, n 317 pairs)\n" in text
    noise = report(**saved | {"latency_pairs": 317, "latency_reduction_low_pct": -0.2})
    assert "n 317 pairs; may be noise)" in noise
    assert "- less latency (%): 8.6\n" in report(latency_reduction_pct=8.6), "an older file"


def test_the_report_of_profiles_says_faster_slower_or_noise_by_the_interval() -> None:
    def said(low: float | None, high: float | None, certain: bool | None = None) -> str:
        ends = {"latency_reduction_low_pct": low, "latency_reduction_high_pct": high, "latency_pairs": 317}
        return _difference(from_plain(Comparison, ends), Analysis(certain=certain))

    assert said(6.9, 10.1) == "✓ faster (95%: 6.9 to 10.1, n 317)"
    assert said(-28.0, -24.0, certain=False) == "✓ slower (95%: -28.0 to -24.0, n 317)"
    assert said(-1.0, 2.0, certain=True) == "– may be noise (95%: -1.0 to 2.0, n 317)"
    assert said(None, None, certain=False) == "– within the spread", "a file of before, judged by p5 and p95"
    assert said(None, None, certain=True) == "✓ beyond the spread"
    assert said(None, None) == "– not judged"
