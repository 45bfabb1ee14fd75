"""Steps that train: watched, in 8 bits once the network was quantised, its weights back on their grid at the end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from pruning_bootcamp.config import Config
from pruning_bootcamp.evaluation import evaluate_on
from pruning_bootcamp.flow import settings
from pruning_bootcamp.flow.outcomes import Recovered, Refitted, Trained
from pruning_bootcamp.flow.step import Network, StepContext
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.results import Distillation
from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.tools.datasets import eval_batches
from pruning_bootcamp.training.batch_norm import JUDGING_IMAGES, DenseJudge, apart, frozen_batch_norm
from pruning_bootcamp.training.gradual import GradualPruning
from pruning_bootcamp.training.hooks import Hook
from pruning_bootcamp.training.loop import FitResult, fit
from pruning_bootcamp.training.quantize import quantization_aware, quantized_evaluation, round_weights
from pruning_bootcamp.training.recovery import distill, first_images

Train = Callable[[Network, Sequence[Hook]], FitResult]


def fine_tune(context: StepContext) -> Trained:
    """Trained with labels as `fine_tune` of the config says; zeros stay."""
    return _with_labels(context, context.network(), context.cfg)


def quantize(context: StepContext) -> Trained:
    """Trained with 8-bit weights and inputs as `quantize` of the config says; later training goes on with them."""
    network = context.network()
    network.ranges = network.ranges or {}
    return _with_labels(context, network, settings.quantizing(context.cfg), " in 8 bits")


def _with_labels(context: StepContext, network: Network, cfg: Config, how: str = "") -> Trained:
    result, fall_backs = trained(context, network, fine_tuned(context, cfg))
    context.keep_network(network)
    score = round(result.best_score, 4)
    return Trained(
        val_accuracy=score,
        best_epoch=result.best_epoch,
        fine_tune_seconds=round(result.seconds, 2),
        fall_backs=tuple(fall_backs),
        summary=f"validation {context.task.metric.text(score)}{how}",
    )


def follow_dense(context: StepContext, sparsity: float | None = None) -> Recovered:
    """Distillation from the dense network, without labels, as `recover` of the config says; zeros may grow in it."""
    cfg, network = context.cfg, context.network()
    there = network.sparsity
    growing: list[GradualPruning] = []
    if sparsity is not None and sparsity > there and settings.before_growing(cfg, sparsity, 0.0) != sparsity:
        growing = [settings.growing(cfg, sparsity)]
    plans: list[Distillation] = []

    def train(network: Network, hooks: Sequence[Hook]) -> FitResult:
        result, found = distill(
            network.model.to(context.device),
            context.network("dense").model.to(context.device),
            context.splits,
            cfg.recover,
            device=context.device,
            folder=context.folder,
            logs=context.logs,
            seed=cfg.seed,
            masks=network.masks or None,
            fingerprint=context.key,
            hooks=hooks,
            augment=cfg.train.augment,
            checkpoint_seconds=cfg.train.checkpoint_seconds,
            task=context.task,
        )
        plans.append(found)
        return result

    result, fall_backs = trained(context, network, train, growing, keeps_best=False)
    reached = None
    if growing:
        network.masks, reached = growing[0].masks, growing[0].points[-1].sparsity
        fall_backs = [*growing[0].fall_backs, *fall_backs]
    elif cfg.recover.never_worse or (cfg.recover.never_worse is None and _follows_refit(context)):
        network = _nearer(context, network)
    score = judged(context, network)
    return Recovered(
        val_accuracy=score,
        distillation=replace(plans[0], seconds=round(result.seconds, 2)),
        sparsity=reached,
        fall_backs=tuple(fall_backs),
        summary=f"{plans[0].steps} steps, validation {context.task.metric.text(score)}",
    )


def _follows_refit(context: StepContext) -> bool:
    return isinstance(context.inputs["before"].outcome, Refitted)


def _nearer(context: StepContext, network: Network) -> Network:
    """The network as it is, or as it was before: whichever decides more held-out images as the dense one does."""
    before, judge = context.network(), held_out_judge(context)
    old, new = judge(before.model.to(context.device)), judge(network.model)
    worse = not new.better_than(old)
    LOGGER.info(
        "%.2f%% of %d held-out %s decided as the dense network does before the distillation, %.2f%% after%s",
        old.agreement_pct,
        judge.images,
        context.task.noun,
        new.agreement_pct,
        ": it is undone" if worse else "",
    )
    return before if worse else network


def held_out_judge(context: StepContext) -> DenseJudge:
    """Judges by the last training images of the seed's order: nothing is fitted on them while others are left.

    As many as the distillation sees: of 1,024 images that the dense network was trained on, four made the difference.
    """
    splits, dense = context.splits, context.network("dense").model.to(context.device)
    total = len(splits.train)
    count = context.cfg.recover.images
    _, last = apart(first_images(total, total, context.cfg.seed), count, max(count, JUDGING_IMAGES))
    images = splits.train.subset(last)
    look: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "device": context.device}
    with preserved_rng():
        return DenseJudge(
            dense, lambda: (shown for shown, _ in eval_batches(images, batch_size=256, **look)), context.task
        )


def fine_tuned(context: StepContext, cfg: Config, keep_best: bool = True, label: str = "fine-tune") -> Train:
    """What trains a network as `fine_tune` of this config says; `keep_best`: to its best epoch, not to its last."""

    def train(network: Network, hooks: Sequence[Hook]) -> FitResult:
        f = cfg.fine_tune
        with frozen_batch_norm(network.model, f.freeze_batch_norm):
            return fit(
                network.model.to(context.device),
                context.splits,
                cfg.fine_tune.after(cfg.train),
                device=context.device,
                folder=context.folder,
                logs=context.logs,
                seed=cfg.seed,
                keep_best=keep_best,
                masks=network.masks or None,
                hooks=hooks,
                teacher=context.network("dense").model.to(context.device) if f.distill > 0 else None,
                distill_weight=f.distill,
                distill_temperature=f.temperature,
                feature_weight=f.features,
                label=label,
                fingerprint=context.key,
                task=context.task,
            )

    return train


def trained(
    context: StepContext, network: Network, train: Train, hooks: Sequence[Hook] = (), keeps_best: bool = True
) -> tuple[FitResult, list[str]]:
    """What `train(network, hooks)` gives, and fall-backs; the network is trained in place, its ranges with it.

    Where the network has ranges (empty ones: from here on), everything inside computes in 8 bits. `keeps_best`: the
    training ends with the weights of its best epoch, not with the last ones.
    """
    watched = [*hooks, *context.hooks]
    if network.ranges is None:
        return train(network, watched), []
    exclude = context.cfg.quantize.exclude
    with quantization_aware(network.model.to(context.device), exclude=exclude) as quantized:
        if network.ranges:
            quantized.load_ranges(network.ranges)
        found = train(network, [*watched, quantized])
        if keeps_best:
            quantized.use_epoch(found.best_epoch)
        network.ranges = {name: range_.cpu() for name, range_ in quantized.ranges.items()}
    round_weights(network.model, network.masks or None, exclude=exclude)
    return found, list(quantized.fall_backs)


@contextmanager
def as_shipped(network: Network) -> Iterator[nn.Module]:
    """Inside, the model computes as its int8 file will, where it was trained for one."""
    if not network.ranges:
        yield network.model
        return
    ranges = {name: range_.to(next(network.model.parameters()).device) for name, range_ in network.ranges.items()}
    with quantized_evaluation(network.model, ranges):
        yield network.model


def judged(context: StepContext, network: Network) -> float:
    """Keep the network; the task's metric on the validation split."""
    splits, task = context.splits, context.task
    network.model.to(context.device)
    with as_shipped(network) as model:
        batch_size = context.cfg.data.batch_size
        val = evaluate_on(
            model, splits.val, splits, device=context.device, batch_size=batch_size, progress=False, task=task
        )
    context.keep_network(network)
    LOGGER.info("Validation %s: %s", task.metric.title, task.metric.text(val.score))
    return round(val.score, 4)
