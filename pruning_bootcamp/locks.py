"""One process a folder: who works in it is written there, and nobody else begins."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.runs import disk_error

NAME = ".lock"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_TAKEN = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)

_LOOK = 0.2  # seconds


@dataclass(frozen=True)
class Owner:
    """Who works in a folder."""

    command: str
    process: int
    host: str
    since: str

    def __str__(self) -> str:
        where = "" if self.host == socket.gethostname() else f" on {self.host}"
        return f"`{self.command}` (process {self.process}{where}, since {self.since})"


@contextlib.contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Inside, no other process can take the folder; who tries is told who has it. The system lets go when we die.

    The lock is the operating system's (flock) on FOLDER/.lock, which also says who holds it and goes away with it: a
    file that a killed process left behind locks nothing.
    """
    path = folder / NAME
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path, folder)
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        owner = Owner(command, os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only nobody can read whose it is
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(asdict(owner)).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
            if new:
                folder.rmdir()  # nothing was written to it after all
        os.close(descriptor)


def _take(path: Path, folder: Path) -> int:
    begun = time.monotonic()
    while True:
        descriptor = os.open(path, _FLAGS, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                LOGGER.info("%s: this file system has no locks, so a second run in this folder is not noticed", folder)
                return descriptor
            os.close(descriptor)
            if error.errno not in _TAKEN:
                raise
            if time.monotonic() - begun < _LOOK:  # perhaps somebody only looked whose it is, which takes no time
                time.sleep(_LOOK / 10)
                continue
            raise _in_use(folder, _read(path)) from None
        if _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # its owner removed the file between our opening and locking it: try the new one


def check_free(folder: Path) -> None:
    """A BootcampError, which says who it is, when somebody works in the folder; what a killed one left there goes."""
    if (owner := owner_of(folder)) is not None:
        raise _in_use(folder, owner)
    if (folder / NAME).exists():
        with contextlib.suppress(BootcampError), locked(folder, ""):
            pass


def _in_use(folder: Path, owner: Owner | None) -> BootcampError:
    return BootcampError(
        f"{folder}: is in use by {owner or 'another process'}. Wait until it ends, or choose another folder with "
        "--save-dir DIR."
    )


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def owner_of(folder: Path) -> Owner | None:
    """Who works in the folder now; None when nobody does, whatever a killed process left there."""
    path = folder / NAME
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _read(path) or Owner("another command", 0, "", "now") if error.errno in _TAKEN else None
    finally:
        os.close(descriptor)
    return None


def _read(path: Path) -> Owner | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Owner(str(content["command"]), int(content["process"]), str(content["host"]), str(content["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # just being written


def command_line() -> str:
    """What the user typed, for messages."""
    return " ".join(["pruning-bootcamp", *sys.argv[1:]])
