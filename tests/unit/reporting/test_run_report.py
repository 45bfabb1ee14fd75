"""Reports show the figures that were measured, and say what was not met."""

from pruning_bootcamp.reporting import alternatives_text, comparison_rows, markdown_table, run_report
from pruning_bootcamp.tools.latency import LatencyStats

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


def test_a_table_has_a_row_a_line_and_equal_widths() -> None:
    lines = markdown_table(["a", "long name"], [[1, 2], ["three", 4]]).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[3] == "| three | 4         |"


def test_only_figures_that_both_know_are_compared() -> None:
    rows = comparison_rows({"accuracy": 91.0, "latency_ms": 2.0}, {"accuracy": 90.0, "latency_ms": None})
    assert rows == [["Accuracy (%)", "91.00", "90.00"]]


def test_the_report_says_goal_drop_images_seed_and_machine() -> None:
    text = run_report("A run", PRUNED)
    assert text.startswith("# A run\n")
    for words in ("| 91.73  | 90.50  |", "accuracy drop (points): 1.23", "Goal MET", "10000 test images", "a CPU"):
        assert words in text, words
    assert "no spread is claimed" in text
    assert "**Goal NOT met**" in run_report("A run", PRUNED | {"goal_met": False})


def test_a_long_history_is_thinned_and_keeps_the_last_epoch() -> None:
    entry = {"train_loss": 1.0, "train_accuracy": 50.0, "val_loss": 1.0, "val_accuracy": 50.0, "lr": 0.1}
    history = [{"epoch": number, **entry} for number in range(1, 101)]
    text = run_report("A run", PRUNED, history=history)
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
