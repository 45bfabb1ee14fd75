"""profile: FLOPs against latency, measured here, interleaved, layer by layer."""

from collections.abc import Mapping

from torch import Tensor, nn

from pruning_bootcamp.backends import BACKENDS, deployable_copy
from pruning_bootcamp.backends.ways import ways_to_time
from pruning_bootcamp.backends.zeros import zeros_said
from pruning_bootcamp.checkpoints import example_input
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.outcomes import ComparedCosts, Profiled
from pruning_bootcamp.flow.step import StepContext
from pruning_bootcamp.flow.steps import ways
from pruning_bootcamp.plain import from_plain, to_plain
from pruning_bootcamp.reporting import alternatives_text, analysis_text, backends_text, layers_text
from pruning_bootcamp.results import Profile
from pruning_bootcamp.runtime import environment
from pruning_bootcamp.tasks.base import with_one_output
from pruning_bootcamp.tools.latency import (
    TimedNetwork,
    flops_latency_analysis,
    profile_layers,
    what_would_pay,
)
from pruning_bootcamp.tools.latency.advice import cut_widths
from pruning_bootcamp.tools.metrics import compare_metrics
from pruning_bootcamp.tools.programs import onnx_file, twice
from pruning_bootcamp.tools.tiny import may_fold_to_tiny, tiny_text, tiny_weights


def time_in_turn(context: StepContext, same_file: bool) -> Profiled:
    """Latency of both by the asked backends, interleaved; their layers, the gap's causes, other ways to run them."""
    cfg, device, task = context.cfg, context.device, context.task
    networks = {"baseline": context.network("dense"), "pruned": context.network()}
    costs = context.outcome("costs", ComparedCosts)
    models = {name: deployable_copy(network.model).to(device) for name, network in networks.items()}
    if same_file:
        # two copies of a network can differ by a percent, by where they lie in memory: against itself it is one
        models["pruned"] = models["baseline"]
    recipe, runs = networks["pruned"].recipe, cfg.profile.runs
    images = example_input(recipe, cfg.profile.batch_size).to(device)
    whole = ways.each_once(models, lambda name, model: with_one_output(model, images, task))
    runners = ways.prepared(cfg.profile.backends, whole, images)
    asked = ways.timed(runners, images, runs)
    main = cfg.profile.backends[0]
    stats = asked[main]
    layers = profile_layers({name: (model, images) for name, model in models.items()}, runs=max(5, runs // 2))
    by_layer = bool(BACKENDS[main].facts.get("by_layer"))
    macs = {"baseline": costs.baseline.flops_g, "pruned": costs.pruned.flops_g}
    measured = {
        name: TimedNetwork((macs[name] or 0.0) * 1e9, stats[name], layers[name] if by_layer else ()) for name in models
    }
    analysis = flops_latency_analysis(measured["baseline"], measured["pruned"])
    assert analysis.ratio is not None, "the pair was timed in the same rounds"
    alternatives = ways.time_ways(whole, runners, recipe, device, runs)
    widths = cut_widths(*({layer.name: layer.width for layer in layers[name]} for name in ("baseline", "pruned")))
    baseline, pruned = stats["baseline"].beside(costs.baseline), stats["pruned"].beside(costs.pruned)
    tiny = {name: _tiny_weights(model, images) for name, model in whole.items()}
    skipped_by = {*asked, *(way.backend for way in ways_to_time(device.type, whole["pruned"]))}
    would_pay = what_would_pay(TimedNetwork(measured["pruned"].macs, stats["pruned"], layers["pruned"]))
    several = len(asked) > 1
    found = {
        "baseline": to_plain(baseline),
        "pruned": to_plain(pruned),
        "comparison": compare_metrics(to_plain(baseline), to_plain(pruned)) | to_plain(analysis.ratio.as_result()),
        "checkpoints": {},
        "environment": to_plain(environment(device)),
        "latency": {name: to_plain(stat.as_result()) for name, stat in stats.items()},
        "backends": {name: to_plain(ways.pair_result(pair)) for name, pair in asked.items()} if several else None,
        "layers": {name: [vars(layer) for layer in table] for name, table in layers.items()},
        "analysis": {
            "discrepancy_points": analysis.discrepancy_points,
            "certain": analysis.certain,
            "verdict": analysis.ratio.verdict,
            "causes": [{"points": cause.points, "text": cause.text} for cause in analysis.causes],
        },
        "alternatives": {str(way): to_plain(ways.pair_result(pair)) for way, pair in alternatives.pairs.items()},
        "not_timed": alternatives.notes,
        "launch_bound": alternatives.launch_bound,
        "cut_widths": vars(widths),
    }
    if any(tiny.values()):
        found["tiny_weights"] = {name: counts for name, counts in tiny.items() if counts}
    texts = (
        *([backends_text(asked)] if several else []),
        layers_text(layers["baseline"], layers["pruned"]),
        analysis_text(analysis, stats, would_pay),
        alternatives_text(alternatives.pairs, alternatives.launch_bound, alternatives.notes, widths.advice),
        *([zeros] if (zeros := zeros_said(whole["pruned"], skipped_by, device)) else []),
        *(_tiny_advice(name, counts) for name, counts in tiny.items() if counts),
    )
    return Profiled(profile=from_plain(Profile, found), texts=texts, summary=str(stats["pruned"]))


def _tiny_weights(model: nn.Module, images: Tensor) -> dict[str, int]:
    """Tensor -> weights too small to be worth their time: the network's own, and what folding batch norm makes them."""
    plain = deployable_copy(model)
    own = tiny_weights(plain)
    if not own and not may_fold_to_tiny(plain):
        return own
    try:
        return dict(onnx_file(plain, twice(images.cpu())).zeroed) or own
    except BootcampError:  # what can't be written as ONNX has its own to show
        return own


def _tiny_advice(name: str, counts: Mapping[str, int]) -> str:
    """That the network has weights so small that they make it slow, which they are, and what to do."""
    return (
        f"! {name}: {tiny_text(counts)} once batch norm is folded. Numbers that small do nothing, and slow some "
        "processors down many times. onnxruntime was given zeros in their place here; `export` writes zeros too: "
        "deploy what it writes."
    )
