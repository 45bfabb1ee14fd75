"""Plots of the report as plotly JSON. Colours are names of the page's theme (@series-1); symbols differ as well."""

from collections.abc import Collection, Mapping, Sequence

from pruning_bootcamp.plain import Plain
from pruning_bootcamp.reporting.pareto import pareto_front

Figure = dict[str, Plain]
Series = Mapping[str, Sequence[tuple[float, float, str]]]
"""name -> points (x, y, what it is)"""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "hexagon", "cross")
DASHES = ("solid", "dash", "dot", "dashdot")


def trade_off(series: Series, x_title: str, y_title: str, y_range: tuple[float, float] | None = None) -> Figure:
    """Points by series (cost, accuracy, what it is); filled where no point that is drawn beats them, hollow elsewhere.

    The line is the border of what they beat: everything that is beaten lies on it, below it or right of it.
    """
    drawn = [(y, x) for points in series.values() for x, y, _ in points]
    front = [(cost, accuracy) for accuracy, cost in (drawn[place] for place in pareto_front(drawn))]
    line: Figure = {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [x for x, _ in front],
        "y": [y for _, y in front],
        # steps: between two of its points nothing was measured
        "line": {"color": "@quiet", "dash": "dot", "width": 2, "shape": "hv"},
        "hoverinfo": "skip",
    }
    y_more: Figure = {} if y_range is None else {"range": list(y_range)}
    layout = axes(x_title, y_title, y_more=y_more)
    return {"data": [*([line] if len(front) > 1 else []), *_markers(series, set(front))], "layout": layout}


def _markers(series: Series, filled: Collection[tuple[float, float]] | None = None) -> list[Plain]:
    """A trace a series; hollow where a point is not among the `filled`, if there are any."""
    traces: list[Plain] = []
    for place, (name, points) in enumerate(series.items()):
        symbol = SYMBOLS[place % len(SYMBOLS)]
        hollow = None if filled is None else [(x, y) not in filled for x, y, _ in points]
        symbols: Plain = symbol if hollow is None else [f"{symbol}-open" if one else symbol for one in hollow]
        widths: Plain = 1 if hollow is None else [2 if one else 1 for one in hollow]
        trace: Figure = {
            "type": "scatter",
            "mode": "markers",
            "name": plain(name),
            "x": [x for x, _, _ in points],
            "y": [y for _, y, _ in points],
            "text": [plain(label) for _, _, label in points],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {
                "size": 11,
                "symbol": symbols,
                "color": f"@series-{place % 8 + 1}",
                "line": {"width": widths, "color": "@page"},
            },
        }
        traces.append(trace)
    return traces


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_title: str, y_title: str) -> Figure:
    """A line for each series of (x, y); colour, dash and symbol differ, so that it reads without colours."""
    traces: list[Plain] = [
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
) -> Figure:
    """A row a layer, from the first at the top; columns by number, as a name is too long for a phone."""
    trace: Figure = {
        "type": "heatmap",
        "x": [str(number) for number in range(1, len(columns) + 1)],
        "customdata": [[plain(name) for name in columns] for _ in rows],
        "y": [plain(name) for name in rows],
        "z": [list(line) for line in values],
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 12},
        "hovertemplate": "%{y}, %{customdata}: %{z:.1f}%<extra></extra>",
        "hoverongaps": False,
    }
    layout = axes("", "", {"type": "category"}, {"autorange": "reversed", "type": "category"})
    return {"data": [trace], "layout": layout}


def flops_against_latency(points: Sequence[tuple[float, float, str]]) -> Figure:
    """Both reductions in percent; on the dashed line every FLOP saved would be time saved."""
    most = max(5.0, *(max(x, y) for x, y, _ in points))
    line: Figure = {
        "type": "scatter",
        "mode": "lines",
        "name": "all of it arrives as time",
        "x": [0, most],
        "y": [0, most],
        "line": {"color": "@quiet", "dash": "dash"},
        "hoverinfo": "skip",
    }
    layout = axes("FLOPs reduction (%)", "Latency reduction (%)")
    return {"data": [line, *_markers({"profiled networks": points})], "layout": layout}


def axes(x_title: str, y_title: str, x_more: Figure | None = None, y_more: Figure | None = None) -> Figure:
    """A figure's layout; `x_more` and `y_more` are further settings of the axes."""
    return {
        "xaxis": {"title": {"text": x_title}, **(x_more or {})},
        "yaxis": {"title": {"text": y_title}, **(y_more or {})},
        "hovermode": "closest",
        "showlegend": True,
    }


def plain(text: str) -> str:
    """plotly takes a few HTML tags in text: none may come from a file."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
