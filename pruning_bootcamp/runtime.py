"""The machine: device, seed, threads, versions; each automatic choice with its reason."""

import contextlib
import ctypes
import functools
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.results import Environment


def choose_device(name: str = "auto") -> tuple[torch.device, str]:
    """The device, and why: `cpu (no CUDA or MPS device found)`."""
    cuda = torch.cuda.is_available()
    mps = torch.backends.mps.is_available()
    if name == "auto":
        if cuda:
            local_rank = int(os.environ.get("LOCAL_RANK", "0"))
            return torch.device("cuda", local_rank), f"cuda ({torch.cuda.get_device_name(local_rank)})"
        if mps:
            return torch.device("mps"), "mps (Apple GPU found)"
        return torch.device("cpu"), "cpu (no CUDA or MPS device found)"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BootcampError(f"--device: '{name}' is not a device. Use auto, cpu, cuda, cuda:N or mps.") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise BootcampError(f"--device: '{name}' is not supported. Use auto, cpu, cuda, cuda:N or mps.")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda" and (not cuda or (device.index or 0) >= torch.cuda.device_count()):
        found = f"{torch.cuda.device_count()} CUDA devices" if cuda else "no CUDA device"
        raise BootcampError(f"--device: '{name}' was asked for, and this machine has {found}. Use --device auto.")
    if device.type == "mps" and not mps:
        raise BootcampError("--device: 'mps' was asked for, and this machine has no Apple GPU. Use --device auto.")
    return device, f"{device} (asked for)"


def seed_everything(seed: int) -> None:
    """Python, NumPy and torch (all devices) start from `seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def preserved_rng() -> Iterator[None]:
    """Whatever is drawn inside leaves the CPU and CUDA generators as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextlib.contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Inside, Python, NumPy and torch start from `seed`; afterwards all of them are as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with preserved_rng():
            seed_everything(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def float32_on(device: torch.device) -> str:
    """How torch multiplies float32 there: `float32`, or `float32 by TF32` where a GPU is let round it to 10 bits."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return "float32"
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    try:
        return "float32 by TF32" if any(backend.allow_tf32 for backend in backends) else "float32"
    except RuntimeError:  # set by torch's newer names (`fp32_precision`): torch can't say then what it comes to
        return "float32, perhaps by TF32"


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Inside, CUDA multiplies float32 as float32, not as TF32 with its 10 bits: for sums that are solved for weights.

    A way of computing that somebody has set by torch's newer names (`fp32_precision`) stays: torch can't say then what
    it comes to.
    """
    changed: list[Any] = []
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    try:
        for backend in backends:
            with contextlib.suppress(RuntimeError):
                if backend.allow_tf32:
                    backend.allow_tf32 = False
                    changed.append(backend)
        yield
    finally:
        for backend in changed:
            backend.allow_tf32 = True


@contextlib.contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Inside, torch uses so many CPU threads; afterwards as many as before."""
    before = torch.get_num_threads()
    if threads == before:  # setting a number, even the same, is not free
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that a clock read means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def keep_freed_memory() -> bool:
    """Have the C library keep large blocks for the next use instead of returning them to the system; True if it can.

    Every layer's output is such a block, and taking it anew, page by page, costs more than the arithmetic of a small
    network on many a virtual machine. Only glibc returns them so eagerly; elsewhere nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    trim_threshold, mmap_threshold, never = -1, -3, 2**31 - 1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return bool(mallopt(mmap_threshold, never)) and bool(mallopt(trim_threshold, never))


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far, in MiB (unknown, so 0.0, where `resource` is missing).

    On Linux since the last `restart_peak_memory`.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10


def restart_peak_memory() -> None:
    """From here on `peak_memory_mb` and `device_memory_mb` mean the time since this call, where the system offers it.

    Linux does (/proc/self/clear_refs, where it may be written); elsewhere the peak stays the whole process's.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # 5: the high-water mark, see proc(5)
    if torch.cuda.is_initialized():  # a run on the CPU leaves the GPU alone
        torch.cuda.reset_peak_memory_stats()


def device_memory_mb() -> float | None:
    """Highest memory that torch has allocated on the current CUDA device, in MiB; None where none is in use."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else None


def environment(device: torch.device) -> Environment:
    """What a result depends on and can't be seen from its config: versions, device, threads, commit."""
    from pruning_bootcamp import __version__

    return Environment(
        pruning_bootcamp=__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),  # a subclass of str, which YAML refuses
        platform=f"{platform.system()} {platform.machine()}",
        device=f"{device} ({processor_name(device)})",
        threads=torch.get_num_threads(),
        commit=_commit(),
        time=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    )


def processor_name(device: torch.device) -> str:
    """What the maker calls the GPU, or this machine's CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


@functools.cache
def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def has_amx() -> bool | None:
    """Whether this machine's CPU multiplies int8 matrices in tiles (AMX); None where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return "amx_int8" in line.split()
    return None


def _commit() -> str | None:
    """Short commit of this package's checkout, with `+` when files differ from it; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if git("ls-files", "__init__.py") == "":  # installed into somebody else's repository
            return None
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
