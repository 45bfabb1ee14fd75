"""What both networks do and cost: on the validation images, then on the test images, once."""

from typing import Any

from pruning_bootcamp.backends import deployable_copy
from pruning_bootcamp.checkpoints import example_input, weights_hash
from pruning_bootcamp.evaluation import cost_of, evaluate_on, say_disagreement
from pruning_bootcamp.flow import step as steps
from pruning_bootcamp.flow.outcomes import ComparedCosts, Judged, Timed
from pruning_bootcamp.flow.step import StepContext
from pruning_bootcamp.flow.steps.training import as_shipped
from pruning_bootcamp.flow.steps.ways import ratio_of, time_asked, time_every_way
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import from_plain, to_plain
from pruning_bootcamp.results import Comparison, NetworkMetrics
from pruning_bootcamp.tasks import Measurement, Metric
from pruning_bootcamp.tools.metrics import compare_metrics


def costs(context: StepContext, timed: bool = False) -> ComparedCosts:
    """FLOPs, parameters and zeros of both networks; their latency too where they are `timed`."""
    cfg, dense, final = context.cfg, context.network("dense"), context.network()
    before, flops = cost_of(dense.model.cpu(), example_input(dense.recipe), dense.masks)
    after = before
    if not _is_one(context):
        after, flops = cost_of(final.model.cpu(), example_input(final.recipe), final.masks)
    say_disagreement(flops)
    baseline = from_plain(NetworkMetrics, {**to_plain(before), "weights": weights_hash(dense.model)})
    pruned, paired, how = from_plain(NetworkMetrics, to_plain(after)), Comparison(), None
    if timed:
        models = {"baseline": deployable_copy(dense.model), "pruned": deployable_copy(final.model)}
        asked = time_every_way(cfg, models, final.recipe, context.device)
        for each, pair in asked.items() if len(asked) > 1 else ():
            LOGGER.info("%s: %s less time", each, ratio_of(pair))
        found = min(asked.values(), key=lambda pair: ratio_of(pair).reduction_pct)
        baseline, pruned = found["baseline"].beside(baseline), found["pruned"].beside(pruned)
        way = found["pruned"]
        ratio = ratio_of(found)
        paired = ratio.as_result()
        least = f", the least of {', '.join(map(str, asked))}" if len(asked) > 1 else ""
        how = f"medians of ratios, {ratio.spread}; {way.n} passes, {way.as_result().noted_way}{least}"
    saved = from_plain(Comparison, compare_metrics(to_plain(baseline), to_plain(pruned)) | to_plain(paired))
    return ComparedCosts(
        baseline=baseline,
        pruned=pruned,
        saved=saved,
        latency_measured=how,
        summary=f"{saved.flops_reduction_pct:.1f}% fewer multiply-accumulates",
    )


def judge_on(context: StepContext, split: str) -> Judged:
    """Score and loss of both networks, each as it would be shipped, on every sample of the split."""
    dense, final = context.network("dense"), context.network()
    images = context.splits.test if split == "test" else context.splits.val
    options: dict[str, Any] = {"device": context.device, "batch_size": context.cfg.data.batch_size, "progress": False}
    options["task"] = task = context.task
    before = after = evaluate_on(dense.model.to(context.device), images, context.splits, **options)
    if _is_one(context):
        return _judged(split, before, after, task.metric)
    shipped = steps.Network(final.model.to(context.device), final.recipe, final.masks, final.ranges)
    with as_shipped(shipped) as model:
        after = evaluate_on(model, images, context.splits, **options)
    text = "Dense: %s, pruned: %s (%d %s %s)"
    scores = (task.metric.text(found.score) for found in (before, after))
    LOGGER.info(text, *scores, after.n, split, task.noun)
    return _judged(split, before, after, task.metric)


def latency(context: StepContext) -> Timed:
    """How long the network takes by itself, as `profile` of the config says."""
    network = context.network()
    asked = time_asked(context.cfg, {"network": network.model}, network.recipe, context.device)
    stats = {backend: found["network"] for backend, found in asked.items()}
    main, *others = stats.values()
    return Timed(
        network=main.beside(NetworkMetrics()),
        latencies={backend: found.as_result() for backend, found in stats.items()} if others else None,
        texts=tuple(str(found) for found in stats.values()),
        summary=str(main),
    )


def _is_one(context: StepContext) -> bool:
    """Whether there is no second network: a training, or a look at one."""
    return context.inputs["dense"].network == context.inputs["before"].network


def _judged(split: str, before: Measurement, after: Measurement, metric: Metric) -> Judged:
    return Judged(
        accuracy=round(after.score, 4),
        loss=round(after.loss, 6),
        images=after.n,
        baseline_accuracy=round(before.score, 4),
        summary=f"{split} {metric.text(after.score)}, dense {metric.text(before.score)}",
    )
