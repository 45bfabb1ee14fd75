"""pruning-bootcamp, also as python -m pruning_bootcamp: runs the command line; errors -> message and exit code."""

import errno
import os
import sys
from pathlib import Path
from typing import NoReturn

from pruning_bootcamp.cli import app
from pruning_bootcamp.errors import BootcampError


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    try:
        run()
    except SystemExit as ending:
        if os.environ.get("WORLD_SIZE", "1") != "1":  # under torchrun
            from pruning_bootcamp.training.distributed import end_process

            end_process(ending.code if isinstance(ending.code, int) else int(ending.code is not None))
        raise


def run() -> NoReturn:
    """Run the command line. Exit codes: 0 done, 1 a bug, 2 the user's mistake, 3 a goal not met, 130 interrupted."""
    try:
        app(standalone_mode=True)
    except BootcampError as error:
        if "--debug" in sys.argv:
            raise
        _message(f"error: {error}")
        sys.exit(error.exit_code)
    except SystemExit as ending:
        if ending.code == 130:  # Ctrl-C
            _message("interrupted. Nothing is lost: run the same command again to go on.")
        raise
    except OSError as error:
        from pruning_bootcamp.runs import disk_error

        full_or_forbidden = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
        if "--debug" in sys.argv or error.errno not in full_or_forbidden:
            raise
        _message(f"error: {disk_error(error, Path(error.filename or 'the output'))}")
        sys.exit(2)
    sys.exit(0)


def _message(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
