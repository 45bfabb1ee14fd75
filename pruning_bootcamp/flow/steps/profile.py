"""profile: FLOPs against latency, measured here, interleaved, layer by layer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pruning_bootcamp.backends import BACKENDS, deployable_copy, prepare
from pruning_bootcamp.checkpoints import Checkpoint, Recipe, example_input
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.evaluation import cost_of, say_disagreement
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.flow.steps import ways
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import from_plain, to_plain
from pruning_bootcamp.reporting import alternatives_text, analysis_text, layers_text, profile_text
from pruning_bootcamp.results import Comparison, Network
from pruning_bootcamp.tasks.base import with_one_output
from pruning_bootcamp.tools.latency import (
    LatencyStats,
    Measured,
    compare_latencies,
    flops_latency_analysis,
    profile_layers,
    what_would_pay,
)
from pruning_bootcamp.tools.latency.advice import cut_widths
from pruning_bootcamp.tools.metrics import compare_metrics


def compare(
    cfg: Config, networks: Mapping[str, Checkpoint], device: torch.device, same_file: bool = False
) -> dict[str, Any]:
    """Dense and pruned side by side: cost, interleaved latency, layers, and why the two reductions differ."""
    taken = {name: network.recipe.inputs for name, network in networks.items()}
    if taken["baseline"] != taken["pruned"]:
        raise BootcampError(
            f"--baseline takes inputs of {taken['baseline']}, and --pruned of {taken['pruned']}: they can't be "
            "compared. Give the dense network that was pruned."
        )
    figures: dict[str, dict[str, Any]] = {}
    for name, network in networks.items():
        cost, flops = cost_of(network.model, example_input(network.recipe), network.masks)
        figures[name] = {**to_plain(cost)}
        say_disagreement(flops)
    results: dict[str, Any] = {}
    if cfg.profile.measure_latency:
        models = {name: deployable_copy(network.model).to(device) for name, network in networks.items()}
        if same_file:
            # two copies of a network can differ by a percent, by where they lie in memory: against itself it is one
            models["pruned"] = models["baseline"]
        results = _measure(cfg, networks, models, figures, device)
    comparison = compare_metrics(figures["baseline"], figures["pruned"]) | results.pop("paired", {})
    dense, pruned = (from_plain(Network, figures[name]) for name in ("baseline", "pruned"))
    LOGGER.info("%s", profile_text(dense, pruned, from_plain(Comparison, comparison)))
    for key in ("layers_text", "analysis_text", "alternatives_text"):
        if key in results:
            LOGGER.info("%s", results.pop(key))
    return {**figures, "comparison": comparison, **results}


def _measure(
    cfg: Config,
    networks: Mapping[str, Checkpoint],
    models: dict[str, nn.Module],
    figures: dict[str, dict[str, Any]],
    device: torch.device,
) -> dict[str, Any]:
    """Latency of both by the asked backend (added to `figures`), their layers, the gap's causes, other ways to run."""
    batch, runs, task = cfg.profile.batch_size, cfg.profile.runs, task_of(cfg)
    recipe = networks["pruned"].recipe
    images = example_input(recipe, batch).to(device)
    whole = ways.each_once(models, lambda name, model: with_one_output(model, images, task))
    asked = ways.each_once(whole, lambda name, model: prepare(cfg.profile.backend, model, images))
    stats = compare_latencies({name: (runner, images) for name, runner in asked.items()}, runs=runs)
    for name, stat in stats.items():
        figures[name] |= {"latency_ms": stat.median_ms, "throughput_fps": stat.throughput_fps}
    layers = profile_layers({name: (model, images) for name, model in models.items()}, runs=max(5, runs // 2))
    by_layer = bool(BACKENDS[cfg.profile.backend].facts.get("by_layer"))
    measured = {
        name: Measured(figures[name]["flops_g"] * 1e9, stats[name], layers[name] if by_layer else ()) for name in models
    }
    analysis = flops_latency_analysis(measured["baseline"], measured["pruned"])
    assert analysis.ratio is not None, "the pair was timed in the same rounds"
    alternatives = ways.time_ways(whole, {cfg.profile.backend: asked}, recipe, device, runs)
    widths = cut_widths(*({layer.name: layer.width for layer in layers[name]} for name in ("baseline", "pruned")))
    return {
        "paired": to_plain(analysis.ratio.figures()),
        "latency": {name: to_plain(stat.figures()) for name, stat in stats.items()},
        "layers": {name: [vars(layer) for layer in table] for name, table in layers.items()},
        "analysis": {
            "discrepancy_points": analysis.discrepancy_points,
            "certain": analysis.certain,
            "verdict": analysis.ratio.verdict,
            "causes": [{"points": cause.points, "text": cause.text} for cause in analysis.causes],
        },
        "alternatives": {way: to_plain(pair) for way, pair in alternatives.figures().items()},
        "not_timed": alternatives.notes,
        "launch_bound": alternatives.launch_bound,
        "cut_widths": vars(widths),
        "layers_text": layers_text(layers["baseline"], layers["pruned"]),
        "analysis_text": analysis_text(
            analysis, stats, what_would_pay(Measured(measured["pruned"].macs, stats["pruned"], layers["pruned"]))
        ),
        "alternatives_text": alternatives_text(
            alternatives.pairs, alternatives.launch_bound, alternatives.notes, widths.advice
        ),
    }


def pair_latency(
    cfg: Config, models: dict[str, nn.Module], recipe: Recipe, device: torch.device
) -> Mapping[str, LatencyStats]:
    """Latency of each model by `profile` of the config (backend, batch size, runs), interleaved."""
    images = example_input(recipe, cfg.profile.batch_size).to(device)
    runners = {
        name: prepare(cfg.profile.backend, with_one_output(model.to(device), images, task_of(cfg)), images)
        for name, model in models.items()
    }
    return compare_latencies({name: (runner, images) for name, runner in runners.items()}, runs=cfg.profile.runs)
