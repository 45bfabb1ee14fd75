"""What both networks do and cost: on the validation images, then on the test images, once."""

from typing import Any

from torch import nn

from pruning_bootcamp.checkpoints import example_input, weights_hash
from pruning_bootcamp.evaluation import cost_of, evaluate_on, say_disagreement
from pruning_bootcamp.exporters import deployable_copy
from pruning_bootcamp.flow.outcomes import Costs, Judged
from pruning_bootcamp.flow.step import Network, StepContext
from pruning_bootcamp.flow.steps.profile import pair_latency
from pruning_bootcamp.flow.steps.training import as_shipped
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.results import to_plain
from pruning_bootcamp.tools.metrics import Accuracy, compare_metrics


def costs(context: StepContext) -> Costs:
    """FLOPs, parameters and zeros of both networks; their latency where a gate asks for it."""
    cfg, dense, final = context.cfg, context.network("dense"), context.network()
    baseline: dict[str, Any] = {**to_plain(cost_of(dense.model.cpu(), example_input(dense.recipe))[0])}
    counted, flops = cost_of(final.model.cpu(), example_input(final.recipe), final.masks)
    cost: dict[str, Any] = {**to_plain(counted)}
    say_disagreement(flops)
    baseline["weights"] = weights_hash(dense.model)
    paired: dict[str, Any] = {}
    if cfg.gates.min_latency_reduction_pct is not None:
        models: dict[str, nn.Module] = {
            "baseline": deployable_copy(dense.model),
            "pruned": deployable_copy(final.model),
        }
        timed = pair_latency(cfg, models, final.recipe, context.device)
        for where, stats in ((baseline, timed["baseline"]), (cost, timed["pruned"])):
            where |= {"latency_ms": stats.median_ms, "throughput_fps": stats.throughput_fps}
        way = timed["pruned"]
        ratio = way.ratio_to(timed["baseline"])
        assert ratio is not None, "the pair was timed in the same rounds"
        cost["latency_measured"] = (
            f"medians of ratios, {ratio.spread}; {way.n} passes, batch {way.batch_size}, {way.backend} on "
            f"{way.device}, {way.threads} threads"
        )
        paired = ratio.figures()
    saved = compare_metrics(baseline, cost)["flops_reduction_pct"]
    return Costs(baseline=baseline, pruned=cost, paired=paired, summary=f"{saved:.1f}% fewer multiply-accumulates")


def judge_on(context: StepContext, split: str) -> Judged:
    """Accuracy and loss of both networks, each as it would be shipped, on every image of the split."""
    dense, final = context.network("dense"), context.network()
    images = context.splits.test if split == "test" else context.splits.val
    look: dict[str, Any] = {"device": context.device, "batch_size": context.cfg.data.batch_size, "progress": False}
    before = after = evaluate_on(dense.model.to(context.device), images, context.splits, **look)
    if context.inputs["dense"].network == context.inputs["before"].network:  # a training: there is one network only
        return _judged(split, before, after)
    shipped = Network(final.model.to(context.device), final.recipe, final.masks, final.ranges)
    with as_shipped(shipped) as model:
        after = evaluate_on(model, images, context.splits, **look)
    text = "Dense: %.2f%%, pruned: %.2f%% (%d %s images)"
    LOGGER.info(text, before.accuracy, after.accuracy, after.n, split)
    return _judged(split, before, after)


def _judged(split: str, before: Accuracy, after: Accuracy) -> Judged:
    return Judged(
        split=split,
        accuracy=round(after.accuracy, 4),
        loss=round(after.loss, 6),
        images=after.n,
        baseline_accuracy=round(before.accuracy, 4),
        baseline_loss=round(before.loss, 6),
        summary=f"{split} {after.accuracy:.2f}%, dense {before.accuracy:.2f}%",
    )
