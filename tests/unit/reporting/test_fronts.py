"""No dominated point stands over a front, in any plot or table: every point is compared with every other."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from result_folders import write_comparison, write_run, write_sweep

from pruning_bootcamp.logs import start_screen
from pruning_bootcamp.reporting.collect import collect
from pruning_bootcamp.reporting.command import report
from pruning_bootcamp.reporting.document import Table
from pruning_bootcamp.reporting.findings import find
from pruning_bootcamp.reporting.methods import comparison
from pruning_bootcamp.reporting.pareto import unbeaten
from pruning_bootcamp.reporting.plots import trade_off
from pruning_bootcamp.reporting.values import spread
from pruning_bootcamp.results import Dense, Objective, Study, Trial
from pruning_bootcamp.sweep.outputs import concluded, recommend
from pruning_bootcamp.sweep.showing import say

Drawn = tuple[float, float]  # cost, accuracy
FIGURES = st.one_of(st.integers(0, 6).map(float), st.floats(0, 100))
SERIES = st.dictionaries(
    st.sampled_from(["l1", "random", "dense"]),
    st.lists(st.tuples(FIGURES, FIGURES, st.just("")), min_size=1, max_size=12),
    min_size=1,
)


def beats(one: Drawn, other: Drawn) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def check_figure(figure: dict[str, Any]) -> int:
    """Every law of a front, on what is drawn; how many points were looked at."""
    line = [trace for trace in figure["data"] if trace["mode"] == "lines" and trace["name"] == "front"]
    traces = [trace for trace in figure["data"] if trace["mode"] == "markers"]
    points = [
        ((x, y), symbol.endswith("-open"))
        for trace in traces
        for x, y, symbol in zip(trace["x"], trace["y"], trace["marker"]["symbol"], strict=True)
    ]
    everything = [point for point, _ in points]
    filled = [point for point, hollow in points if not hollow]
    assert filled, "something is beaten by none"
    for point, hollow in points:
        assert hollow == any(beats(other, point) for other in everything)
        if hollow:
            assert any(beats(other, point) for other in filled), "what is beaten is beaten by one on the front"
    if len(filled) == 1:
        assert not line
        return len(points)
    (drawn,) = line
    assert sorted(zip(drawn["x"], drawn["y"], strict=True)) == sorted(filled)
    assert drawn["line"]["shape"] == "hv"
    for point, _ in points:  # the steps: at each cost, the best accuracy that is to be had for it
        reached = [y for x, y in zip(drawn["x"], drawn["y"], strict=True) if x <= point[0]]
        assert reached, "nothing lies left of the front"
        assert point[1] <= max(reached), "nothing stands over the front"
    return len(points)


@given(SERIES)
def test_the_line_of_a_plot_is_beaten_by_no_point_and_beats_all_hollow_ones(
    series: dict[str, list[tuple[float, float, str]]],
) -> None:
    assert check_figure(trade_off(series, "cost", "accuracy")) == sum(len(points) for points in series.values())


@given(st.lists(st.tuples(FIGURES, FIGURES), max_size=12), st.tuples(FIGURES, FIGURES))
def test_what_the_dense_network_beats_is_on_no_front(points: list[Drawn], dense: Drawn) -> None:
    def beaten(one: Drawn) -> bool:
        return any(a >= one[0] and c <= one[1] and (a, c) != one for a, c in [*points, dense])

    assert sorted(unbeaten(points, dense)) == [place for place, point in enumerate(points) if not beaten(point)]


@given(st.floats(0, 100, allow_subnormal=False), st.integers(1, 60))
def test_the_mean_of_equal_figures_ties_with_one_of_them(value: float, n: int) -> None:
    """sum([x] * n) / n is not always x, and a front would then hold what another setting beats."""
    found = spread([value] * n)
    assert found is not None
    assert found.mean == value


def test_seeds_and_a_single_run_at_the_same_cost_are_compared_by_accuracy_alone(tmp_path: Path) -> None:
    fewer = 49.3
    write_run(tmp_path, "dense", "train", accuracy=92.0, val_accuracy=93.0)
    for seed in range(7):
        write_run(tmp_path, f"a{seed}", "prune-structured", score="a", seed=seed, val_accuracy=91.0, fewer=fewer)
    write_run(tmp_path, "b", "prune-structured", score="b", val_accuracy=92.0, fewer=fewer)
    (only,) = find(collect(tmp_path)).experiments
    assert [setting.first.name for setting in only.front_flops] == ["b", "dense"]


def test_the_table_says_of_which_front(tmp_path: Path) -> None:
    """zeros save no FLOPs: there the dense network beats them, and by parameters nothing does."""
    write_comparison(tmp_path)
    (only,) = find(collect(tmp_path)).experiments
    (table,) = comparison(only, "t")
    assert isinstance(table, Table)
    said = {str(row.cells[0]): str(row.cells[-1]) for row in table.rows}
    assert said == {
        "l1, global: 50% fewer FLOPs": "✓ FLOPs",
        "random, global: 50% fewer FLOPs": "–",
        "magnitude, global: 90% zeros": "✓ parameters",
    }


def test_every_front_of_the_page_holds(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed (the extra `report`)")
    write_comparison(tmp_path)
    write_sweep(tmp_path)
    path = tmp_path / "sweep" / "half" / "sweep.yaml"
    content = yaml.safe_load(path.read_text())
    content["pareto"] = [1]  # a file that says otherwise is not believed: trial 0 beats trial 1
    content["objectives"].reverse()
    path.write_text(yaml.safe_dump(content))
    text = report(tmp_path, "html").read_text()
    (data,) = re.findall(r'id="figures">(.*?)</script>', text)
    looked_at = {name: check_figure(figure) for name, figure in json.loads(data).items() if "-open" in str(figure)}
    assert looked_at == {"trade-offs-0-flops-g": 4, "trade-offs-0-kept-params-m": 4, "sweep-0": 3}


def study(dense: Drawn, *trials: Drawn) -> Study:
    """Of a sweep; each (accuracy, latency_ms)."""
    known = [{"accuracy": accuracy, "latency_ms": ms} for accuracy, ms in trials]
    return concluded(
        Study(
            name="half",
            command="prune-structured",
            sampler="grid",
            space={},
            objectives=(
                Objective(name="accuracy", direction="maximize"),
                Objective(name="latency_ms", direction="minimize"),
            ),
            split="validation",
            max_drop=1.5,
            dense=Dense(accuracy=dense[0], latency_ms=dense[1]),
            seed=0,
            trials=tuple(
                Trial(number=place, state="complete", params={}, values=values, folder="trials/0000", seconds=1.0)
                for place, values in enumerate(known)
            ),
        )
    )


def test_a_trial_that_the_dense_network_beats_is_neither_on_the_front_nor_taken() -> None:
    found = study((95.0, 2.0), (94.0, 2.5), (80.0, 1.0))
    assert found.pareto == (1,), "trial 0 is slower than the dense network, and less accurate"
    assert (found.chosen, found.chosen_keeps_accuracy) == (1, False)
    found = study((95.0, 2.0), (94.0, 2.5), (95.0, 2.1))
    assert (found.pareto, found.chosen) == ((), None)
    assert (found.chosen_because or "").startswith("the dense network beats all 2: none is cheaper")


def test_the_trial_to_take_keeps_the_accuracy() -> None:
    found = study((95.0, 2.0), (94.0, 1.5), (93.6, 1.2), (90.0, 0.1))
    assert (found.chosen, found.chosen_keeps_accuracy) == (1, True), "the cheapest within 1.5 points"
    assert recommend([], "latency_ms", None, 1.5, 0).because == "no trial was completed"


def test_sweep_show_takes_no_trial_that_lost_too_much(capfd: pytest.CaptureFixture[str]) -> None:
    start_screen(False)
    say(Path("sweep"), study((95.0, 2.0), (92.0, 1.0)))
    said = capfd.readouterr().out
    assert "No trial to take: each loses more than the 1.5 points that goal.accuracy_drop allows." in said
    assert "Nearest is trial 0, which loses 3.00 (92.00%, dense 95.00%), 1.50 too many" in said
