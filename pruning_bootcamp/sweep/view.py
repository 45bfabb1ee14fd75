"""How a sweep looks in a terminal while it runs: how many are done, what runs, the front so far, time left."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pruning_bootcamp.plain import Plain
from pruning_bootcamp.sweep.outputs import FORMATS, TITLES
from pruning_bootcamp.sweep.space import shown_setting

_MOST_FRONT = 12


@dataclass
class Line:
    """A trial that runs now."""

    settings: dict[str, Plain]
    begun: float
    text: str = ""


@dataclass
class SweepProgress:
    """What the view shows; the sweep keeps it."""

    name: str
    total: int
    workers: int
    done: int = 0
    stopped: int = 0
    failed: int = 0
    repeats: int = 0
    seconds: list[float] = field(default_factory=list)
    running: dict[int, Line] = field(default_factory=dict)
    front: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def time_left(self) -> float | None:
        """Seconds, by the mean of the trials so far; None before the first."""
        if not self.seconds:
            return None
        mean, now = sum(self.seconds) / len(self.seconds), time.time()
        begun = sum(min(now - line.begun, mean) for line in self.running.values())
        return max((self.total - self.done) * mean - begun, 0.0) / self.workers


@contextlib.contextmanager
def live(progress: SweepProgress) -> Iterator[None]:
    """Inside, the view stands below the messages and moves; where there is no terminal the messages are all."""
    console = Console()
    if not console.is_terminal:
        yield
        return
    with Live(get_renderable=partial(render, progress), console=console, refresh_per_second=4):
        yield


def render(progress: SweepProgress) -> RenderableType:
    """The whole view."""
    left = progress.time_left()
    counts = f"{progress.done} of {progress.total} trials"
    for count, what in (
        (progress.stopped, "stopped early"),
        (progress.failed, "failed"),
        (progress.repeats, "repeats"),
    ):
        counts += f", {count} {what}" if count else ""
    head = Table.grid(padding=(0, 1))
    said = counts if left is None else f"{counts}, {left:.0f} s left"
    head.add_row(Text(progress.name, style="bold"), ProgressBar(progress.total, progress.done, width=30), Text(said))
    parts: list[RenderableType] = [head]
    if progress.running:
        table = Table(box=None, padding=(0, 1), header_style="dim")
        for title in ("running", "settings", "time", ""):
            table.add_column(title)
        for number, line in sorted(progress.running.items()):
            each = line.settings.items()
            settings = ", ".join(f"{key.rpartition('.')[2]} {shown_setting(value)}" for key, value in each)
            table.add_row(str(number), Text(settings), f"{time.time() - line.begun:.0f} s", Text(line.text))
        parts.append(table)
    if progress.front:
        table = Table(box=None, padding=(0, 1), header_style="dim")
        table.add_column("best so far")
        for title in TITLES.values():
            table.add_column(title, justify="right")
        for number, values in progress.front[:_MOST_FRONT]:
            table.add_row(str(number), *(FORMATS[name].format(values[name]) for name in FORMATS))
        parts.append(table)
    return Group(*parts)
