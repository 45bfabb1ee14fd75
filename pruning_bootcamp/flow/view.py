"""How a run looks in a terminal: the stages with their marks, progress and time left; the same for `status`."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pruning_bootcamp.flow.status import Progress, Status, StepStatus
from pruning_bootcamp.pruning.pipeline_stages import PruningStage

MARKS = {
    "waiting": "⚪",
    "running": "🟢",
    "done": "✅",
    "reused": "✅",
    "skipped": "➖",
    "failed": "❌",
    "interrupted": "⏸️ ",
}
_PIPED_WIDTH = 140
_STATES = {"complete": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}


@contextlib.contextmanager
def live(progress: Progress) -> Iterator[None]:
    """Inside, the view stands below the messages and moves; where there is no terminal the messages are all."""
    console = Console()
    if not console.is_terminal:
        yield
        return
    with Live(get_renderable=lambda: render(progress.status, console.height), console=console, refresh_per_second=4):
        yield


def show(status: Status) -> None:
    """Print the view once."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=_PIPED_WIDTH)
    console.print(render(status))


def follow(read: Callable[[], Status]) -> None:
    """The view, read anew every half second, until the run ends or Ctrl-C."""
    found, console = read(), Console()
    first = render(found, console.height)
    with Live(first, console=console, auto_refresh=False) as shown, contextlib.suppress(KeyboardInterrupt):
        while found.state == "running":
            time.sleep(0.5)
            found = read()
            shown.update(render(found, console.height), refresh=True)


def render(status: Status, height: int | None = None) -> RenderableType:
    """The whole view; while it runs in a terminal of `height` lines, the steps around the running one."""
    now = time.time() if status.state == "running" else status.updated
    table = Table(box=None, padding=(0, 1), expand=False)
    table.add_column("")
    table.add_column("stage", no_wrap=True)
    table.add_column("step", ratio=3)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("", ratio=2)
    shown = ""
    steps = range(len(status.steps)) if height is None or status.state != "running" else _around(status.steps, height)
    _left_out(table, steps.start, "above")
    for line in status.steps[steps.start : steps.stop]:
        stage = line.stage or "Dense network"
        table.add_row(
            MARKS[line.state],
            Text("" if stage == shown else stage, style="bold" if line.state == "running" else ""),
            Text(_short_title(line), style="" if line.state != "waiting" else "dim"),
            _time(line, now),
            "" if line.peak_memory_mb is None else f"{line.peak_memory_mb:.0f} MiB",
            _what(line, now),
        )
        shown = stage
    _left_out(table, len(status.steps) - steps.stop, "below")
    ending = PruningStage.COMPLETE if status.state != "failed" else PruningStage.FAILED
    over = status.state in ("complete", "failed")
    mark = MARKS["waiting"] if not over else MARKS["done" if status.state == "complete" else "failed"]
    table.add_row(mark, Text(ending.display_name, style=_STATES[status.state] if over else ""), "", "", "", "")
    heading = Text.assemble(
        (status.name, "bold"), "  ", (status.state, _STATES[status.state]), f"  {_span(now - status.begun)}"
    )
    parts: list[RenderableType] = [heading, table]
    if status.reason:
        parts.append(Text(status.reason, style=_STATES[status.state]))
    return Group(*parts)


def _around(lines: Sequence[StepStatus], height: int) -> range:
    """The lines to show: all where they fit, each of them perhaps wrapped; else those around the one that runs."""
    room = min(max((height - 6) // 2, 3), len(lines))
    begun = [number for number, line in enumerate(lines) if line.state != "waiting"]
    middle = begun[-1] if begun else 0
    start = min(max(middle - room // 2, 0), len(lines) - room)
    return range(start, start + room)


def _left_out(table: Table, count: int, where: str) -> None:
    if count:
        table.add_row("", "", Text(f"... {count} more {where}", style="dim"), "", "", "")


def _short_title(line: StepStatus) -> str:
    """Without the stage, which stands beside it."""
    title = line.title
    for stage in PruningStage:
        for name in (stage.display_name, stage.display_name.capitalize()):
            title = title.removeprefix(f"{name}: ")
    return "" if title == line.stage else title


def _time(line: StepStatus, now: float) -> str:
    if line.begun is not None:
        return _span(now - line.begun)
    if line.seconds is None:
        return ""
    from_ = f" from step {line.first}" if line.first else ""
    return f"{_span(line.seconds)}{from_}{' (kept)' if line.state == 'reused' else ''}"


def _what(line: StepStatus, now: float) -> RenderableType:
    if line.state != "running" or not line.total:
        return Text(line.text, style="dim" if line.state in ("skipped", "waiting") else "")
    left = ""
    if line.begun is not None and line.done > line.first:
        left = f", {_span((now - line.begun) * (line.total - line.done) / (line.done - line.first))} left"
    said = f"{100 * line.done / line.total:.0f}%{left}{', ' + line.text if line.text else ''}"
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=line.total, completed=line.done, width=20), Text(said))
    return bar


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
