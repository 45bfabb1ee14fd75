"""One command line, run in this process: the imports are paid for once."""

import contextlib
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def run_command(arguments: tuple[str, ...]) -> tuple[int, str]:
    """(exit code, everything printed) of `pruning-bootcamp ARGUMENTS`."""
    from pruning_bootcamp.__main__ import main

    out = io.StringIO()
    before, logger = sys.argv, logging.getLogger("pruning_bootcamp")
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    sys.argv = ["pruning-bootcamp", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.raises(SystemExit) as ending:
            main()
    finally:
        sys.argv = before
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    return int(ending.value.code or 0), out.getvalue()


@pytest.fixture
def run() -> Callable[[tuple[str, ...]], tuple[int, str]]:
    return run_command


@pytest.fixture(scope="session")
def command() -> Callable[..., str]:
    """command(folder, *arguments, expect=0): the output of a command run in `folder`; another exit code fails."""

    def command(folder: Path, *arguments: str, expect: int = 0) -> str:
        with contextlib.chdir(folder):
            code, text = run_command(arguments)
        assert code == expect, f"{arguments}: exit {code}\n{text}"
        return text

    return command
