"""How long layers take at other widths, as a budget in time measured them, and which widths it chose: plots, tables."""

from collections.abc import Sequence

from pruning_bootcamp.plain import Plain
from pruning_bootcamp.reporting.collect import Found
from pruning_bootcamp.reporting.document import Block, Cell, Plot, Row, Section, Subheading, Table, columns
from pruning_bootcamp.reporting.plots import Figure, plain
from pruning_bootcamp.reporting.values import counted
from pruning_bootcamp.results import LayerStairs, Stairs, WayStairs
from pruning_bootcamp.results.layer_times import time_at

_MOST = 6  # kinds of layers in one plot
_ACROSS, _GAP, _TITLE = 2, 0.1, 0.42
_ROW_PX = 215
_SIDES: tuple[tuple[str, str, str, str], ...] = (
    ("outputs", "@series-1", "solid", "circle"),
    ("inputs", "@series-2", "dot", "diamond"),
)


def time_by_width(found: Sequence[Found[Stairs]]) -> Section | None:
    """A plot for each run and way: time over width as steps, with the widths that were chosen."""
    blocks: list[Block] = []
    for place, run in enumerate(found):
        for number, way in enumerate(run.content.ways):
            if way.layers:
                blocks += [Subheading(f"{run.name}: {way.way}"), _plot(run.name, way, f"stairs-{place}-{number}")]
    return Section("stairs", "Time over width", blocks) if blocks else None


def _plot(name: str, way: WayStairs, identifier: str) -> Plot:
    shown = sorted(way.layers, key=lambda one: -one.all_us)[:_MOST]
    rest = len(way.layers) - len(shown)
    more = f" {counted(rest, 'other kind')} of layers {'takes' if rest == 1 else 'take'} less." if rest else ""
    threads = counted(way.threads, "thread")
    description = (
        "Microseconds of a layer alone at so many outputs (solid) or inputs (dotted), the other side whole. Filled "
        f"marks: the widths that were chosen; hollow ones: uncut. {way.version} on {way.processor}, {threads}.{more}"
    )
    titles = columns("Layer | # Layers alike | Side | # Whole, µs | Chosen: µs | Width: µs")
    rows = [row for one in shown for row in _rows(one)]
    table = Table(f"{identifier}-table", f"{name}: time of layers alone by their width", titles, rows)
    caption = "Time over width of the layers that take longest"
    return Plot(identifier, caption, description, stairs_figure(shown), table, _ROW_PX * -(-len(shown) // _ACROSS) + 80)


def _rows(one: LayerStairs) -> list[Row]:
    found = []
    for side, *_ in _SIDES:
        if len(times := _times(one, side)) > 1:
            chosen = [f"{width}: {time_at(times, width):.1f}" for width in _chosen(one, side)]
            every = ", ".join(f"{width}: {took:.1f}" for width, took in times.items())
            alike, whole = Cell(str(len(one.chosen)), len(one.chosen)), Cell(f"{one.whole_us:.1f}", one.whole_us)
            found.append(Row([one.layer, alike, side, whole, ", ".join(chosen), every]))
    return found


def stairs_figure(layers: Sequence[LayerStairs]) -> Figure:
    """A panel for each kind of layers, two in a row; the legend stands once for all of them."""
    traces: list[Plain] = []
    layout: Figure = {"hovermode": "closest", "showlegend": True, "margin": {"t": 36, "b": 52}}
    notes: list[Plain] = []
    rows, named = -(-len(layers) // _ACROSS), set[str]()
    for place, one in enumerate(layers):
        number = "" if place == 0 else str(place + 1)
        left, low, right, high = _panel(place, rows)
        first, last = place % _ACROSS == 0, place + _ACROSS >= len(layers)
        layout[f"xaxis{number}"] = {
            "domain": [left, right],
            "anchor": f"y{number}",
            "rangemode": "tozero",
            **({"title": {"text": "Width", "standoff": 4, "font": {"size": 12}}} if last else {}),
        }
        layout[f"yaxis{number}"] = {
            "domain": [low, high],
            "anchor": f"x{number}",
            "rangemode": "tozero",
            **({"title": {"text": "µs", "standoff": 4, "font": {"size": 12}}} if first else {}),
        }
        notes.append(
            {
                "text": f"{plain(_short(one))}<br>{counted(len(one.chosen), 'layer')}",
                "align": "left",
                "showarrow": False,
                "xref": "paper",
                "yref": "paper",
                "x": left,
                "y": high,
                "xanchor": "left",
                "yanchor": "bottom",
                "font": {"size": 11},
            }
        )
        for trace in _panel_traces(one, number):
            trace["showlegend"] = trace["name"] not in named
            named.add(str(trace["name"]))
            traces.append(trace)
    layout["annotations"] = notes
    return {"data": traces, "layout": layout}


def _panel(place: int, rows: int) -> tuple[float, float, float, float]:
    """left, low, right, high of a panel in the plot, its title above it."""
    width, height = (1 - _GAP * (_ACROSS - 1)) / _ACROSS, 1 / rows
    left = place % _ACROSS * (width + _GAP)
    high = 1 - place // _ACROSS * height - height * _TITLE * 0.5
    return round(left, 4), round(high - height * (1 - _TITLE), 4), round(left + width, 4), round(high, 4)


def _panel_traces(one: LayerStairs, number: str) -> list[Figure]:
    found: list[Figure] = []
    axes: Figure = {"xaxis": f"x{number}", "yaxis": f"y{number}", "type": "scatter"}
    for side, colour, dash, symbol in _SIDES:
        times = _times(one, side)
        if len(times) < 2:
            continue
        whole, took = max(times), times[max(times)]
        chosen = _chosen(one, side)
        said: list[Plain] = [f"{plain(', '.join(names))}: {width} {side}" for width, names in chosen.items()]
        mark: Figure = {"color": colour, "size": 9, "line": {"width": 1, "color": "@page"}}
        found += [
            axes
            | {
                "mode": "lines",
                "name": f"by {side}",
                "legendgroup": side,
                "x": list(times),
                "y": list(times.values()),
                # up to a width that was measured it takes as long as at that width
                "line": {"shape": "vh", "dash": dash, "color": colour, "width": 2},
                "hovertemplate": f"%{{x}} {side}: %{{y:.1f}} us<extra></extra>",
            },
            axes
            | {
                "mode": "markers",
                "cliponaxis": False,
                "name": f"{side} chosen",
                "legendgroup": f"{side} chosen",
                "x": list(chosen),
                "y": [time_at(times, width) for width in chosen],
                "text": said,
                "marker": mark | {"symbol": symbol},
                "hovertemplate": "%{text}, %{y:.1f} µs<extra></extra>",
            },
            axes
            | {
                "mode": "markers",
                "cliponaxis": False,
                "name": "uncut",
                "legendgroup": "uncut",
                "x": [whole],
                "y": [took],
                "marker": {"color": "@quiet", "size": 13, "symbol": "circle-open", "line": {"width": 2}},
                "hovertemplate": "uncut, %{x}: %{y:.1f} µs<extra></extra>",
            },
        ]
    return found


def _times(one: LayerStairs, side: str) -> dict[int, float]:
    """By width, the narrowest first."""
    return dict(sorted((one.outputs if side == "outputs" else one.inputs).items()))


def _chosen(one: LayerStairs, side: str) -> dict[int, list[str]]:
    """Width -> the layers for which it was chosen, the widest first."""
    found: dict[int, list[str]] = {}
    for name, widths in one.chosen.items():
        found.setdefault(widths[1 if side == "outputs" else 0], []).append(name)
    return dict(sorted(found.items(), reverse=True))


def _short(one: LayerStairs) -> str:
    return one.layer.removeprefix("convolution ").replace("->", "→")
