"""One command line, run in this process: the imports are paid for once."""

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # clockwork.py


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


@pytest.fixture(scope="session", autouse=True)
def _few_timed_passes() -> Iterator[None]:
    """A latency is timed for as many runs as were asked for, not for seconds: how exact it is is tested elsewhere."""
    from pruning_bootcamp.flow.steps import ways
    from pruning_bootcamp.sweep import trial

    def briefly(timed: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **settings: timed(*args, **settings | {"min_seconds": 0.0, "warmup_seconds": 0.0})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ways, "compare_latencies", briefly(ways.compare_latencies))
        patch.setattr(trial, "measure_latency_with_stats", briefly(trial.measure_latency_with_stats))
        yield


@pytest.fixture
def run() -> Callable[[tuple[str, ...]], tuple[int, str]]:
    return run_command


@pytest.fixture(scope="session")
def command() -> Callable[..., str]:
    """command(folder, *arguments, expect=0): the output of a command run in `folder`; another exit code fails.

    `expect=None`: 0, or 3 where a goal is missed.
    """

    def command(folder: Path, *arguments: str, expect: int | None = 0) -> str:
        with contextlib.chdir(folder):
            code, text = run_command(arguments)
        assert code in ((0, 3) if expect is None else (expect,)), f"{arguments}: exit {code}\n{text}"
        return text

    return command
