"""How much of saved multiply-accumulates arrives as time: cut to a time, by FLOPs, and by torch-pruning in multiples.

    .venv/bin/python benchmarks/latency.py --networks cifar_resnet18 --backends onnxruntime --batch-sizes 1 16

Random weights: time does not depend on them; filters are as unlike in size as trained ones, so that some may go sooner
than others. Every network is cut to about half its multiply-accumulates and timed in turn with the uncut one, whole.
Efficiency is the speed-up over the ratio of multiply-accumulates: 1 where all of it arrives. Ours cut to a time is
asked for the time at which about half is left, found in a few trials. The table goes to OUT/report.md, every figure to
OUT/metrics.yaml; rows that are there are not measured again.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from pruning_bootcamp.backends import Way, version_of
from pruning_bootcamp.errors import GoalNotMet
from pruning_bootcamp.logs import LOGGER, start_screen
from pruning_bootcamp.models import build_model, make_prunable
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.pruning.channels.race import RaceTrack
from pruning_bootcamp.pruning.channels.structured import cut_channels, plan_structured
from pruning_bootcamp.pruning.channels.time_budget import Timing
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.reporting import markdown_table
from pruning_bootcamp.runs import read_yaml, write_text, write_yaml
from pruning_bootcamp.runtime import environment, processor_name
from pruning_bootcamp.tools.metrics import compute_flops

NETWORKS: dict[str, tuple[str, dict[str, Any], int, int]] = {  # name, arguments, classes, image side
    "cifar_resnet18": ("cifar_resnet18", {}, 10, 32),
    "cifar_resnet56": ("cifar_resnet56", {}, 10, 32),
    "resnet50": ("resnet50", {}, 1000, 224),
    "mobilenet_v2": ("mobilenet_v2", {}, 1000, 224),
    "mobilenet_v3_large": ("mobilenet_v3_large", {}, 1000, 224),
    "efficientnet_lite0": ("tf_efficientnet_lite0", {}, 1000, 224),
}
HALF, NEAR, TRIALS = 0.5, 0.03, 3
SPREAD = 0.6  # of the logarithms of filters' norms
PEERS = {"torch-pruning": None, "torch-pruning, multiples of 8": 8, "torch-pruning, multiples of 16": 16}
OURS_BY_TIME, OURS_BY_FLOPS = "ours, to a time", "ours, by FLOPs"


def main() -> None:
    """The rows asked for, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["cifar_resnet18"], choices=NETWORKS)
    parser.add_argument("--backends", nargs="+", default=["onnxruntime"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/published/latency"))
    asked = parser.parse_args()
    start_screen()
    torch.set_num_threads(asked.threads)
    path = asked.out / "metrics.yaml"
    rows: list[dict[str, Any]] = list(read_yaml(path)["timings"]) if path.exists() else []
    for name in asked.networks:
        dense, example = opened(name)
        for way in [Way(backend, size) for backend in asked.backends for size in asked.batch_sizes]:
            track = RaceTrack(dense, example, [way], asked.threads, torch.device("cpu"))
            for method, cut in methods(dense, example, track).items():
                about = {"network": name, "backend": way.backend, "batch": way.batch, "threads": asked.threads}
                about |= {"method": method, "version": version_of(way.backend)}
                about["processor"] = processor_name(torch.device("cpu"))
                if any(row.items() >= about.items() for row in rows):
                    continue
                LOGGER.info("\n%s, %s, %s", name, way, method)
                rows.append(about | measured(dense, example, track, cut))
                write_yaml(path, {"timings": rows, "environment": to_plain(environment(torch.device("cpu")))})
                write_text(asked.out / "report.md", report(rows))
    LOGGER.info("%s", report(rows))


def opened(name: str) -> tuple[nn.Module, Tensor]:
    """The network as it can be cut, with random weights, and one input."""
    torch.manual_seed(0)
    model, args, classes, side = NETWORKS[name]
    dense, _ = make_prunable(build_model(model, classes=classes, in_channels=3, args=args), args)
    with torch.no_grad():
        for layer in dense.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight *= torch.randn(layer.out_channels, 1, 1, 1).mul(SPREAD).exp()
    return dense.eval(), torch.randn(1, 3, side, side)


def methods(dense: nn.Module, example: Tensor, track: RaceTrack) -> dict[str, Callable[[], nn.Module | None]]:
    """What is compared: each gives a network of about half the multiply-accumulates; None: it can't."""
    found: dict[str, Callable[[], nn.Module | None]] = {
        OURS_BY_TIME: lambda: to_a_time(dense, example, track),
        OURS_BY_FLOPS: lambda: ours(dense, example, target_flops_reduction=HALF),
    }
    return found | {peer: lambda each=each: torch_prunings(dense, example, each) for peer, each in PEERS.items()}


def ours(dense: nn.Module, example: Tensor, **budget: Any) -> nn.Module:
    """Cut by L2 scores, all groups in one ranking; proved."""
    plan = plan_structured(dense, example, score="l2", allocation="global", max_sparsity=0.95, **budget)
    return cut_channels(dense, example, plan).model


def to_a_time(dense: nn.Module, example: Tensor, track: RaceTrack) -> nn.Module | None:
    """Cut to the time at which about half of the multiply-accumulates are left."""
    timing, whole = Timing(track, LOGGER.info), compute_flops(dense, example).macs
    asked, best, near = HALF, None, float("inf")
    low, high = 0.0, 1.0
    for _ in range(TRIALS):
        try:
            model = ours(dense, example, target_latency_reduction=asked, timing=timing)
        except GoalNotMet as failure:
            LOGGER.info("%s", failure)
            high, asked = asked, (low + asked) / 2
            continue
        saved = 1 - compute_flops(model, example).macs / whole
        if abs(saved - HALF) < near:
            best, near = model, abs(saved - HALF)
        if near <= NEAR:
            break
        low, high = (asked, high) if saved < HALF else (low, asked)
        asked = min(max(asked + HALF - saved, low + 0.02), high - 0.02)
    return best


def torch_prunings(dense: nn.Module, example: Tensor, round_to: int | None) -> nn.Module | None:
    """The same by torch-pruning's own pruner and L2 importance, in one shot; None where it can't cut the network."""
    whole = compute_flops(dense, example).macs

    def cut(share: float) -> nn.Module:
        model = detached_copy(dense)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        pruner = torch_pruning.pruner.BasePruner(
            model,
            example,
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=share,
            pruning_ratio_dict={},  # its defaults are one table for all pruners of a process
            max_pruning_ratio=0.95,
            round_to=round_to,
            ignored_layers=[layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1:],
        )
        pruner.step()
        with torch.inference_mode():
            model(example)
        return model

    low, high = 0.0, 0.95
    for _ in range(8):
        share = (low + high) / 2
        try:
            saved = 1 - compute_flops(cut(share), example).macs / whole
        except Exception as error:  # noqa: BLE001  # whatever it raises of a network that it can't cut
            LOGGER.info("%s: %s", type(error).__name__, error)
            return None
        low, high = (low, share) if saved >= HALF else (share, high)
    return cut(high)


def measured(
    dense: nn.Module, example: Tensor, track: RaceTrack, cut: Callable[[], nn.Module | None]
) -> dict[str, Any]:
    """Of the cut network: the ratio of multiply-accumulates, the speed-up and its efficiency."""
    model = cut()
    if model is None:
        return {"ratio": None}
    ratio = compute_flops(dense, example).macs / compute_flops(model, example).macs
    lap = track(model.eval()).slowest
    return {
        "ratio": round(ratio, 3),
        "speedup": round(1 / lap.share, 3),
        "efficiency": round(1 / lap.share / ratio, 3),
        "dense_ms": round(lap.uncut_ms, 4),
        "cut_ms": round(lap.cut_ms, 4),
        "pairs": lap.pairs,
        "speedup_low": round(1 / lap.high, 3),
        "speedup_high": round(1 / lap.low, 3),
    }


def report(rows: Sequence[dict[str, Any]]) -> str:
    """One line a row."""
    lines = [
        [
            row["network"],
            row["backend"],
            row["batch"],
            row["method"],
            *(
                ["can't cut it", "", ""]
                if row["ratio"] is None
                else [
                    f"{row['ratio']:.2f}x",
                    f"{row['speedup']:.2f} ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})",
                    f"{row['efficiency']:.2f}",
                ]
            ),
        ]
        for row in rows
    ]
    head = ["network", "backend", "batch", "cut", "fewer MACs", "speed-up (95% interval)", "efficiency"]
    processors = ", ".join(sorted({row["processor"] for row in rows}))
    return (
        "# Saved multiply-accumulates as time\n\nHalf of them cut, random weights, whole networks timed in turn with "
        "the uncut one. Efficiency: speed-up over\nthe ratio of multiply-accumulates. "
        f"{processors}; threads {', '.join(sorted({str(row['threads']) for row in rows}))}; "
        f"{', '.join(sorted({row['version'] for row in rows}))}.\n\n{markdown_table(head, lines)}\n"
    )


if __name__ == "__main__":
    main()
