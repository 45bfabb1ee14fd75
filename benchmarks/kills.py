"""A command, killed again and again: does it always end with the same bits, and nothing left lying about?

    .venv/bin/python benchmarks/kills.py --kills 200 --writes 0 --faults 0      200 random moments of a pipeline
    .venv/bin/python benchmarks/kills.py --kills 0                              every state that a kill can leave
    .venv/bin/python benchmarks/kills.py prune-structured --kills 50 --writes 0 --faults 0       another command

What is run is small: digits, a ResNet-20, a few steps. One unbroken run is the measure. Then
  kills   the command runs in a process of its own and gets SIGKILL at a random moment, up to five times in a row in
          one folder, and is typed again until it is done;
  writes  the folder is copied at every write, rename, removal and fsync of an unbroken run, which is what a kill just
          then would leave (whole writes and halves of them), and the command is typed again in each copy;
  faults  the disk is full, or read-only, at the n-th write: the run must end with a message and exit 2, and the next
          one must go on.
Each ends with the same network, files and metrics as the unbroken run, to the bit, and with no other files.
The summary is printed as YAML; exit 1 if anything differed.
"""

import argparse
import contextlib
import errno
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: children are forked, and a pool of threads does not survive that

import torch
import yaml

from pruning_bootcamp.config import load
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow import commands
from pruning_bootcamp.logs import start_screen
from pruning_bootcamp.preflight import check

CONFIG = Path(__file__).resolve().parents[1] / "cfgs" / "smoke" / "pipeline.yaml"
QUICK = ("recover.steps=4", "recover.images=64", "recover.batch_size=32", "sensitivity.images=32")
# command -> what runs it, and settings that make it do as much as it can
COMMANDS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "pipeline run": (commands.pipeline, ()),
    "train": (commands.train, ("train.save_steps=[0it,2it]",)),
    "prune-unstructured": (commands.prune_unstructured, ("prune.iterations=2", "recover.method=distill")),
    "prune-structured": (
        commands.prune_structured,
        ("recover.method=distill", "structured.refit=closed_form", "structured.calibration_images=64"),
    ),
    "sensitivity": (commands.sensitivity, ("sensitivity.sparsities=[0.5,0.9]", "sensitivity.by=block")),
    "eval": (commands.evaluate, ()),
    "export": (commands.export, ("export.format='onnx,sparse'", "export.verify=false")),
    "profile": (commands.profile, ("profile.measure_latency=false",)),
    "quickstart": (commands.quickstart, ("profile.measure_latency=false",)),
}
BEGIN_WITH_A_NETWORK = {*COMMANDS} - {"pipeline run", "train", "quickstart"}
PYTHON = ("CompressionPipeline", "IterativePruningTrainer")
# What differs between any two runs: times and where they begin, TensorBoard's files with the process in their names.
_TIMES = ("peak_memory_mb", "first", "environment", "save_dir")
_OWN = {"log.txt", "status.yaml", "report.md"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", nargs="?", default="pipeline run", choices=[*COMMANDS, *PYTHON])
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs at random moments")
    parser.add_argument("--writes", type=int, default=None, help="at most so many states between writes (all)")
    parser.add_argument("--faults", type=int, default=None, help="at most so many failing writes of each kind (all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial(options.command, Path(scratch), random.Random(options.seed))
        summary = {
            "command": options.command,
            "unbroken_seconds": round(trial.seconds, 2),
            "kills": trial.kills(options.kills),
            "writes": trial.writes(options.writes),
            "full_disk": trial.faults(errno.ENOSPC, options.faults),
            "read_only": trial.faults(errno.EROFS, options.faults),
        }
    print(yaml.safe_dump(summary, sort_keys=False), end="")
    sys.exit(1 if any(part.get("wrong") for part in summary.values() if isinstance(part, dict)) else 0)


class Trial:
    """The unbroken run, and what is compared with it."""

    def __init__(self, command: str, root: Path, chance: random.Random) -> None:
        self.command, self.root, self.chance = command, root, chance
        self.dense = root / "dense" / "best_model.pth"
        if command in BEGIN_WITH_A_NETWORK:
            self._end(self._start(root / "dense", command="train"))
        begun = time.perf_counter()
        self._end(self._start(root / "unbroken"))
        self.seconds = time.perf_counter() - begun
        self.expected = outcome(root / "unbroken")
        assert self.expected, "the unbroken run left nothing to compare with"

    def kills(self, count: int) -> dict[str, Any]:
        """SIGKILL at random moments of the time that an unbroken run takes."""
        sent, folders, finished_first, wrong = 0, 0, 0, []
        while sent < count:
            folder = self.root / f"killed-{folders}"
            folders += 1
            for _ in range(min(5, count - sent)):
                child = self._start(folder)
                ended = self._wait(child, self.chance.uniform(0, self.seconds))
                if ended:
                    finished_first += 1
                    break
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                sent += 1
            wrong += self._resume(folder)
        return {"sent": sent, "runs": folders, "finished_first": finished_first, "wrong": wrong}

    def writes(self, limit: int | None) -> dict[str, Any]:
        """Resume from every state of the folder between two changes of an unbroken run."""
        if limit == 0:
            return {"tried": 0}
        states = self.root / "states"
        events = self._count("states-run", lambda: snapshots(self.root / "states-run", states))
        names = sorted(path.name for path in states.iterdir())
        chosen = names if limit is None else self.chance.sample(names, min(limit, len(names)))
        wrong = []
        for name in sorted(chosen):
            wrong += self._resume(states / name)
        return {"events": events, "states": len(names), "tried": len(chosen), "wrong": wrong}

    def faults(self, number: int, limit: int | None) -> dict[str, Any]:
        """The n-th write fails: a message and exit 2, and the next run goes on."""
        if limit == 0:
            return {"tried": 0}
        name = errno.errorcode[number].lower()
        total = self._count(f"{name}-count", lambda: failing(0, number))
        chosen = list(range(1, total + 1))
        if limit is not None:
            chosen = sorted(self.chance.sample(chosen, min(limit, total)))
        codes, wrong = Counter[str](), []
        for n in chosen:
            folder = self.root / f"{name}-{n}"
            code = self._end(self._start(folder, lambda n=n: failing(n, number)))  # type: ignore[misc]
            codes[f"exit {code}"] += 1
            if code not in (0, 2):  # 0: what could not be written can be done without
                wrong.append(f"{name} at write {n}: exit {code}")
            wrong += self._resume(folder)
        if chosen and (self.root / f"{name}-count" / "status.yaml").exists():
            folder = self.root / f"{name}-status"
            if (code := self._end(self._start(folder, lambda: failing(None, number)))) != 2:
                wrong.append(f"{name} for status.yaml alone: exit {code}, and a run that can't say it ended must not")
            wrong += self._resume(folder)
        return {"writes": total, "tried": len(chosen), **codes, "wrong": wrong}

    def _count(self, name: str, watch: Callable[[], Any]) -> int:
        path = self.root / f"{name}.count"
        child = self._start(self.root / name, watch, count_to=path)
        assert self._end(child) == 0, f"{name} ended with an error"
        return int(path.read_text())

    def _resume(self, folder: Path) -> list[str]:
        """Run to the end; what is wrong with the result."""
        code = self._end(self._start(folder))
        found = outcome(folder) if code == 0 else {}
        wrong = [f"{folder.name}: exit {code}"] if code else []
        wrong += [
            f"{folder.name}: {name} differs"
            for name in self.expected
            if code == 0 and found.get(name) != self.expected[name]
        ]
        wrong += [f"{folder.name}: stray {name}" for name in found if name not in self.expected]
        shutil.rmtree(folder, ignore_errors=True)
        return wrong

    def _start(
        self,
        folder: Path,
        around: Callable[[], Any] | None = None,
        count_to: Path | None = None,
        command: str | None = None,
    ) -> int:
        """The command in a forked process; its number."""
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
                start_screen()
                work = work_for(command or self.command, folder, self.dense)
                with around() if around is not None else contextlib.nullcontext() as counted:
                    work()
                if count_to is not None and counted is not None:
                    count_to.write_text(str(counted["events"]))
            code = 0
        except BootcampError as error:
            code = error.exit_code
        except BaseException as error:  # noqa: BLE001  # the process ends here, and its code says it
            print(f"{folder.name}: {type(error).__name__}: {error}", file=sys.stderr)
            if os.environ.get("KILLS_DEBUG"):
                import traceback

                traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    @staticmethod
    def _end(child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    @staticmethod
    def _wait(child: int, seconds: float) -> bool:
        """Whether the child ended by itself within the time."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            if os.waitpid(child, os.WNOHANG)[0]:
                return True
            time.sleep(0.002)
        return False


def work_for(command: str, folder: Path, dense: Path) -> Callable[[], Any]:
    """What is run: a command with its checked config, or a trainer of one's own loop."""
    if command in PYTHON:
        return lambda: in_python(command, folder)
    run, overrides = COMMANDS[command]
    options = {"save_dir": str(folder)} | ({"checkpoint": str(dense)} if command in BEGIN_WITH_A_NETWORK else {})
    cfg = load(CONFIG, (*QUICK, *overrides), options)
    check(cfg, command, str(CONFIG))
    return lambda: run(cfg, baseline=str(dense)) if command == "profile" else run(cfg)


def in_python(name: str, folder: Path) -> None:
    """The trainer on random numbers that can be learnt; its last file is in the folder."""
    from torch.utils.data import DataLoader, TensorDataset

    from pruning_bootcamp import CompressionPipeline, IterativePruningTrainer

    torch.manual_seed(0)
    inputs = torch.randn(96, 12)
    data = DataLoader(TensorDataset(inputs, inputs[:, :4].argmax(1)), batch_size=16, shuffle=True)
    model = torch.nn.Sequential(torch.nn.Linear(12, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    if name == "IterativePruningTrainer":
        trainer = IterativePruningTrainer(model, num_iterations=4, device="cpu")
        trainer.run_iterative_pruning(data, data, 2, 1e-2, save_dir=folder)
        return
    pipeline = CompressionPipeline(model, 6.0, device="cpu")
    pipeline.run_pipeline(data, data, 2, 3, 2, 1e-2, save_dir=folder)
    pipeline.save(folder / "compressed")


def outcome(folder: Path) -> dict[str, str]:
    """File -> hash of what must be the same; of the others only that they are there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or "logs" in path.relative_to(folder).parts:
            continue
        if path.name in _OWN:
            found[name] = "there"
        elif path.suffix == ".yaml":
            text = repr(untimed(yaml.safe_load(path.read_text())))
            for place in (folder, folder.parents[1] / "states-run"):  # whence the states were copied
                text = text.replace(str(place), "DIR")
            found[name] = text
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def untimed(content: Any) -> Any:
    """Without what differs between any two runs."""
    if isinstance(content, dict):
        left = {key: value for key, value in content.items() if key not in _TIMES and not str(key).endswith("seconds")}
        return {key: untimed(value) for key, value in left.items()}
    return [untimed(value) for value in content] if isinstance(content, list) else content


@contextlib.contextmanager
def _patched(change: Callable[[str], Callable[..., Any]]) -> Iterator[None]:
    names = ("replace", "fsync", "unlink", "mkdir", "rename", "rmdir")
    originals = {name: getattr(os, name) for name in names}
    try:
        for name in names:
            setattr(os, name, change(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


@contextlib.contextmanager
def snapshots(folder: Path, into: Path) -> Iterator[dict[str, int]]:
    """Inside, the folder is copied before and after every change, once for each content; a half-written file too."""
    seen: set[str] = set()
    counted = {"events": 0}
    originals = {name: getattr(os, name) for name in ("replace", "fsync", "unlink", "mkdir", "rename", "rmdir")}
    into.mkdir(exist_ok=True)

    def copy(halve: Path | None = None) -> None:
        entries = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []
        text = "".join(f"{p.relative_to(folder)} {hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in entries)
        digest = hashlib.sha256(f"{text}{halve}".encode()).hexdigest()[:16]
        if digest in seen or not entries:
            return
        seen.add(digest)
        target = into / f"{len(seen):04d}"
        for path in entries:
            place = target / path.relative_to(folder)
            os.makedirs(place.parent, exist_ok=True)
            content = path.read_bytes()
            place.write_bytes(content[: len(content) // 2] if path == halve else content)

    def change(name: str) -> Callable[..., Any]:
        def changed(*args: Any, **named: Any) -> Any:
            restored = {key: getattr(os, key) for key in originals}
            for key, original in originals.items():
                setattr(os, key, original)  # copying is not watched
            counted["events"] += 1
            if name == "replace":
                copy(halve=Path(args[0]))  # the kernel may have written only a part
            copy()
            try:
                return originals[name](*args, **named)
            finally:
                copy()
                for key, watched in restored.items():
                    setattr(os, key, watched)

        return changed

    with _patched(change):
        yield counted


@contextlib.contextmanager
def failing(at: int | None, number: int) -> Iterator[dict[str, int]]:
    """Inside, the `at`-th file that is put in place or made durable can't be (0: none fails, they are only counted).

    Folders made durable do not count, nor does status.yaml, which is written as time goes by; `at` None: it alone
    fails, every time.
    """
    counted = {"events": 0}
    originals = {name: getattr(os, name) for name in ("replace", "fsync", "mkdir")}

    def change(name: str) -> Callable[..., Any]:
        if name not in originals:
            return getattr(os, name)  # type: ignore[no-any-return]

        def changed(*args: Any, **named: Any) -> Any:
            if name == "mkdir" and Path(args[0]).is_dir():
                return originals[name](*args, **named)
            path = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else str(args[0])
            if name == "fsync" and os.path.isdir(path):  # some file systems don't offer it: no harm
                return originals[name](*args, **named)
            status = "status.yaml" in path
            counted["events"] += not status
            if (status and at is None) or (not status and counted["events"] == at):
                raise OSError(number, os.strerror(number), str(args[0]))
            return originals[name](*args, **named)

        return changed

    with _patched(change):
        yield counted


if __name__ == "__main__":
    main()
