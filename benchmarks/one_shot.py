"""What methods x sparsities leave of a trained network's accuracy, without training, on the same unlabelled images.

    .venv/bin/python benchmarks/one_shot.py --checkpoint resnet20.th data.root=data/cifar10          about 40 minutes
    .venv/bin/python benchmarks/one_shot.py --checkpoint resnet20.th --distill --seeds 1 data.root=data/cifar10   + 25

The network and data are the config's (-c; cfgs/cifar10_resnet20_one_shot.yaml), and so are `ours` and its settings,
which were chosen on held-out training images. Every method is given the same calibration images of a seed, then batch
norm is re-estimated where more images are then in the dense network's class, then the test split is read. The table
goes to OUT/report.md, every figure to OUT/metrics.yaml. What is done is kept: killed, the same command goes on.
"""

import argparse
import copy
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.config import Config, load
from pruning_bootcamp.evaluation import evaluate_on
from pruning_bootcamp.flow import start
from pruning_bootcamp.flow.steps.batch_norm import recover_batch_norm
from pruning_bootcamp.logs import LOGGER, start_screen
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.preflight import check
from pruning_bootcamp.pruning.weights.unstructured import prune_unstructured
from pruning_bootcamp.runs import read_yaml, write_text, write_yaml
from pruning_bootcamp.runtime import environment
from pruning_bootcamp.tools.datasets import Splits, eval_batches
from pruning_bootcamp.training.recovery import first_images

CONFIG = "cfgs/cifar10_resnet20_one_shot.yaml"
Choices = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """One row: the engine's choices, and what a reader should know."""

    choices: Choices
    about: str
    labels: bool = False


METHODS: dict[str, Method] = {
    "random": Method({"score": "random"}, "the floor; layerwise"),
    "magnitude, layerwise": Method({"score": "magnitude"}, "size (Han et al., 2015)"),
    "magnitude, global": Method({"score": "magnitude", "allocation": "global"}, "size, one ranking"),
    "Wanda": Method(
        {"score": "wanda", "pattern": "per_output"}, "size times norm of the inputs, row by row (Sun et al., 2024)"
    ),
    "Taylor": Method(
        {"score": "taylor", "allocation": "global"}, "size times gradient, one ranking; sees labels", labels=True
    ),
    "OBD": Method({"score": "obd", "allocation": "global"}, "h w^2 / 2, one ranking (LeCun et al., 1990)"),
    "SparseGPT": Method({"solver": "sparsegpt"}, "layerwise (Frantar & Alistarh, 2023)"),
    "SparseGPT, second order": Method(
        {"allocation": "second_order", "solver": "sparsegpt"}, "the same, zeros spread by second-order cost"
    ),
}
OURS, OURS_DISTILLED = "ours, closed form", "ours"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-c", "--config", type=Path, default=Path(CONFIG))
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--sparsities", nargs="+", default=["0.5", "0.7", "0.8", "0.9", "0.95", "2:4"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--distill", action="store_true", help="ours with the config's distillation too")
    parser.add_argument("--methods", nargs="+", help="only these rows")
    parser.add_argument("--out", type=Path, default=Path("results/published/one_shot_resnet20"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()

    start_screen()
    cfg = load(options.config, options.overrides, {"checkpoint": options.checkpoint})
    check(cfg, "prune-unstructured", str(options.config))
    device = start.start(cfg)
    splits = start.open_data(cfg)
    dense = start.open_network(Path(options.checkpoint), cfg, splits).model
    accuracy = _accuracy(dense, splits, device)
    LOGGER.info("dense: %.2f%% of %d test images", accuracy, len(splits.test))

    methods = {
        **METHODS,
        OURS: Method(_own_choices(cfg), "second-order masks in stages, every layer refitted to the dense network"),
    }
    if options.distill:
        methods[OURS_DISTILLED] = Method(methods[OURS].choices, "then distillation without labels, in the time given")
    rows = _read_rows(options.out)
    for name in options.methods or methods:
        for sparsity in options.sparsities:
            for seed in range(options.seeds):
                key = f"{name} | {sparsity} | {seed}"
                if key not in rows:
                    if name in (OURS, OURS_DISTILLED):  # exactly what the command does, in a folder of its own
                        row = _run_command(sparsity, seed, name == OURS_DISTILLED, cfg, options.out)
                    else:
                        row = _measure(methods[name], sparsity, seed, cfg, dense, splits, device)
                    rows[key] = {"method": name, "at": sparsity, "seed": seed, **row}
                    options.out.mkdir(parents=True, exist_ok=True)
                    write_yaml(options.out / "rows.yaml", rows)
                LOGGER.info("%-26s %-5s seed %d: %s", name, sparsity, seed, _short(rows[key]))
    found = [row for row in rows.values() if row["method"] in methods]
    settings = {
        "checkpoint": Path(options.checkpoint).name,
        "config": str(options.config),
        "calibration_images": cfg.prune.calibration_images,
        "bn_images": cfg.recover.bn_images,
        "methods": {name: method.choices for name, method in methods.items()},
    }
    environment_here = to_plain(environment(device))
    everything = {"dense": round(accuracy, 4), "settings": settings, "rows": found, "environment": environment_here}
    write_yaml(options.out / "metrics.yaml", everything)
    write_text(options.out / "report.md", _report(accuracy, cfg, methods, found, len(splits.test), environment_here))
    LOGGER.info("\n%s\nWritten to %s", (options.out / "report.md").read_text(), options.out)


def _own_choices(cfg: Config) -> Choices:
    p = cfg.prune
    return {
        "score": p.score.name,
        "score_args": p.score.args,
        "allocation": p.allocation.name,
        "allocation_args": p.allocation.args,
        "solver": p.solver.name,
        "solver_args": p.solver.args,
        "refit": p.refit,
        "refit_rounds": p.refit_rounds,
        "stages": p.stages,
    }


def _measure(
    method: Method,
    sparsity: str,
    seed: int,
    cfg: Config,
    dense: nn.Module,
    splits: Splits,
    device: torch.device,
) -> dict[str, Any]:
    """Prune a copy, re-estimate batch norm, and read the test split."""
    cfg = copy.deepcopy(cfg)
    cfg.seed, cfg.recover.method = seed, "bn"
    model = copy.deepcopy(dense)
    choices = dict(method.choices)
    pattern = {"sparsity": float(sparsity)} if ":" not in sparsity else {"sparsity": None, "pattern": sparsity}
    if ":" in sparsity:
        for told in ("allocation", "allocation_args", "pattern"):  # N:M says itself how many go, and where
            choices.pop(told, None)
    images = splits.train.subset(first_images(len(splits.train), cfg.prune.calibration_images, seed))
    batches: list[tuple[Tensor, Tensor]] = list(
        eval_batches(images, batch_size=128, mean=splits.mean, std=splits.std, device=device)
    )
    begun = time.perf_counter()
    given = batches if method.labels else [shown for shown, _ in batches]
    result = prune_unstructured(model, **choices, **pattern, stats_batches=given, seed=seed)
    seconds = time.perf_counter() - begun
    as_pruned = _accuracy(model, splits, device)
    begun = time.perf_counter()
    recovered = recover_batch_norm(model, dense, cfg, splits, device)
    return {
        "sparsity": round(result.sparsity, 6),
        "accuracy": round(_accuracy(model, splits, device), 4),
        "accuracy_as_pruned": round(as_pruned, 4),
        **to_plain(recovered),
        "seconds": round(seconds + time.perf_counter() - begun, 2),
    }


def _run_command(sparsity: str, seed: int, distill: bool, cfg: Config, out: Path) -> dict[str, Any]:
    from pruning_bootcamp.flow.commands import prune_unstructured as run

    cfg = copy.deepcopy(cfg)
    cfg.seed, cfg.fine_tune.enabled = seed, False
    cfg.recover.method = "distill" if distill else "bn"
    cfg.save_dir = str(out / "runs" / f"{sparsity.replace(':', 'of')}_{seed}{'' if distill else '_closed_form'}")
    if ":" in sparsity:
        kept, group = sparsity.split(":")
        cfg.prune.pattern.name, cfg.prune.pattern.args = "nm", {"n": int(kept), "m": int(group)}
        cfg.prune.allocation.name, cfg.prune.allocation.args, cfg.prune.sparsity = "uniform", {}, None
    else:
        cfg.prune.sparsity = float(sparsity)
    check(cfg, "prune-unstructured", "one_shot")
    begun = time.perf_counter()
    metrics = run(cfg)
    assert metrics.cycles is not None
    followed = metrics.cycles[0].distillation
    row = {
        "sparsity": metrics.sparsity,
        "accuracy": metrics.accuracy,
        "seconds": round(time.perf_counter() - begun, 2),
    }
    return row if followed is None else row | {"distillation": to_plain(followed)}


@torch.no_grad()
def _accuracy(model: nn.Module, splits: Splits, device: torch.device) -> float:
    return float(evaluate_on(model, splits.test, splits, device=device, batch_size=256).score)


def _read_rows(out: Path) -> dict[str, Any]:
    return read_yaml(out / "rows.yaml") if (out / "rows.yaml").exists() else {}


def _short(row: dict[str, Any]) -> str:
    return f"{row['accuracy']:.2f}% at {100 * row['sparsity']:.2f}% zeros, {row['seconds']:.1f} s"


def _report(
    dense: float,
    cfg: Config,
    methods: dict[str, Method],
    rows: list[dict[str, Any]],
    images: int,
    machine: dict[str, Any],
) -> str:
    """The table in Markdown: mean and standard deviation over the seeds."""
    columns = list(dict.fromkeys(row["at"] for row in rows))
    lines = [
        f"# One-shot pruning of {cfg.model.name} on {cfg.data.name}",
        "",
        f"Accuracy (%) on {images} test images; dense: {dense:.2f}. {cfg.prune.calibration_images} training images, "
        "without labels but for Taylor; batch norm re-estimated where more images then get the dense network's class. "
        "Mean, and standard deviation over the seeds (n in brackets). Layers that 2:4 does not fit stay.",
        "",
        "| method | " + " | ".join(columns) + " | seconds | what it is |",
        "|---|" + "---|" * (len(columns) + 2),
    ]
    for name, method in methods.items():
        own = [row for row in rows if row["method"] == name]
        if not own:
            continue
        cells = [_cell([row["accuracy"] for row in own if row["at"] == column]) for column in columns]
        seconds = statistics.median(row["seconds"] for row in own)
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {seconds:.0f} | {method.about} |")
    lines += [
        "",
        f"Measured on {machine.get('cpu', machine.get('device'))}; every figure and setting is in metrics.yaml.",
    ]
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} ({len(values)})"


if __name__ == "__main__":
    main()
