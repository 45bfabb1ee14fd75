"""Run folders as the commands write them, with figures chosen by hand."""

from pathlib import Path
from typing import Any

import yaml

DENSE = {"accuracy": 92.0, "flops_g": 0.04, "params_m": 0.27, "sparsity": 0.0}
MACHINE = {
    "pruning_bootcamp": "0.1.0",
    "python": "3.11.7",
    "torch": "2.15.0",
    "platform": "Linux x86_64",
    "device": "cpu (a CPU)",
    "threads": 1,
    "commit": "abc",
    "time": "2026-01-01 00:00:00 UTC",
}


def write_run(
    root: Path,
    name: str,
    command: str,
    *,
    seed: int = 0,
    accuracy: float = 91.0,
    val_accuracy: float | None = 91.5,
    fewer: float = 0.0,
    score: str = "l1",
    sparsity: float = 0.0,
    goal_met: bool | None = True,
    config: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> Path:
    """A finished run; `config` and `metrics` are laid over what the command would write."""
    folder = root / name
    settings: dict[str, Any] = {
        "name": "test",
        "seed": seed,
        "save_dir": str(folder),
        "data": {"name": "digits", "root": "data", "args": {}, "val_fraction": 0.1, "limit": None, "batch_size": 256},
        "model": {"name": "cifar_resnet20", "args": {}},
        "train": {"epochs": "30ep", "lr": 0.1},
        "prune": {
            "sparsity": sparsity,
            "score": {"name": score, "args": {}},
            "allocation": {"name": "global", "args": {}},
            "pattern": {"name": "unstructured", "args": {}},
            "solver": {"name": "none", "args": {}},
            "iterations": 1,
        },
        "structured": {"score": {"name": score, "args": {}}, "allocation": "global", "target_flops_reduction": 0.5},
        "recover": {"method": "bn"},
        "fine_tune": {"enabled": True, "epochs": "5ep"},
        "goal": {"accuracy_drop": 1.5},
    }
    figures: dict[str, Any] = {
        "accuracy": accuracy,
        "val_accuracy": val_accuracy,
        "test_images": 449,
        "flops_g": DENSE["flops_g"] * (1 - fewer / 100),
        "params_m": DENSE["params_m"],
        "sparsity": sparsity,
        "seed": seed,
        "environment": MACHINE,
        "fingerprint": f"{name}",
        "status": "complete",
    }
    if command != "train":
        figures |= {
            "baseline": DENSE,
            "accuracy_drop": DENSE["accuracy"] - accuracy,
            "flops_reduction_pct": fewer,
            "goal": "<= 1.5 points of accuracy lost",
            "goal_met": goal_met,
        }
    folder.mkdir(parents=True)
    head = f"# pruning-bootcamp {command} -c {folder}/config.yaml\n# fingerprint: {name}\n"
    (folder / "config.yaml").write_text(head + yaml.safe_dump(_over(settings, config or {})))
    (folder / "metrics.yaml").write_text(yaml.safe_dump(figures | (metrics or {})))
    return folder


def _over(under: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in above.items():
        merged[key] = (
            _over(under[key], value) if isinstance(value, dict) and isinstance(under.get(key), dict) else value
        )
    return merged


def write_comparison(root: Path) -> None:
    """A dense network; l1 with three seeds and random with one at half the FLOPs; and zeros at 90%."""
    write_run(root, "dense", "train", accuracy=92.0, val_accuracy=93.0)
    for seed, accuracy in enumerate((91.0, 91.2, 91.4)):
        val = accuracy + 1
        write_run(root, f"l1_{seed}", "prune-structured", seed=seed, accuracy=accuracy, val_accuracy=val, fewer=50.0)
    write_run(
        root, "random", "prune-structured", score="random", accuracy=89.0, val_accuracy=89.5, fewer=50.0, goal_met=False
    )
    write_run(root, "zeros", "prune-unstructured", score="magnitude", sparsity=0.9, accuracy=90.8, val_accuracy=92.0)


def write_profile(folder: Path, *, fewer: float = 50.0, quicker: float = 10.0, threads: int = 1) -> None:
    stats = {
        "median_ms": 1.0,
        "mean_ms": 1.0,
        "std_ms": 0.1,
        "p5_ms": 0.9,
        "p95_ms": 1.2,
        "n": 100,
        "batch_size": 1,
        "threads": threads,
    }
    stats |= {"backend": "torch", "device": "cpu"}
    content = {
        "comparison": {"flops_reduction_pct": fewer, "latency_reduction_pct": quicker},
        "environment": MACHINE | {"threads": threads},
        "checkpoints": {"baseline": "dense/best_model.pth", "pruned": str(folder / "pruned_model.pth")},
        "latency": {"baseline": stats, "pruned": stats | {"median_ms": 0.9}},
        "analysis": {"certain": False, "causes": [{"points": 40.0, "text": "memory"}]},
        "alternatives": {
            "torch, batch 1": {"baseline": stats, "pruned": stats},
            "onnxruntime on cpu, batch 16": {"baseline": stats, "pruned": stats | {"median_ms": 3.2, "batch_size": 16}},
        },
    }
    (folder / "profile.yaml").write_text(yaml.safe_dump(content))


def write_scan(root: Path) -> None:
    folder = root / "sensitivity" / "magnitude_layer"
    folder.mkdir(parents=True)

    def points(*accuracies: float) -> list[dict[str, float]]:
        return [{"sparsity": s, "accuracy": a, "loss": 0.1} for s, a in zip((0.5, 0.9), accuracies, strict=True)]

    content = {
        "by": "layer",
        "score": "magnitude",
        "pattern": "unstructured",
        "split": "validation",
        "images": 135,
        "dense": {"accuracy": 93.0, "loss": 0.1},
        "sparsities": [0.5, 0.9],
        "rows": [
            {"name": "conv1", "weights": ["conv1.weight"], "size": 144, "points": points(85.0, 40.0)},
            {"name": "layer2.0.conv1", "weights": [], "size": 500, "points": points(90.0, 60.0)},
            {"name": "layer3.0.conv1", "weights": [], "size": 1000, "points": points(93.0, 92.9)},
        ],
    }
    (folder / "sensitivity.yaml").write_text(yaml.safe_dump(content))
    (folder / "metrics.yaml").write_text("status: complete\n")


def write_sweep(root: Path, status: str = "complete") -> None:
    folder = root / "sweep" / "half"
    trials = [
        {
            "number": number,
            "state": "complete",
            "params": {"structured.score": score},
            "values": {"accuracy": accuracy, "flops_g": flops},
            "folder": f"trials/{number:04d}",
            "seconds": 3.0,
        }
        for number, (score, accuracy, flops) in enumerate((("l1", 92.0, 0.02), ("l2", 91.0, 0.03)))
    ]
    for trial in trials:
        write_run(folder, str(trial["folder"]), "prune-structured")
    dense = write_run(folder, "dense", "train")
    (dense / "metrics.yaml").write_text("val_accuracy: 93.0\nstatus: complete\n")  # its test images are not read
    content = {
        "name": "half",
        "command": "prune-structured",
        "sampler": "grid",
        "space": {"structured.score": ["l1", "l2"]},
        "objectives": [
            {"name": "accuracy", "direction": "maximize"},
            {"name": "flops_g", "direction": "minimize"},
        ],
        "split": "validation",
        "max_drop": 1.5,
        "seed": 0,
        "trials": trials,
        "pareto": [0],
        "hypervolume": 0.5,
        "dense": {"accuracy": 93.0, "flops_g": 0.04},
        "status": status,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content))
