"""What a sensitivity scan is worth: its allocation against uniform and global, the same score, nothing trained.

    .venv/bin/python benchmarks/allocations.py                  digits, 5 seeds; minutes on one thread
    .venv/bin/python benchmarks/allocations.py -c cfgs/cifar10_resnet20_one_shot.yaml --checkpoint resnet20.th \
        --seeds 1 prune.score=magnitude data.root=data/cifar10

Each seed trains a network (or all take --checkpoint), scans it by layer and by block on some validation images, and
judges every allocation on the other ones, as it is and with batch norm re-estimated where that helps. The test split is
not read. OUT/report.md has the table; networks and scans are kept there: killed, the same command goes on.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from pruning_bootcamp.config import Choice, Config, load
from pruning_bootcamp.evaluation import evaluate_on
from pruning_bootcamp.flow import start
from pruning_bootcamp.flow.commands import sensitivity, train
from pruning_bootcamp.flow.steps import prune
from pruning_bootcamp.flow.steps.batch_norm import recover_batch_norm
from pruning_bootcamp.logs import LOGGER, start_screen
from pruning_bootcamp.preflight import check
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.pruning.weights.unstructured import prune_unstructured
from pruning_bootcamp.reporting import markdown_table
from pruning_bootcamp.runs import write_text
from pruning_bootcamp.training.recovery import first_images

SPARSITIES = (0.8, 0.85, 0.9, 0.95)
Figures = dict[tuple[str, float], list[tuple[float, float]]]
"""(allocation, sparsity) -> accuracy of each seed's network, as it is and with batch norm re-estimated"""


def measure(cfg: Config, out: Path, seed: int, figures: Figures) -> None:
    folder = out / f"seed_{seed}"
    if cfg.checkpoint is None:
        cfg.save_dir, cfg.checkpoint = str(folder / "dense"), str(folder / "dense" / "best_model.pth")
        train(cfg)
    files = {}
    for by in ("layer", "block"):
        cfg.sensitivity.by, cfg.save_dir = by, str(folder / by)  # type: ignore[assignment]
        sensitivity(cfg)
        files[by] = str(folder / by / "sensitivity.yaml")
    device = start.start(cfg)
    splits = start.open_data(cfg)
    dense = start.open_network(Path(str(cfg.checkpoint)), cfg, splits)
    assert cfg.sensitivity.images is not None
    order = first_images(len(splits.val), len(splits.val), cfg.seed)
    others = splits.val.subset(order[cfg.sensitivity.images :][:2000])
    LOGGER.info("Judged on %d validation images that the scan has not seen", len(others))
    allocations = {
        "uniform": ("uniform", {}),
        "global": ("global", {}),
        "erk": ("erk", {}),
        "sensitivity, loss": ("sensitivity", {"file": files["layer"]}),
        "sensitivity, accuracy": ("sensitivity", {"file": files["layer"], "by": "accuracy"}),
        "sensitivity, loss, by block": ("sensitivity", {"file": files["block"]}),
    }
    for sparsity in SPARSITIES:
        for name, (allocation, args) in allocations.items():
            spread = Choice(allocation, dict(args))
            chosen = replace(cfg.prune, sparsity=sparsity, solver=Choice("none"), allocation=spread)
            model = detached_copy(dense.model).to(device)
            prune_unstructured(model, chosen, stats_batches=prune.calibration(cfg, splits, device), seed=cfg.seed)
            plain = evaluate_on(model, others, splits, device=device, progress=False).score
            recover_batch_norm(model, dense.model.to(device), cfg, splits, device)
            again = evaluate_on(model, others, splits, device=device, progress=False).score
            figures.setdefault((name, sparsity), []).append((plain, again))
            LOGGER.info("%g%% %s: %.2f, batch norm re-estimated %.2f", 100 * sparsity, name, plain, again)


def table(figures: Figures, which: int) -> str:
    """Mean over the seeds and, behind it, the lowest and highest."""
    names = list(dict.fromkeys(name for name, _ in figures))
    rows = []
    for name in names:
        cells = []
        for sparsity in SPARSITIES:
            values = [pair[which] for pair in figures[name, sparsity]]
            cells.append(f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
        rows.append([name, *cells])
    return markdown_table(["allocation", *(f"{100 * sparsity:g}%" for sparsity in SPARSITIES)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", default="cfgs/digits.yaml")
    parser.add_argument("--checkpoint")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/allocations"))
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    start_screen()
    torch.set_num_threads(1)
    figures: Figures = {}
    defaults = ["data.val_fraction=0.3", "sensitivity.images=200"] if given.checkpoint is None else []
    for seed in range(given.seeds):
        options = {"seed": seed, "threads": 1} | ({"checkpoint": given.checkpoint} if given.checkpoint else {})
        cfg = load(given.config, [*defaults, *given.overrides], options)
        check(cfg, "sensitivity", given.config)
        measure(cfg, given.out, seed, figures)
    text = (
        f"# Allocations, {given.config}, score {cfg.prune.score.name}, {given.seeds} seeds, nothing trained\n\n"
        "Percent of validation images that the scan has not seen: mean (lowest to highest).\n\n## As pruned\n\n"
        f"{table(figures, 0)}\n\n## Batch norm re-estimated where that helps\n\n{table(figures, 1)}\n"
    )
    write_text(given.out / "report.md", text)
    LOGGER.info("\n%s", text)


if __name__ == "__main__":
    main()
