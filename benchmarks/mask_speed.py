"""How fast masks are made, against torch.nn.utils.prune on the same weights, and what keeping them costs in training.

    .venv/bin/python benchmarks/mask_speed.py                      100 M weights; about 2 minutes and 3 GB on 2 cores
    .venv/bin/python benchmarks/mask_speed.py --millions 5 --rounds 3 --steps 10 --json mask_speed.json

Both sides score by magnitude over all layers and write the zeros; they take turns in one process, and what is set back
between the rounds is not timed. The masks are compared: they may differ only among weights of the very same size.
The second table is a training step of ResNet-20 with and without the hook that keeps pruned weights at zero.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning_bootcamp.models import MODELS
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.pruning.masks import Masks
from pruning_bootcamp.pruning.weights.unstructured import prune_unstructured
from pruning_bootcamp.runtime import environment, seed_everything
from pruning_bootcamp.training.hooks import MaskHook, StepState


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--millions", type=float, default=100.0, help="weights of the linear layers, in millions")
    parser.add_argument("--layers", type=int, default=6, help="linear layers, all of one size")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each side, after one to warm up")
    parser.add_argument("--steps", type=int, default=40, help="timed training steps with and without masks")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, help="torch's threads; one fewer than the cores where others work too")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()

    if options.threads:
        torch.set_num_threads(options.threads)
    seed_everything(0)
    figures = {
        "masks": time_masks(round(options.millions * 1e6), options.layers, options.sparsity, options.rounds),
        "training": time_training(options.sparsity, options.steps, options.batch_size),
        "environment": to_plain(environment(torch.device("cpu"))),
    }
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def time_masks(size: int, depth: int, sparsity: float, rounds: int) -> dict[str, Any]:
    """Seconds to prune the same weights globally: the engine, and torch.nn.utils.prune."""
    width = round((size / depth) ** 0.5)
    layers = [nn.Linear(width, width, bias=False) for _ in range(depth)]
    net = nn.Sequential(*layers)
    original = [layer.weight.detach().clone() for layer in layers]
    found: dict[str, Masks] = {}

    def restore() -> None:
        for layer, weight in zip(layers, original, strict=True):
            if prune.is_pruned(layer):
                prune.remove(layer, "weight")
            with torch.no_grad():
                layer.weight.copy_(weight)

    def ours() -> None:
        found["pruning_bootcamp"] = prune_unstructured(net, sparsity=sparsity, allocation="global").masks

    def theirs() -> None:
        parameters = [(layer, "weight") for layer in layers]
        prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=sparsity)
        found["torch"] = {f"{index}.weight": layer.get_buffer("weight_mask") for index, layer in enumerate(layers)}

    seconds = in_turn({"pruning_bootcamp": ours, "torch": theirs}, rounds, between=restore)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "weights": depth * width**2,
        "layers": depth,
        "sparsity": sparsity,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "times_faster": medians["torch"] / medians["pruning_bootcamp"],
        **compare_masks(found["pruning_bootcamp"], found["torch"], original),
    }


def compare_masks(ours: Masks, theirs: Masks, weights: list[Tensor]) -> dict[str, Any]:
    """The zeros of each, the weights they disagree on, and whether all of those are equally large (ties)."""
    disputed = []
    for one, other, weight in zip(ours.values(), theirs.values(), weights, strict=True):
        disputed.append(weight[one != other.bool()].abs())
    sizes = torch.cat(disputed)
    return {
        "zeros": {
            name: sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in masks.values())
            for name, masks in (("pruning_bootcamp", ours), ("torch", theirs))
        },
        "masks_differ_in": len(sizes),
        "equal_up_to_ties": len(sizes.unique()) <= 1,
    }


def time_training(sparsity: float, steps: int, batch_size: int) -> dict[str, Any]:
    """Seconds of a training step of ResNet-20, of the same step with masks kept, and of keeping them alone."""
    images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(0, 10, (batch_size,))
    net = MODELS["cifar_resnet20"](classes=10, in_channels=3).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    hook = MaskHook(net, prune_unstructured(net, sparsity=sparsity, allocation="global").masks)
    state = StepState(net, optimizer, total_steps=steps, steps_per_epoch=steps, replace_masks=hook.replace)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    def step_with_masks() -> None:
        step()
        hook.on_step_end(state)

    seconds = in_turn({"step": step, "with_masks": step_with_masks}, steps)
    alone = in_turn({"masks_alone": lambda: hook.on_step_end(state)}, 10 * steps)
    medians = {name: statistics.median(values) for name, values in (seconds | alone).items()}
    return {
        "network": "cifar_resnet20",
        "batch_size": batch_size,
        "sparsity": sparsity,
        "seconds": {name: spread(values) for name, values in (seconds | alone).items()},
        "percent_slower": 100 * (medians["with_masks"] / medians["step"] - 1),
        "masks_percent_of_step": 100 * medians["masks_alone"] / medians["step"],
    }


def in_turn(
    candidates: Mapping[str, Callable[[], None]], rounds: int, between: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each candidate, run in turn; the order flips every round, and the first round only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds + 1):
            for name in list(candidates)[:: 1 if number % 2 else -1]:
                between()
                started = time.perf_counter()
                candidates[name]()
                if number:
                    seconds[name].append(time.perf_counter() - started)
    finally:
        gc.enable()
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "n": len(seconds)}


def show(figures: Mapping[str, Any]) -> None:
    masks, training, machine = figures["masks"], figures["training"], figures["environment"]
    print(f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}\n")
    print(
        f"Global magnitude masks: {masks['weights']:,} weights, {masks['layers']} layers, {masks['sparsity']:.0%} zero"
    )
    _table(masks["seconds"])
    verdict = "equal up to ties" if masks["equal_up_to_ties"] else "DIFFERENT"
    print(f"{masks['times_faster']:.2f}x as fast; masks {verdict} ({masks['masks_differ_in']} differ)\n")
    print(f"Training step: {training['network']}, batch {training['batch_size']}, {training['sparsity']:.0%} zero")
    _table(training["seconds"])
    print(
        f"Keeping masks: {training['percent_slower']:+.2f}% of a step by difference, "
        f"{training['masks_percent_of_step']:.3f}% timed alone"
    )


def _table(rows: Mapping[str, Mapping[str, float]]) -> None:
    print("| what             | median ms |    min ms |    max ms |   n |")
    print("|------------------|-----------|-----------|-----------|-----|")
    for name, row in rows.items():
        times = " | ".join(f"{1000 * row[key]:9.2f}" for key in ("median", "min", "max"))
        print(f"| {name:16} | {times} | {row['n']:3} |")


if __name__ == "__main__":
    main()
