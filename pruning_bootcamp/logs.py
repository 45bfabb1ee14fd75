"""Where the program's words go: plain lines on the screen (above any progress bar), and the same lines in log.txt."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from pathlib import Path

LOGGER = logging.getLogger("pruning_bootcamp")
_FEW = 10_000  # lines remembered until a run has its folder


class _Screen(logging.Handler):
    """Writes through tqdm, so that a line never lands in the middle of a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def start_screen(debug: bool = False) -> None:
    """Show the project's messages on the screen: from INFO up, from DEBUG up with `debug`. Other ranks stay silent."""
    LOGGER.handlers.clear()
    LOGGER.propagate = False
    LOGGER.setLevel(logging.DEBUG if debug else logging.INFO)
    if _leads():
        screen = _Screen()
        screen.setFormatter(logging.Formatter("%(message)s"))
        LOGGER.addHandler(screen)
        LOGGER.addHandler(_memory())


@contextlib.contextmanager
def shown(verbose: bool) -> Iterator[None]:
    """Inside, what is said goes to the screen as a command's does; warnings alone unless `verbose`."""
    before = LOGGER.handlers[:], LOGGER.propagate, LOGGER.level
    if not LOGGER.handlers:
        start_screen()
    screens = [handler for handler in LOGGER.handlers if isinstance(handler, _Screen)]
    for screen in screens:
        screen.setLevel(logging.NOTSET if verbose else logging.WARNING)
    try:
        yield
    finally:
        for screen in screens:
            screen.setLevel(logging.NOTSET)
        LOGGER.handlers[:], LOGGER.propagate = before[0], before[1]
        LOGGER.setLevel(before[2])


def _memory() -> MemoryHandler:
    return MemoryHandler(_FEW, flushLevel=logging.CRITICAL + 1, flushOnClose=False)


def _leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def also_to_file(path: Path) -> Iterator[None]:
    """Inside, every message is also appended to `path` with its time, after those since the last file's end.

    Of several processes only the first writes.
    """
    if not _leads():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for memory in [known for known in LOGGER.handlers if isinstance(known, MemoryHandler)]:
        memory.setTarget(handler)
        memory.flush()
        LOGGER.removeHandler(memory)
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        handler.close()
        LOGGER.addHandler(_memory())
