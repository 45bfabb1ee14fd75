"""A row of benchmarks/structured.py: channels chosen and cut by torch-pruning, then batch norm re-estimated as here.

    .venv/bin/python benchmarks/structured_torch_pruning.py l2 --checkpoint resnet20.th \
        --target-flops-reduction 0.5169 --save-dir results/l2 data.root=data/cifar10      a minute on one thread

Its importances (l2, taylor, hessian) and its pruner, one ranking of all channels, in one shot: the smallest share of
the channels that saves so many multiply-accumulates. It may cut what prune-structured may with the same config.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import example_input, save_checkpoint
from pruning_bootcamp.config import load
from pruning_bootcamp.evaluation import cost_of, evaluate_on
from pruning_bootcamp.flow import start
from pruning_bootcamp.flow.steps.batch_norm import recover_batch_norm
from pruning_bootcamp.flow.steps.cut import calibration_pairs, plan_cut
from pruning_bootcamp.logs import LOGGER, start_screen
from pruning_bootcamp.preflight import check
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.runs import METRICS, write_yaml
from pruning_bootcamp.schema import Choice

IMPORTANCES = {
    "l2": lambda: torch_pruning.importance.MagnitudeImportance(p=2),
    "taylor": torch_pruning.importance.TaylorImportance,
    "hessian": torch_pruning.importance.HessianImportance,
}
HALVINGS = 12  # of the share of channels: to a fortieth of a percent
ImageBatches = Callable[[], Iterator[tuple[Tensor, Tensor]]]
Scores = dict[str, Tensor]
"""root layer -> a value a channel"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("importance", choices=IMPORTANCES)
    parser.add_argument("-c", "--config", default="cfgs/channels_one_shot.yaml")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--target-flops-reduction", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-dir", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()

    start_screen()
    target = options.target_flops_reduction
    given = {"checkpoint": options.checkpoint, "seed": options.seed, "structured.target_flops_reduction": target}
    cfg = load(options.config, options.overrides, given)
    cfg.structured.score, cfg.structured.allocation, cfg.structured.refit = Choice("l1"), "global", "batch_norm"
    check(cfg, "prune-structured", options.config)
    device = start.start(cfg)
    splits = start.open_data(cfg)
    opened = start.open_network(Path(options.checkpoint), cfg, splits)
    example = example_input(opened.recipe)
    macs = cost_of(opened.model, example)[1].macs
    dense_accuracy = float(evaluate_on(opened.model, splits.test, splits, device=device).score)

    begun = time.perf_counter()
    foreseen = plan_cut(cfg, opened.model, opened.recipe, device)  # for what may be cut, in a form that can be
    ready, roots = foreseen.model.cpu(), {group.name for group in foreseen.plan.groups}
    most = cfg.structured.max_sparsity
    pairs = calibration_pairs(cfg, splits, torch.device("cpu"), cfg.structured.calibration_images)
    scores = scored(ready, example, roots, options.importance, pairs)
    low, high = 0.0, most
    for _ in range(HALVINGS):
        share = (low + high) / 2
        saved = 1 - cost_of(cut(ready, example, roots, scores, share, most), example)[1].macs / macs
        low, high = (low, share) if saved >= target else (share, high)
    model = cut(ready, example, roots, scores, high, most)
    recovered = recover_batch_norm(model, opened.model, cfg, splits, device)
    seconds = round(time.perf_counter() - begun, 1)

    model = model.cpu().eval()
    options.save_dir.mkdir(parents=True, exist_ok=True)
    save_checkpoint(options.save_dir / "pruned_model.pth", model, foreseen.recipe)
    accuracy = float(evaluate_on(model, splits.test, splits, device=device).score)
    LOGGER.info("%.2f%%, dense %.2f%%", accuracy, dense_accuracy)
    metrics: dict[str, Any] = {
        "accuracy": round(accuracy, 4),
        "baseline": {"accuracy": round(dense_accuracy, 4)},
        "test_images": len(splits.test),
        "flops_reduction_pct": 100 * (1 - cost_of(model.cpu(), example)[1].macs / macs),
        "batch_norm_reestimated": recovered.batch_norm_reestimated,
        "seconds": seconds,
        "widths": {name: [width_of(ready, name), width_of(model, name)] for name in sorted(roots)},
        "fall_backs": [],
    }
    write_yaml(options.save_dir / METRICS, metrics)


def scored(model: nn.Module, example: Tensor, roots: set[str], importance: str, batches: ImageBatches) -> Scores:
    """What torch-pruning's importance says of each group that may be cut, with gradients of the images' loss."""
    model = detached_copy(model).eval()
    if importance == "taylor":
        for images, labels in batches():
            F.cross_entropy(model(images), labels, reduction="sum").backward()
    elif importance == "hessian":
        _square_gradients(model, batches)
    graph = torch_pruning.DependencyGraph().build_dependency(model, example)
    valued, found = IMPORTANCES[importance](), {}
    for group in graph.get_all_groups(ignored_layers=_ignored(model, roots)):
        found[_root(model, group)] = valued(group).detach()
    return found


def _square_gradients(model: nn.Module, batches: ImageBatches) -> None:
    """Each weight's gradient becomes the mean over the images of its square, which the importance then reads.

    Its own accumulate_grad keeps the last image's alone (torch-pruning 1.6).
    """
    sums = {parameter: torch.zeros_like(parameter) for parameter in model.parameters() if parameter.requires_grad}
    count = 0
    for images, labels in batches():
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            gradients = torch.autograd.grad(F.cross_entropy(model(image), label), list(sums))
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total += gradient.square()
            count += 1
    for parameter, total in sums.items():
        parameter.grad = total / count


def cut(model: nn.Module, example: Tensor, roots: set[str], scores: Scores, share: float, most: float) -> nn.Module:
    """A copy without this share of the channels by one ranking, no group losing more than `most` of its own."""
    model = detached_copy(model).eval()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=lambda group: scores[_root(model, group)],
        global_pruning=True,
        pruning_ratio=share,
        pruning_ratio_dict={},  # its defaults are one table for all pruners of a process
        max_pruning_ratio=most,
        ignored_layers=_ignored(model, roots),
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    return model


def _ignored(model: nn.Module, roots: set[str]) -> list[nn.Module]:
    layers = (nn.Conv2d, nn.Linear)
    return [module for name, module in model.named_modules() if isinstance(module, layers) and name not in roots]


def _root(model: nn.Module, group: Any) -> str:
    names = {module: name for name, module in model.named_modules()}
    return names[group[0].dep.target.module]


def width_of(model: nn.Module, name: str) -> int:
    """Output channels of a layer."""
    return len(model.get_parameter(f"{name}.weight"))


if __name__ == "__main__":
    main()
