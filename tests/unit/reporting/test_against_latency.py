"""Quality against time: runs beside their dense network, each way to run them apart; a search within so many points."""

from pathlib import Path
from typing import Any

import yaml
from result_folders import write_run
from test_fronts import check_figure

from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.reporting.collect import collect
from pruning_bootcamp.reporting.document import Plot
from pruning_bootcamp.reporting.findings import find
from pruning_bootcamp.reporting.measured import searches
from pruning_bootcamp.reporting.methods import trade_offs
from pruning_bootcamp.results import Search, SearchTrial
from pruning_bootcamp.runs import SEARCH, write_yaml


def timed(less: float, backend: str = "onnxruntime", **more: Any) -> dict[str, Any]:
    return {"latency_reduction_pct": less, "latency_backend": backend, "latency_batch_size": 1} | more


def plots(root: Path) -> dict[str, Plot]:
    (only,) = find(collect(root)).experiments
    found = [block for block in trade_offs(only, "t") if isinstance(block, Plot)]
    return {plot.identifier: plot for plot in found}


def points(plot: Plot) -> set[tuple[float, float]]:
    traces = [trace for trace in plot.figure["data"] if trace["mode"] == "markers"]
    return {point for trace in traces for point in zip(trace["x"], trace["y"], strict=True)}


def test_each_way_to_run_has_its_plot_with_the_dense_network_in_it(tmp_path: Path) -> None:
    write_run(tmp_path, "dense", "train", accuracy=92.0, val_accuracy=93.0)
    write_run(tmp_path, "a", "prune-structured", score="a", val_accuracy=92.5, fewer=50.0, metrics=timed(40.0))
    write_run(tmp_path, "b", "prune-structured", score="b", val_accuracy=91.0, fewer=60.0, metrics=timed(-10.0))
    write_run(tmp_path, "c", "prune-structured", score="c", val_accuracy=91.0, fewer=60.0, metrics=timed(30.0, "torch"))
    write_run(tmp_path, "d", "prune-structured", score="d", val_accuracy=91.0, fewer=60.0)
    found = plots(tmp_path)
    assert points(found["t-latency-0"]) == {(60.0, 92.5), (110.0, 91.0), (100.0, 93.0)}
    assert points(found["t-latency-1"]) == {(70.0, 91.0), (100.0, 93.0)}
    assert "batch 1, onnxruntime" in found["t-latency-0"].description
    check_figure(dict(found["t-latency-0"].figure))
    beaten = {str(row.cells[0])[0]: row.cells[-1] for row in found["t-latency-0"].table.rows}
    assert beaten == {"a": "✓ on the front", "b": "– beaten", "d": "✓ on the front"}


def test_without_a_training_the_dense_network_is_what_the_runs_know_of_it(tmp_path: Path) -> None:
    fit = {"dense_fit": {"val_accuracy": 93.5, "train_accuracy": 99.0, "images": 400}}
    write_run(tmp_path, "a", "prune-structured", score="a", val_accuracy=92.5, fewer=50.0, metrics=timed(40.0, **fit))
    (plot,) = (plot for name, plot in plots(tmp_path).items() if "latency" in name)
    assert points(plot) == {(60.0, 92.5), (100.0, 93.5)}


def test_runs_that_were_not_timed_have_no_such_plot(tmp_path: Path) -> None:
    write_run(tmp_path, "dense", "train", accuracy=92.0, val_accuracy=93.0)
    write_run(tmp_path, "a", "prune-structured", score="a", val_accuracy=92.5, fewer=50.0)
    assert not any("latency" in name for name in plots(tmp_path))


def test_a_budget_in_time_is_named(tmp_path: Path) -> None:
    budgets = ({"target_latency_reduction": 0.4}, {"target_latency_ms": 3.5})
    for number, budget in enumerate(budgets):
        folder = write_run(tmp_path, f"run{number}", "prune-structured", fewer=40.0)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["structured"] = {"score": "l1", "allocation": "global"} | budget
        head = (folder / "config.yaml").read_text().splitlines(keepends=True)[:2]
        (folder / "config.yaml").write_text("".join(head) + yaml.safe_dump(config))
    assert [record.amount for record in find(collect(tmp_path)).records] == ["40% less time", "3.5 ms"]


def test_a_search_shows_what_each_trial_saved_and_lost(tmp_path: Path) -> None:
    trials = (
        SearchTrial(share=0.5, drop=2.0, reached=0.49),
        SearchTrial(share=0.3, drop=0.4, reached=0.31),
        SearchTrial(share=0.9, drop=None, why="too coarse"),
    )
    search = Search(limit=1.0, by="latency_reduction", trials=trials)
    folder = write_run(tmp_path, "searched", "prune-structured", fewer=40.0)
    write_yaml(folder / SEARCH, to_plain(search))
    [found] = collect(tmp_path).searches
    assert found.content == search
    section = searches([found], tmp_path)
    assert section is not None
    plot = section.blocks[1]
    assert isinstance(plot, Plot)
    assert points(plot) == {(51.0, -2.0), (69.0, -0.4), (100.0, 0.0)}
    said = [(row.cells[3], row.cells[4]) for row in plot.table.rows]
    assert said == [("✗ beyond", "–"), ("✓ within", "✓ taken"), ("✗ can't be cut", "too coarse")]
