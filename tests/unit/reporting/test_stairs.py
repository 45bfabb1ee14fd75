"""Time over width: what a budget in time kept of its layers becomes a plot, and says the same as a table."""

from pathlib import Path

from result_folders import write_run
from test_page import in_browser, probe

from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.reporting.collect import collect
from pruning_bootcamp.reporting.command import report
from pruning_bootcamp.reporting.stairs import stairs_figure, time_by_width
from pruning_bootcamp.results import LayerStairs, Stairs, WayStairs
from pruning_bootcamp.runs import LAYER_TIMES, write_yaml


def alike(width: int, us: float, chosen: dict[str, int]) -> LayerStairs:
    """Layers of `us` microseconds in steps of eight; `chosen`: their widths, of what comes out."""
    times = {w: us * (1 + (w > width // 2)) / 2 for w in (8, width // 2, width)}
    return LayerStairs(
        layer=f"convolution 3x3 {width} -> {width} at 8x8",
        widths=(width, width),
        inputs={width: us},
        outputs=times,
        chosen={name: (width, one) for name, one in chosen.items()},
    )


MANY = tuple(alike(16 * n, 10.0 * n, {f"layer{n}.<b>": 8 * n, f"other{n}": 0}) for n in range(1, 9))
WAY = WayStairs(way="onnxruntime on cpu, batch 1", version="onnxruntime 1", processor="a CPU", threads=1, layers=MANY)


def test_the_layers_that_take_longest_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    write_run(tmp_path, "timed", "prune-structured", fewer=40.0)
    write_yaml(tmp_path / "timed" / LAYER_TIMES, to_plain(Stairs(ways=(WAY,))))
    [found] = collect(tmp_path).stairs
    assert found.content.ways == (WAY,)
    section = time_by_width([found])
    assert section is not None
    _, plot = section.blocks
    assert "2 other kinds of layers take less." in plot.description
    assert [row.cells[0] for row in plot.table.rows] == [one.layer for one in reversed(MANY[2:])]
    assert plot.table.rows[0].cells[4] == "64: 40.0, 0: 0.0"
    assert "Time over width" in report(tmp_path, "md").read_text()


def test_a_chosen_width_lies_on_its_line_and_a_branch_that_goes_takes_nothing() -> None:
    steps, chosen, uncut = stairs_figure([alike(64, 50.0, {"a": 40, "b": 20, "c": 0})])["data"]
    assert (steps["x"], steps["y"], steps["line"]["shape"]) == ([8, 32, 64], [25.0, 25.0, 50.0], "vh")
    assert dict(zip(chosen["x"], chosen["y"], strict=True)) == {40: 50.0, 20: 25.0, 0: 0.0}
    assert (uncut["x"], uncut["y"]) == ([64], [50.0])


def test_the_legend_says_each_thing_once() -> None:
    data = stairs_figure(list(MANY))["data"]
    named = [trace["name"] for trace in data if trace["showlegend"]]
    assert sorted(named) == sorted(set(named))
    assert "<b>" not in str(data)


def test_runs_that_were_not_timed_have_no_such_section(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", "prune-structured", fewer=40.0)
    assert time_by_width(collect(tmp_path).stairs) is None


@in_browser
def test_no_two_panels_lie_on_each_other(tmp_path: Path) -> None:
    write_run(tmp_path, "timed", "prune-structured", fewer=40.0)
    write_yaml(tmp_path / "timed" / LAYER_TIMES, to_plain(Stairs(ways=(WAY,))))
    found, said = probe(
        report(tmp_path, "html"),
        """
        await everyPlot();
        const place = document.getElementById("stairs-0-0");
        const sides = (box) => [box.left, box.top, box.right, box.bottom];
        const box = (element) => sides(element.getBoundingClientRect());
        return [".xaxislayer-above", ".annotation"].map((kind) => [...place.querySelectorAll(kind)].map(box));
        """,
    )
    assert said == []
    axes, titles = found
    assert len(titles) == 6
    boxes = [tuple(box) for box in [*axes, *titles] if box[2] > box[0]]
    assert len(boxes) > 6
    for one in boxes:
        for other in boxes:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert one is other or apart, (one, other)


def test_times_of_trials_count_unless_the_run_that_they_were_for_has_them(tmp_path: Path) -> None:
    for name in ("searched", "nothing", "sweep"):
        write_run(tmp_path, f"{name}/trials/0.5", "prune-structured", fewer=40.0)
        write_yaml(tmp_path / name / "trials" / "0.5" / LAYER_TIMES, to_plain(Stairs(ways=(WAY,))))
    write_yaml(tmp_path / "searched" / LAYER_TIMES, to_plain(Stairs(ways=(WAY,))))
    names = [found.name for found in collect(tmp_path).stairs]
    assert names == ["nothing/trials/0.5", "searched", "sweep/trials/0.5"]
