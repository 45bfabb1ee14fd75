"""Third-party chatter (prints, warnings, log lines) kept off the screen and in the debug log."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from pruning_bootcamp.logs import LOGGER


@contextlib.contextmanager
def quiet(who: str) -> Iterator[None]:
    """Inside, what is printed, warned or logged goes to the debug log as `who: ...`.

    Exceptions pass. Only what goes through Python's own streams and loggers is caught.
    """
    said = io.StringIO()
    root = logging.getLogger()
    root_before = root.handlers[:]
    others = [
        logger
        for name, logger in logging.Logger.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and logger.handlers and not name.startswith(LOGGER.name)
    ]
    handlers_before = [(logger, logger.handlers[:]) for logger in others]
    catcher = logging.StreamHandler(said)
    warned: list[warnings.WarningMessage] = []
    try:
        root.handlers = [catcher]
        for logger in others:
            logger.handlers = [] if logger.propagate else [catcher]
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(record=True) as warned,
        ):
            warnings.simplefilter("default")
            yield
    finally:
        root.handlers = root_before
        for logger, handlers in handlers_before:
            logger.handlers = handlers
        for line in (*said.getvalue().splitlines(), *(str(warning.message) for warning in warned)):
            if line.strip():
                LOGGER.debug("%s: %s", who, line.rstrip())
