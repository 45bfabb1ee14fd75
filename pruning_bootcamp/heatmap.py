"""A sensitivity scan to look at: a heat map for the terminal, for report.md, as CSV, and as a page of its own."""

import csv
import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pruning_bootcamp import pages
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.reporting import markdown_table
from pruning_bootcamp.reporting.plots import Figure, axes, plain
from pruning_bootcamp.results import Scan, ScanRow
from pruning_bootcamp.sensitivity import ranking

# From so many points lost on: a sign that can be told without colour, and the colours behind and of the text.
_STEPS = (
    (float("-inf"), " ", None, None),
    (0.5, "·", "#fff3c4", "#1b1f24"),
    (2.0, "░", "#ffd166", "#1b1f24"),
    (5.0, "▒", "#f79d4d", "#1b1f24"),
    (15.0, "▓", "#dd5b3f", "#ffffff"),
    (40.0, "█", "#8f1d2c", "#ffffff"),
)
_PIPED_WIDTH = 140
_NAMED = 3  # layers named as the most and the least sensitive
_SCALE: Plain = [[0.0, "#fffdf5"], [0.25, "#ffd166"], [0.5, "#f79d4d"], [0.75, "#dd5b3f"], [1.0, "#6b0f24"]]


def loss_added(scan: Scan, row: ScanRow) -> list[float]:
    """How much loss each sparsity of the row adds to the dense network's; below 0 where it takes some away."""
    return [point.loss - scan.dense.loss for point in row.points]


def show_heat_map(scan: Scan) -> None:
    """Print the heat map and what it says."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPED_WIDTH)
    console.print(render(scan, colour=console.color_system is not None))


def render(scan: Scan, colour: bool = False) -> RenderableType:
    """Rows in the network's order, a column a sparsity, points lost in the cells; signs without colour."""
    table = Table(box=None, padding=(0, 0))
    table.add_column(scan.by, no_wrap=True)
    table.add_column("  weights  ", justify="right", no_wrap=True)
    for sparsity in scan.sparsities:
        table.add_column(f"{100 * sparsity:g}%".rjust(6), no_wrap=True, min_width=8)
    for row in scan.rows:
        cells = [_cell(lost, colour) for lost in scan.points_lost(row)]
        table.add_row(Text(row.name), Text(f"{row.size:,}  "), *cells)
    legend = Text("points lost: ")
    for (least, sign, back, front), (above, *_) in zip(_STEPS[1:], [*_STEPS[2:], (None,)], strict=True):
        style = f"{front} on {back}" if colour else ""
        legend.append(
            f" {'' if colour else f'{sign} '}{least:g}{'+' if above is None else f' to {above:g}'} ", style=style
        )
    return Group(Text(f"\n{_title(scan)}", style="bold"), table, legend, Text(summary(scan)))


def _cell(lost: float, colour: bool) -> Text:
    _, sign, back, front = next(step for step in reversed(_STEPS) if lost >= step[0])
    if not colour:
        return Text(f"{_number(lost):>6} {sign}")
    # non-breaking: other spaces at a cell's end get no colour
    return Text(f"{_number(lost):>6}\u00a0\u00a0", style="" if back is None else f"{front} on {back}")


def _lost_title(scan: Scan) -> str:
    return f"Points of {scan.judged.title} lost"


def _number(lost: float) -> str:
    return f"{round(lost, 1) + 0.0:.1f}"  # + 0.0: no -0.0


def _title(scan: Scan) -> str:
    return (
        f"One {scan.by} pruned alone ({scan.score}, {scan.pattern}): points of {scan.judged.title} lost on "
        f"{scan.judged_on} (dense: {scan.judged.text(scan.dense.accuracy)})"
    )


def summary(scan: Scan) -> str:
    """Which places mind most and which least, by mean loss added over the sparsities."""
    order = ranking(scan)
    added = {row.name: loss_added(scan, row) for row in scan.rows}
    mean = {name: sum(values) / len(values) for name, values in added.items()}

    def listed(names: Sequence[str]) -> str:
        return ", ".join(f"{name} ({mean[name]:+.3f})" for name in names)

    few = min(_NAMED, max(1, len(order) // 2))
    return (
        f"Most sensitive, by mean loss added: {listed(order[:few])}\n"
        f"Least sensitive: {listed(list(reversed(order[-few:])))}"
    )


def heat_report(scan: Scan, title: str) -> str:
    """report.md: the heat map in numbers."""
    header = [scan.by, "weights", *(f"{100 * sparsity:g}%" for sparsity in scan.sparsities)]
    rows = [[row.name, row.size, *map(_number, scan.points_lost(row))] for row in scan.rows]
    losses = [[row.name, row.size, *(f"{a:.4f}" for a in loss_added(scan, row))] for row in scan.rows]
    parts = [
        f"# {title}",
        f"{_title(scan)}. All else is as it was; nothing is trained. One seed: no spread is claimed.",
        f"## {_lost_title(scan)}",
        markdown_table(header, rows),
        "## Loss added",
        markdown_table(header, losses),
        summary(scan).replace("\n", "\n\n"),
    ]
    return "\n\n".join(parts) + "\n"


def as_csv(scan: Scan) -> str:
    """A line a point."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", "weights", "sparsity", scan.judged.name, "loss", "points_lost", "loss_added"])
    for row in scan.rows:
        for point, lost, added in zip(row.points, scan.points_lost(row), loss_added(scan, row), strict=True):
            metrics = [point.sparsity, point.accuracy, point.loss, round(lost, 4), round(added, 6)]
            writer.writerow([row.name, row.size, *metrics])
    return out.getvalue()


def as_page(scan: Scan, title: str) -> str:
    """sensitivity.html. Needs plotly."""
    lost = [scan.points_lost(row) for row in scan.rows]
    added = [loss_added(scan, row) for row in scan.rows]
    said = "".join(f"<p>{pages.escape(line)}</p>" for line in summary(scan).splitlines())
    body = (
        f"<header><h1>{pages.escape(title)}</h1>\n"
        f"<p>{pages.escape(_title(scan))}. All else is as it was; nothing is trained.</p>{said}</header>\n"
        f'<main id="main">\n<h2>{_lost_title(scan)}</h2>\n'
        f"{_place(scan, 'points', _lost_title(scan), lost, 1)}"
        f"<h2>Loss added</h2>\n{_place(scan, 'loss', 'Loss added', added, 3)}</main>"
    )
    figures = {
        "points": _heat(scan, lost, "points lost", 1, (0.5, 2, 5, 15, 40, 80), root=2),
        "loss": _heat(scan, added, "loss added", 3, (0.01, 0.1, 0.5, 2, 5, 10, 20), root=3),
    }
    return pages.page(title, body, figures)


def _place(scan: Scan, name: str, what: str, values: list[list[float]], digits: int) -> str:
    """Where a heat map goes, and its numbers as a table."""
    columns = [pages.Column(scan.by), pages.Column("weights", numeric=True)]
    columns += [pages.Column(f"{100 * sparsity:g}%", numeric=True) for sparsity in scan.sparsities]
    rows = []
    for row, found in zip(scan.rows, values, strict=True):
        cells = [pages.Cell(f"{round(value, digits) + 0.0:.{digits}f}", value) for value in found]
        rows.append(pages.Row([row.name, pages.Cell(f"{row.size:,}", row.size), *cells]))
    caption = f"{what}, one {scan.by} pruned alone"
    table = pages.table(caption, columns, rows, identifier=f"{name}-table")
    return pages.plot(name, caption, f"A row a {scan.by}, a column a sparsity.", table, _height_px(scan))


def _height_px(scan: Scan) -> int:
    return max(260, 110 + 24 * len(scan.rows))


def _heat(scan: Scan, values: list[list[float]], what: str, digits: int, ticks: Sequence[float], root: int) -> Figure:
    """One heat map. Colours go by a root: a little more counts while little is lost, not when nearly all is."""
    names: list[Plain] = [plain(row.name) for row in scan.rows]
    highest = max((value for row in values for value in row), default=0.0)
    top = max(highest, ticks[0])
    shown_ticks = [0.0, *(tick for tick in ticks if tick <= top)]
    trace: Figure = {
        "type": "heatmap",
        "x": [f"{100 * sparsity:g}%" for sparsity in scan.sparsities],
        "y": names,
        "z": [[max(value, 0.0) ** (1 / root) for value in row] for row in values],
        "text": [[f"{round(value, digits) + 0.0:.{digits}f}" for value in row] for row in values],
        "texttemplate": "%{text}",
        "hovertemplate": "%{y} at %{x}: %{text} " + what + "<extra></extra>",
        "colorscale": _SCALE,
        "zmin": 0.0,
        "zmax": top ** (1 / root),
        "xgap": 2,
        "ygap": 1,
        "colorbar": {
            "title": {"text": what, "side": "right"},
            "thickness": 12,
            "tickvals": [tick ** (1 / root) for tick in shown_ticks],
            "ticktext": [f"{tick:g}" for tick in shown_ticks],
        },
    }
    layout = axes(
        f"sparsity of the one {scan.by}",
        "",
        {"type": "category", "side": "top", "showgrid": False},
        {"autorange": "reversed", "type": "category", "showgrid": False},
    )
    return {"data": [trace], "layout": layout | {"margin": {"t": 80, "b": 16}}}
