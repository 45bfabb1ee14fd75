"""How well each score ranks filters by what their removal really costs: one filter zeroed at a time, the loss measured.

    .venv/bin/python benchmarks/importance_impact.py -c cfgs/digits.yaml --filters 4          under a minute on 2 cores

`--filters` filters of each convolution, drawn by the seed, are zeroed one at a time; the rise of the training loss on
`prune.calibration_images` images is what a score should predict. A score's prediction for a filter is the sum over its
weights. The Spearman correlation of both orders goes to OUT/metrics.yaml: over all filters, and (mean) within layers.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_bootcamp.config import load
from pruning_bootcamp.flow import start
from pruning_bootcamp.logs import LOGGER, start_screen
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.preflight import check
from pruning_bootcamp.pruning.stats import LayerStats, gather
from pruning_bootcamp.pruning.targets import find_targets
from pruning_bootcamp.pruning.weights.scores import SCORES, layer_seed, needs_of
from pruning_bootcamp.reporting import markdown_table
from pruning_bootcamp.runs import write_yaml
from pruning_bootcamp.runtime import environment
from pruning_bootcamp.tools.datasets import eval_batches
from pruning_bootcamp.tools.modes import evaluation_mode
from pruning_bootcamp.training.recovery import first_images

NAMES = ("random", "magnitude", "wanda", "movement", "taylor", "snip", "obd")
Batches = list[tuple[Tensor, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-c", "--config", type=Path, default=Path("cfgs/digits.yaml"))
    parser.add_argument("--checkpoint")
    parser.add_argument("--filters", type=int, default=4, help="filters of each convolution")
    parser.add_argument("--out", type=Path, default=Path("results/course/importance"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()

    start_screen()
    cfg = load(options.config, options.overrides, {"checkpoint": options.checkpoint} if options.checkpoint else {})
    check(cfg, "prune-unstructured", str(options.config))
    path = start.checkpoint_path(cfg.checkpoint)
    device = start.start(cfg)
    splits = start.open_data(cfg)
    model = start.open_network(path, cfg, splits).model.to(device)
    count = min(cfg.prune.calibration_images, len(splits.train))
    images = splits.train.subset(first_images(len(splits.train), count, cfg.seed))
    batches = list(eval_batches(images, batch_size=256, mean=splits.mean, std=splits.std, device=device))

    weights = {name: weight for name, weight in find_targets(model).items() if weight.dim() == 4}
    drawn = draw_filters(weights, options.filters, cfg.seed)
    LOGGER.info("%d filters of %d convolutions, %d images", len(drawn), len(weights), count)
    impact = removal_impact(model, weights, drawn, batches)
    rows = {}
    for name in NAMES:
        predicted = predictions(model, weights, drawn, name, batches, cfg.seed)
        rows[name] = {
            "spearman": round(spearman(predicted, impact), 4),
            "spearman_within_layers": round(within_layers(predicted, impact, [layer for layer, _ in drawn]), 4),
        }
    header = ["score", "over all filters", "within layers (mean)"]
    table = [[name, f"{row['spearman']:.2f}", f"{row['spearman_within_layers']:.2f}"] for name, row in rows.items()]
    LOGGER.info("\nSpearman correlation of score and measured rise of the loss\n%s", markdown_table(header, table))
    content = {
        "checkpoint": str(path),
        "images": count,
        "filters": len(drawn),
        "scores": rows,
        "impact": {
            "median": float(impact.median()),
            "largest": float(impact.max()),
            "share_that_lower_the_loss": round(float((impact < 0).float().mean()), 4),
        },
        "removed": [
            {"layer": layer, "filter": index, "loss_rise": float(rise)}
            for (layer, index), rise in zip(drawn, impact, strict=True)
        ],
        "seed": cfg.seed,
        "environment": to_plain(environment(device)),
    }
    write_yaml(options.out / "metrics.yaml", content, "loss_rise: of the mean cross-entropy, with one filter zeroed")
    LOGGER.info("\nWritten to %s", options.out)


def draw_filters(weights: dict[str, nn.Parameter], each: int, seed: int) -> list[tuple[str, int]]:
    """(weight name, filter) pairs: `each` of every convolution, or all of one that has fewer."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (name, index)
        for name, weight in weights.items()
        for index in sorted(torch.randperm(len(weight), generator=generator)[:each].tolist())
    ]


def removal_impact(
    model: nn.Module, weights: dict[str, nn.Parameter], drawn: list[tuple[str, int]], batches: Batches
) -> Tensor:
    """How much the loss rises with each filter zeroed, one at a time; the model is left as it was."""
    dense = mean_loss(model, batches)
    rises = []
    for name, index in drawn:
        with torch.no_grad():
            kept = weights[name][index].clone()
            weights[name][index] = 0
            rises.append(mean_loss(model, batches) - dense)
            weights[name][index] = kept
    return torch.tensor(rises, dtype=torch.float64)


def mean_loss(model: nn.Module, batches: Batches) -> float:
    """Mean cross-entropy over every image, in evaluation mode."""
    total = count = 0.0
    with evaluation_mode(model), torch.inference_mode():
        for images, labels in batches:
            total += float(F.cross_entropy(model(images), labels, reduction="sum").double())
            count += len(labels)
    return total / count


def predictions(
    model: nn.Module,
    weights: dict[str, nn.Parameter],
    drawn: list[tuple[str, int]],
    score: str,
    batches: Batches,
    seed: int,
) -> Tensor:
    """What the score says of each filter: the sum over its weights."""
    statistics: Any = gather(model, weights, needs_of(score), batches, seed)
    scored = {}
    for name, weight in weights.items():
        stats = LayerStats(name, layer_seed(seed, name), {need: of[name] for need, of in statistics.items()})
        scored[name] = SCORES[score](weight.detach(), stats).sum(dim=(1, 2, 3))
    return torch.stack([scored[name][index] for name, index in drawn]).double().cpu()


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of two lists (without ties): Pearson's of the ranks."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def within_layers(one: Tensor, other: Tensor, layers: list[str]) -> float:
    """The mean over layers of the rank correlation inside each."""
    found = []
    for layer in dict.fromkeys(layers):
        mine = torch.tensor([name == layer for name in layers])
        if int(mine.sum()) > 2:
            found.append(spearman(one[mine], other[mine]))
    return sum(found) / len(found) if found else float("nan")


if __name__ == "__main__":
    main()
