"""Figures of the report as plotly JSON. Colours are names of the page's theme (@series-1); symbols differ as well."""

from collections.abc import Mapping, Sequence
from typing import Any

Point = tuple[float, float]  # accuracy, cost


def unbeaten(points: Sequence[Point], dense: Point | None) -> list[int]:
    """The front among `points`, by cost, without those that the dense network (if it is known) beats."""
    together = [*points, dense] if dense is not None else list(points)
    return [place for place in pareto_front(together) if place < len(points)]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Which points no other beats, by cost: another beats it when as good in both and better in one."""
    by_cost = sorted(range(len(points)), key=lambda number: (points[number][1], -points[number][0], number))
    front: list[int] = []
    for number in by_cost:
        accuracy, cost = points[number]
        if not front or accuracy > points[front[-1]][0] or (accuracy, cost) == points[front[-1]]:
            front.append(number)
    return front


SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "hexagon", "cross")
DASHES = ("solid", "dash", "dot", "dashdot")


def trade_off(series: Mapping[str, Sequence[tuple[float, float, str]]], x_title: str, y_title: str) -> dict[str, Any]:
    """Points by series (cost, accuracy, what it is); filled where no point that is drawn beats them, hollow elsewhere.

    The line is the border of what they beat: everything that is beaten lies on it, below it or right of it.
    """
    drawn = [(y, x) for points in series.values() for x, y, _ in points]
    front = [(cost, accuracy) for accuracy, cost in (drawn[place] for place in pareto_front(drawn))]
    unbeaten = set(front)
    figure = scatter(series, x_title, y_title)
    for trace in figure["data"]:
        symbol = trace["marker"]["symbol"]
        beaten = [(x, y) not in unbeaten for x, y in zip(trace["x"], trace["y"], strict=True)]
        trace["marker"] |= {"symbol": [f"{symbol}-open" if hollow else symbol for hollow in beaten]}
        trace["marker"]["line"] |= {"width": [2 if hollow else 1 for hollow in beaten]}
    if len(front) > 1:
        figure["data"].insert(0, _front_line(front))
    return figure


def _front_line(front: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [x for x, _ in front],
        "y": [y for _, y in front],
        # steps: between two of its points nothing was measured
        "line": {"color": "@quiet", "dash": "dot", "width": 2, "shape": "hv"},
        "hoverinfo": "skip",
    }


def scatter(series: Mapping[str, Sequence[tuple[float, float, str]]], x_title: str, y_title: str) -> dict[str, Any]:
    """Points by series (x, y, what it is)."""
    traces: list[dict[str, Any]] = []
    for place, (name, points) in enumerate(series.items()):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(name),
                "x": [x for x, _, _ in points],
                "y": [y for _, y, _ in points],
                "text": [plain(label) for _, _, label in points],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {
                    "size": 11,
                    "symbol": SYMBOLS[place % len(SYMBOLS)],
                    "color": f"@series-{place % 8 + 1}",
                    "line": {"width": 1, "color": "@page"},
                },
            }
        )
    return {"data": traces, "layout": axes(x_title, y_title)}


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_title: str, y_title: str) -> dict[str, Any]:
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": plain(name),
            "x": [x for x, _ in points],
            "y": [y for _, y in points],
            "line": {"dash": DASHES[(place // 8) % len(DASHES)], "color": f"@series-{place % 8 + 1}"},
            "marker": {"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 7},
        }
        for place, (name, points) in enumerate(series.items())
    ]
    return {"data": traces, "layout": axes(x_title, y_title)}


def heatmap(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], title: str
) -> dict[str, Any]:
    """A row a layer, from the first at the top; columns by number, as a name is too long for a phone."""
    trace = {
        "type": "heatmap",
        "x": [str(number) for number in range(1, len(columns) + 1)],
        "customdata": [[plain(name) for name in columns] for _ in rows],
        "y": [plain(name) for name in rows],
        "z": values,
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 12},
        "hovertemplate": "%{y}, %{customdata}: %{z:.1f}%<extra></extra>",
        "hoverongaps": False,
    }
    layout = axes("", "")
    layout["yaxis"] |= {"autorange": "reversed", "type": "category"}
    layout["xaxis"] |= {"type": "category"}
    return {"data": [trace], "layout": layout}


def flops_against_latency(points: Sequence[tuple[float, float, str]]) -> dict[str, Any]:
    """Both reductions in percent; on the dashed line every FLOP saved would be time saved."""
    figure = scatter({"profiled networks": points}, "FLOPs reduction (%)", "Latency reduction (%)")
    most = max(5.0, *(max(x, y) for x, y, _ in points))
    figure["data"].insert(
        0,
        {
            "type": "scatter",
            "mode": "lines",
            "name": "all of it arrives as time",
            "x": [0, most],
            "y": [0, most],
            "line": {"color": "@quiet", "dash": "dash"},
            "hoverinfo": "skip",
        },
    )
    return figure


def axes(x_title: str, y_title: str) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": x_title}},
        "yaxis": {"title": {"text": y_title}},
        "hovermode": "closest",
        "showlegend": True,
    }


def plain(text: str) -> str:
    """plotly takes a few HTML tags in text: none may come from a file."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
