"""A run's folder: atomic writes, the resolved config at the start, metrics.yaml as the finish mark at the end."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import Kind, Plain, from_plain

# libyaml where it is built in: the same text in a fifth of the time
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
TEMPORARY_PREFIX = ".tmp-"
METRICS = "metrics.yaml"
CONFIG = "config.yaml"
LAYER_TIMES = "layer_times.yaml"
SEARCH = "search.yaml"

# What a run may have written. Only these are moved aside when another run takes the folder.
# The config, which says whose they are, comes last: a kill in between leaves the rest to be moved by the next run.
RUN_FILES = (
    METRICS,
    "*_metrics.yaml",
    "profile.yaml",
    LAYER_TIMES,
    SEARCH,
    "best_model.pth",
    "pruned_model.pth",
    "step_*.pth",
    "training_state.pth",
    "recovery",
    "points.json",
    "sensitivity.yaml",
    "sensitivity.csv",
    "sensitivity.html",
    "model.onnx",
    "model_int8.onnx",
    "model_sparse.safetensors",
    "model_sparse.pt",
    "model.pt",
    "model.pt2",
    "logs",
    "log.txt",
    "report.md",
    "model_card.md",
    "status.yaml",
    "export",
    "cycle_*",
    "dense",
    "trials",
    "trials.csv",
    "trial.yaml",
    "sweep.yaml",
    "study.db*",
    "pareto.html",
    "worker_*.log",
    CONFIG,
)


def disk_error(error: OSError, path: Path, elsewhere: str = "--save-dir DIR") -> BootcampError:
    """What the operating system said about a write, in words that help; `elsewhere` is how to choose another place."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BootcampError(f"{path}: no space left on the disk. Free some, or write elsewhere with {elsewhere}.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return BootcampError(f"{path}: no permission to write here. Choose another folder with {elsewhere}.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return BootcampError(f"{path}: a file stands where a folder is needed. Choose another with {elsewhere}.")
    return BootcampError(f"{path}: could not be written ({error.strerror or error}).")


def cache_folder() -> Path:
    """PRUNING_BOOTCAMP_CACHE, else the user's cache folder by the XDG rules."""
    chosen = os.environ.get("PRUNING_BOOTCAMP_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "pruning_bootcamp"


@contextlib.contextmanager
def atomic_path(path: Path | str, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed to `path` when the block ends well, removed when it does not.

    A reader sees the old file or the whole new one, whenever the process is killed. A failing disk is a BootcampError.
    The temporary file exists, empty and ours, before the block opens it: a link planted under its name is not followed.
    A link under the name of `path` itself is replaced by the file. Without `durable` nothing waits for the disk, and a
    power cut may lose the file.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_temporaries(path.parent, path.name)
        with contextlib.suppress(FileNotFoundError):  # an earlier process's with the same number, or planted
            temporary.unlink()
        mode = _create(temporary)
        yield temporary
        _settle(temporary, mode, durable)
        os.replace(temporary, path)
        if durable:
            _fsync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder for files that nobody keeps, gone when the block ends. A failing disk is a BootcampError."""
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    except OSError as error:
        place = Path(tempfile.tempdir or "the folder for temporary files")
        if error.filename is not None and not Path(str(error.filename)).is_relative_to(place):
            raise  # about a file elsewhere
        raise disk_error(error, place, "TMPDIR=DIR before the command") from error


def _create(temporary: Path) -> int:
    """A new, empty file, and its permissions: what the umask leaves of 0664, so for everybody to write in no case."""
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o664)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _settle(temporary: Path, mode: int, durable: bool) -> None:
    """What was written is a file, not a link, with these permissions; and it reaches the disk."""
    descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:  # safetensors puts a file of its own in our file's place
            os.fchmod(descriptor, mode)
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_folder(folder: Path) -> None:
    """The rename itself reaches the disk. Some file systems do not offer this; the file is whole there all the same."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def publish(source: Path, target: Path) -> None:
    """The file under a second name, atomically: as a hard link, so that it is there once; a copy where none can be."""
    if target.exists() and os.path.samefile(source, target):
        return
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        os.replace(temporary, target)
    except OSError:  # another file system, or one without links; what is wrong with the disk the copy will say
        temporary.unlink(missing_ok=True)
        with atomic_path(target) as copy:
            shutil.copyfile(source, copy)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 to a temporary name, then rename: a reader finds the old text or the new one, never half of it."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_yaml(path: Path | str, content: Mapping[str, Any], comment: str = "") -> None:
    """Atomic YAML with the keys in the order given; `comment` lines come first, each behind a `#`."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    write_text(path, head + yaml_text(content))


def yaml_text(content: Mapping[str, Any]) -> str:
    """The table as YAML, its keys in the order given."""
    text: str = yaml.dump(dict(content), Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=120)
    return text


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The table in a YAML file. Missing, unreadable or not a table: BootcampError."""
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BootcampError(f"{path}: there is no such file. {siblings(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BootcampError(f"{path}: can't be read ({error}).") from None
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        # the parser's own complaints, and what its readers of dates, numbers and tags let through
        raise BootcampError(f"{path}: is not valid YAML. {' '.join(str(error).split())[:300]}") from None
    if not isinstance(content, dict):
        raise BootcampError(f"{path}: holds {type(content).__name__}, not a table of names and values.")
    return content


def read_results(kind: type[Kind], path: Path | str) -> Kind:
    """What a file of results holds. Missing, unreadable or damaged: a BootcampError that says which file and value."""
    return from_plain(kind, read_yaml(path), str(path))


def content_hash(path: Path) -> str:
    """SHA-256 of a file's content, 16 digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def siblings(path: Path) -> str:
    """What stands where a missing file was looked for: the nearest name, or the folder that is missing too."""
    from pruning_bootcamp.errors import listed, nearest

    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    if folder != path.parent:
        return f"There is no folder {path.parent} either."
    names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    close = nearest(path.name, names)
    alike = [name for name in names if Path(name).suffix == path.suffix]
    hint = f"Did you mean '{folder / close}'? " if close else ""
    place = "The current folder" if folder == Path() else folder
    return f"{hint}{place} holds {listed(alike or names, 8) if names else 'nothing'}."


@dataclass
class Run:
    """One folder under results/, the config that made it, and whether it is finished."""

    folder: Path
    command: str
    fingerprint: str
    outputs: tuple[str, ...] = ()
    """files without which it is not finished, whatever metrics.yaml says"""

    def path(self, name: str) -> Path:
        """Where the run keeps its file of that name, there or not."""
        return self.folder / name

    def finished(self) -> dict[str, Any] | None:
        """The metrics of this very run (same fingerprint) when it is complete, else None."""
        if not all(self.path(name).exists() for name in (METRICS, *self.outputs)):
            return None
        metrics = read_yaml(self.path(METRICS))
        done = metrics.get("fingerprint") == self.fingerprint and metrics.get("status") == "complete"
        return metrics if done else None

    def is_in_folder(self) -> bool:
        """Whether the files in the folder are this very run's, finished or not."""
        return _fingerprint_in(self.folder) == self.fingerprint

    def finish(self, metrics: Mapping[str, Plain]) -> dict[str, Plain]:
        """Write metrics.yaml, the last file of a run, and give back what it holds."""
        content = {**metrics, "fingerprint": self.fingerprint, "status": "complete"}
        note = (
            "flops_g: multiply-accumulates in 10^9, as pruning papers print FLOPs; accuracy and drops in percent points"
        )
        write_yaml(self.path(METRICS), content, note)
        return content


def open_run(
    folder: Path,
    command: str,
    config: Mapping[str, Plain],
    fingerprint: str,
    fresh: bool = False,
    kept_for_others: tuple[str, ...] = (),
) -> Run:
    """The run of this config in `folder`: new, to be continued, or finished.

    Another run's files found there (another fingerprint, or this one's with `fresh`) are moved to `previous-N` inside
    the folder, and a message says so: nothing is overwritten or lost.
    """
    run = Run(folder, command, fingerprint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        other = _fingerprint_in(folder)
        if other is not None and (fresh or other != fingerprint):
            _move_aside(folder, (*(kept_for_others if fresh else ()), *RUN_FILES))
    except OSError as error:
        raise disk_error(error, folder) from error
    if not run.path(CONFIG).exists():
        comment = f"{command} -c {folder / CONFIG}\nfingerprint: {fingerprint}"
        write_yaml(run.path(CONFIG), config, comment)
    return run


def command_in(folder: Path) -> str | None:
    """The command that began the run in the folder, as its config's first line says; None where that says none."""
    with open(folder / CONFIG, encoding="utf-8", errors="replace") as stream:
        found = re.match(r"# pruning-bootcamp ([a-z -]+?) -c ", stream.readline(1000))
    return found[1] if found else None


def _fingerprint_in(folder: Path) -> str | None:
    """Whose files the folder holds; "" when it is a run's, but which can't be told; None for no run at all."""
    config, metrics = folder / CONFIG, folder / METRICS
    if config.exists():
        found = re.search(r"^# fingerprint: (\w+)$", config.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if found:
            return found[1]
    return "" if config.exists() or metrics.exists() else None


def _move_aside(folder: Path, patterns: tuple[str, ...]) -> None:
    number = 1
    while (folder / f"previous-{number}").exists():
        number += 1
    aside = folder / f"previous-{number}"
    aside.mkdir()
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            shutil.move(str(path), aside / path.name)
    LOGGER.info("%s held another run; its files are kept in %s", folder, aside)


def remove_leftovers(folder: Path) -> None:
    """Temporary files of processes that were killed. Those of living processes stay."""
    for place in (folder, *folder.glob("cycle_*")):
        _remove_temporaries(place)


def _remove_temporaries(folder: Path, name: str = "") -> None:
    """Those in the folder whose process is gone; with a `name`, those that were to become it."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        # no process has a number of ten digits, and the system refuses to be asked for one
        found = re.match(rf"{re.escape(TEMPORARY_PREFIX)}([0-9]{{1,9}})-(.*)", path.name, re.DOTALL)
        if found and name in ("", found[2]) and not _alive(int(found[1])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if process == os.getpid():
        return False  # this process is only now opening the run: the file is an earlier one's with the same number
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
