"""Types the golden commands in a folder and writes down what came out: exit codes, files, weights, figures.

    .venv/bin/python tests/golden/run.py --update      after a change that is meant to change what comes out

One thread, one seed, the plainest kernels (no AVX in torch or oneDNN), so that most machines give the same bits; the
canary, a small training in bare torch, tells whether this one does.
"""

import os

PLAIN = {
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
}
os.environ.update(PLAIN)  # before torch is imported

import argparse
import contextlib
import hashlib
import io
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

HERE = Path(__file__).resolve().parent
EXPECTED = HERE / "expected.yaml"
SMOKE = HERE.parents[1] / "cfgs" / "smoke"

# What differs from run to run or machine to machine: times, places, versions.
_TIMED = (
    "seconds",
    "latency",
    "throughput",
    "discrepancy",
    "environment",
    "fingerprint",
    "memory",
    "times_smaller",
    "speedup",
    "per_second",
    "commit",
    "size_mb",
    "dense_mb",
    "ms",
)
_WEIGHTS = (".pth", ".safetensors")
_INNER = ("stages", "logs", "trials", "previous-1", "work")


def canary() -> str:
    """A hash of a few steps of training in bare torch: equal where this machine forms its sums as the recorded one."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), torch.nn.BatchNorm2d(32), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(net(torch.randn(32, 3, 8, 8)), torch.randint(0, 10, (32,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    square = torch.randn(64, 64)
    solved = torch.linalg.cholesky(square @ square.T + 64 * torch.eye(64))
    return tensors_hash([*net.state_dict().items(), ("solved", solved)])


def tensors_hash(named: list[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_in(path: Path) -> str:
    """A hash of the weights, buffers and masks in a checkpoint."""
    if path.suffix == ".safetensors":
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    content = torch.load(path, weights_only=True, map_location="cpu")
    kept = {part: content.get(part) for part in ("state_dict", "masks")}
    return tensors_hash(sorted(_tensors(kept, ""), key=lambda entry: entry[0]))


def _tensors(value: Any, place: str) -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        return [(place, value)]
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in _tensors(inner, f"{place}/{key}")]
    if isinstance(value, list | tuple):
        return [found for key, inner in enumerate(value) for found in _tensors(inner, f"{place}/{key}")]
    return []


def figures_in(path: Path) -> dict[str, Any]:
    """key.path -> value of a YAML file, without what is timed."""
    return dict(_flat(yaml.safe_load(path.read_text()), ""))


def _flat(value: Any, place: str) -> list[tuple[str, Any]]:
    last = place.rpartition(".")[2]
    if any(word == last or (len(word) > 2 and word in last) for word in _TIMED):
        return []
    if isinstance(value, dict):
        return [
            found for key, inner in value.items() for found in _flat(inner, f"{place}.{key}" if place else str(key))
        ]
    if isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        return [found for key, inner in enumerate(value) for found in _flat(inner, f"{place}.{key}")]
    return [(place, value)]


def results_in(folder: Path) -> list[Path]:
    """Every file of the results that a user is told of; steps' own files are left out."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part in _INNER or part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def outcome(folder: Path) -> dict[str, Any]:
    """file -> what it holds."""
    found: dict[str, Any] = {}
    for path in results_in(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix in _WEIGHTS:
            found[name] = weights_in(path)
        elif path.name.endswith("metrics.yaml") or path.name in ("profile.yaml", "sensitivity.yaml"):
            found[name] = figures_in(path)
        else:
            found[name] = "there"
    return found


def type_command(words: list[str]) -> tuple[int, str]:
    """(exit code, everything printed)."""
    from pruning_bootcamp.__main__ import main

    out = io.StringIO()
    sys.argv = ["pruning-bootcamp", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
        except SystemExit as ending:
            return int(ending.code or 0), out.getvalue()
    raise AssertionError("main() ends the process")


def record(root: Path, only: list[str] | None = None) -> dict[str, Any]:
    """{"canary", "torch", "exits": name -> code, "files": path -> what it holds, "printed": name -> text}.

    And "written_by": path -> the command that wrote it first.
    """
    commands = yaml.safe_load((HERE / "commands.yaml").read_text())
    exits, printed, took, written_by = {}, {}, {}, dict[str, str]()
    os.environ["PRUNING_BOOTCAMP_CACHE"] = str(root / ".cache")
    torch.set_num_threads(1)
    with contextlib.chdir(root):
        for name, line in commands.items():
            if only and name not in only:
                continue
            begun = time.perf_counter()
            exits[name], printed[name] = type_command(shlex.split(line.replace("{smoke}", str(SMOKE))))
            took[name] = round(time.perf_counter() - begun, 1)
            for path in results_in(root):
                written_by.setdefault(path.relative_to(root).as_posix(), name)
            print(f"{took[name]:6.1f} s  exit {exits[name]}  {name}", file=sys.stderr, flush=True)
    files = outcome(root)
    return {
        "torch": torch.__version__.partition("+")[0],
        "canary": canary(),
        "exits": exits,
        "files": files,
        "printed": printed,
        "written_by": written_by,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="write expected.yaml")
    parser.add_argument("--json", type=Path, help="write what came out there")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    parser.add_argument("only", nargs="*", help="only these commands")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.keep is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            root = options.keep
            root.mkdir(parents=True, exist_ok=True)
        found = record(root.resolve(), options.only)
    if options.json is not None:
        options.json.write_text(json.dumps(found))
    if options.update:
        kept = {key: value for key, value in found.items() if key != "printed"}
        EXPECTED.write_text(yaml.safe_dump(kept, sort_keys=False, width=200))


if __name__ == "__main__":
    main()
