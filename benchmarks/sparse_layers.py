"""What unstructured zeros save on this CPU: six linear layers, skipping zeros against dense, in OpenVINO and in torch.

    .venv/bin/python benchmarks/sparse_layers.py                             about 3 minutes on one thread
    .venv/bin/python benchmarks/sparse_layers.py --width 1024 --sparsities 0.9 --out /tmp/sparse_layers

Random weights, the same share of zeros in each layer, anywhere. Each pair (openvino_int8 and openvino_int8_sparse;
torch and torch_sparse) is timed in turn, with the choice that the backend made for itself. The table goes to
OUT/report.md, every figure to OUT/metrics.yaml; rows of this processor that are there are measured again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning_bootcamp.backends import prepare
from pruning_bootcamp.logs import LOGGER, start_screen
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.reporting import markdown_table
from pruning_bootcamp.runs import read_yaml, write_text, write_yaml
from pruning_bootcamp.runtime import environment, has_amx, keep_freed_memory, processor_name
from pruning_bootcamp.tools.latency import compare_latencies

PAIRS = (("openvino_int8", "openvino_int8_sparse"), ("torch", "torch_sparse"))
BELOW = (
    "Each pair timed in turn, medians. Where dense was chosen, both are the same network in two copies, and what they "
    "differ by is where those lie in memory. What each backend chose, and by what figures, is in metrics.yaml."
)
ROW = ("processor", "threads", "dense", "zeros", "batch", "layers", "width")


def main() -> None:
    """The rows asked for, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.5, 0.8, 0.9, 0.95])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/published/sparse_layers"))
    asked = parser.parse_args()
    start_screen()
    torch.set_num_threads(asked.threads)
    keep_freed_memory()  # as every command does
    cpu, path = torch.device("cpu"), asked.out / "metrics.yaml"
    rows: list[dict[str, Any]] = list(read_yaml(path)["timings"]) if path.exists() else []
    for zeros in asked.sparsities:
        network = stack(asked.layers, asked.width, zeros)
        for batch in asked.batch_sizes:
            for pair in PAIRS:
                row = {"processor": processor_name(cpu), "amx": has_amx(), "threads": asked.threads, "zeros": zeros}
                row |= {"batch": batch, "layers": asked.layers, "width": asked.width}
                row |= timed(network, torch.randn(batch, asked.width), pair)
                rows = [other for other in rows if any(other[name] != row[name] for name in ROW)] + [row]
                write_yaml(path, {"timings": rows, "environment": to_plain(environment(cpu))})
                write_text(asked.out / "report.md", report(rows))
                LOGGER.info("%s, %.0f%% zeros, batch %d: %.2fx", pair[1], 100 * zeros, batch, row["speedup"])
    LOGGER.info("%s", report(rows))


def stack(layers: int, width: int, zeros: float) -> nn.Module:
    """So many linear layers, a ReLU after each, of whose weights that share is zero."""
    torch.manual_seed(0)
    modules = [module for _ in range(layers) for module in (nn.Linear(width, width), nn.ReLU())]
    with torch.no_grad():
        for layer in modules[::2]:
            weight = layer.get_parameter("weight")
            weight.mul_(3)  # so that the outputs of the last layer are no smaller than the inputs of the first
            weight.view(-1)[torch.randperm(weight.numel())[: round(zeros * weight.numel())]] = 0
    return nn.Sequential(*modules).eval()


def timed(network: nn.Module, example: torch.Tensor, pair: tuple[str, str]) -> dict[str, Any]:
    """Both backends in turn: medians, the ratio with its interval, and what the second has chosen."""
    threads = torch.get_num_threads()
    runners = {name: prepare(name, network, example, threads) for name in pair}
    stats = compare_latencies({name: (runner, example) for name, runner in runners.items()}, runs=50, min_seconds=2.0)
    dense, sparse = (stats[name] for name in pair)
    ratio = sparse.ratio_to(dense)
    assert ratio is not None, "both were timed in the same rounds"
    return {
        "dense": pair[0],
        "sparse": pair[1],
        "version": sparse.version,
        "dense_ms": dense.median_ms,
        "sparse_ms": sparse.median_ms,
        "speedup": 1 / ratio.median,
        "speedup_low": 1 / ratio.high,
        "speedup_high": 1 / ratio.low,
        "pairs": ratio.n,
        "chosen": sparse.note,
    }


def report(rows: Sequence[dict[str, Any]]) -> str:
    """A table for each processor and number of threads, and what was chosen where nothing was skipped."""
    text = "# Zeros in linear layers: skipping them against dense"
    for processor, threads in dict.fromkeys((row["processor"], row["threads"]) for row in rows):
        mine = [row for row in rows if (row["processor"], row["threads"]) == (processor, threads)]
        amx = {True: "AMX", False: "no AMX", None: "AMX not known"}[mine[0]["amx"]]
        cells = [
            [
                f"{row['layers']} x {row['width']}",
                f"{100 * row['zeros']:g}%",
                str(row["batch"]),
                f"{row['dense']} {row['dense_ms']:.3f}",
                f"{row['sparse']} {row['sparse_ms']:.3f}",
                f"{row['speedup']:.2f}x",
                f"{row['speedup_low']:.2f} to {row['speedup_high']:.2f}, n {row['pairs']}",
                "dense" if str(row["chosen"]).startswith("dense") else "zeros skipped",
            ]
            for row in mine
        ]
        header = ["layers", "zeros", "batch", "dense, ms", "sparse, ms", "speedup", "95% interval", "chosen"]
        text += f"\n\n## {processor} ({amx}), {threads} thread(s)\n\n{markdown_table(header, cells)}\n"
        text += "".join(f"\n- {why}" for why in _reasons(mine).values())
    return f"{text.rstrip()}\n\n{BELOW}\n"


def _reasons(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Backend -> why it stayed dense, at the most zeros that it did not skip."""
    dense = [row for row in rows if str(row["chosen"]).startswith("dense")]
    return {
        row["sparse"]: f"{row['sparse']}, {100 * row['zeros']:g}% zeros, batch {row['batch']}: {row['chosen']}"
        for row in dense
    }


if __name__ == "__main__":
    main()
