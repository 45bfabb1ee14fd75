"""Channels cut out: scores, a plan that meets the budget, the cut and its proof."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Recipe, example_input
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.evaluation import cost_of
from pruning_bootcamp.flow import settings
from pruning_bootcamp.flow.outcomes import Cut, Measured
from pruning_bootcamp.flow.step import Network, StepContext
from pruning_bootcamp.flow.steps.batch_norm import recover_batch_norm
from pruning_bootcamp.flow.steps.prune import SCORED, distribution_of
from pruning_bootcamp.flow.steps.timing import as_share, check_time, timing
from pruning_bootcamp.flow.steps.training import judged
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.models import make_prunable
from pruning_bootcamp.models.silent import mute
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.pruning.channels.measuring import ChannelScores, chosen, needs_images, score_channels
from pruning_bootcamp.pruning.channels.refit import Images
from pruning_bootcamp.pruning.channels.scores import needs_labels
from pruning_bootcamp.pruning.channels.structured import StructuredPlan, cut_channels, plan_structured
from pruning_bootcamp.pruning.sections import StructuredSettings
from pruning_bootcamp.reporting import structured_table
from pruning_bootcamp.results import Recovery, Stairs
from pruning_bootcamp.runs import LAYER_TIMES, write_yaml
from pruning_bootcamp.schema import Choice
from pruning_bootcamp.tools.datasets import Splits, eval_batches
from pruning_bootcamp.tools.metrics import compute_params
from pruning_bootcamp.tools.modes import evaluation_mode
from pruning_bootcamp.training.recovery import first_images

KEPT = "kept.pth"
# so many numbers of images at a time: 128 of CIFAR's, 27 of ImageNet's
_NUMBERS_A_BATCH = 2**22


@dataclass
class Foreseen:
    """The network as it can be cut, how that is built, and what to cut: found before anything is written."""

    model: nn.Module
    recipe: Recipe
    plan: StructuredPlan


@dataclass(frozen=True)
class Part:
    """How much of the budget of `structured` is cut after a cycle, and whether no other cycle follows."""

    share: float
    last: bool


WHOLE = Part(1.0, True)


@dataclass(frozen=True)
class Origin:
    """What a budget is a share of."""

    dense: nn.Module
    widths: Mapping[str, int] | None = None
    """group -> its channels in the dense network, where some have been cut"""


def score(context: StepContext) -> Measured:
    """What each channel is worth, group by group."""
    cfg, network = context.cfg, context.network()
    ready, recipe = ready_to_cut(network.model, network.recipe)
    given: dict[str, Any] = {"seed": cfg.seed}
    if needs_images(cfg.structured):
        ready = ready.to(context.device)
        chosen_score = settings.channel_choices(cfg).score
        assert chosen_score is not None
        batches = calibration_pairs if needs_labels(chosen_score.name) else calibration_images
        images = batches(cfg, context.splits, context.device, cfg.structured.calibration_images)
        given |= {"images": images, "outputs": context.task.outputs, "task": context.task, "say": _say_measured}
    example = example_input(recipe).to(context.device)
    fall_backs: tuple[str, ...] = ()
    try:
        found = score_channels(ready, example, settings.channel_choices(cfg), **given)
    except BootcampError as error:
        if not needs_images(cfg.structured) or cfg.structured.score or cfg.structured.allocation:
            raise
        found = score_channels(ready, example, chosen(cfg.structured, measured=False), seed=cfg.seed)
        fall_backs = (f"channels are chosen by bn_scale, not measured: {error.problems[0]}",)
    kept = {"scores": found.scores} | ({} if found.losses is None else {"losses": found.losses})
    context.keep_tensors(SCORED, kept)
    stats = {name: distribution_of(values, name) for name, values in found.scores.items()}
    return Measured(scores=stats, fall_backs=fall_backs, summary=f"{len(stats)} groups of channels")


def _say_measured(number: int, total: int, group: str) -> None:
    LOGGER.info("Measuring %d of %d groups of channels: %s", number + 1, total, group)


def calibration_images(cfg: Config, splits: Splits, device: torch.device, wanted: int) -> Images:
    """Training images in batches of one size, without labels, each time anew."""
    pairs = calibration_pairs(cfg, splits, device, wanted)
    return lambda: (images for images, _ in pairs())


def calibration_pairs(
    cfg: Config, splits: Splits, device: torch.device, wanted: int
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """The same with their labels."""
    count = min(wanted, len(splits.train))
    images = splits.train.subset(first_images(len(splits.train), count, cfg.seed))
    numbers = math.prod(splits.train.shape) if hasattr(splits.train, "shape") else 1
    most = min(128, max(8, _NUMBERS_A_BATCH // numbers))
    size = count // -(-count // most)

    look: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "device": device}
    return lambda: eval_batches(images, batch_size=size, channels_last=True, **look)


def cut(context: StepContext, foreseen: Foreseen | None = None, part: Part = WHOLE) -> Cut:
    """The channels cut out, the cut proved, batch norm re-estimated where nothing is refitted after it.

    What is kept and said is in the dense network's terms, whatever earlier cycles have cut.
    """
    network, s = context.network(), context.cfg.structured
    earlier = _widths_so_far(context)
    if foreseen is None:
        foreseen = foresee(context, part)
        LOGGER.info("%s", structured_table(foreseen.plan))
    plan = foreseen.plan
    found = cut_channels(foreseen.model, example_input(foreseen.recipe), plan)  # a failed proof leaves nothing behind
    LOGGER.info("Slice proof: passed, %s", found.proof)
    network = Network(found.model, foreseen.recipe, masks_after(network.masks, found.model))
    recovered = Recovery()
    if s.refit == "batch_norm":
        dense = context.network("dense").model
        recovered = recover_batch_norm(network.model, dense, context.cfg, context.splits, context.device)
    kept = context.tensors("cut", KEPT).get("channels", {})
    if plan.stairs and context.leads:
        note = "microseconds of layers alone, by the width of a side; chosen: inputs and outputs that are left"
        write_yaml(context.folder / LAYER_TIMES, to_plain(Stairs(ways=plan.stairs)), note)
    silent = {path: torch.ones(1) for path in found.silent}
    context.keep_tensors(KEPT, {"channels": composed(kept, found.kept)} | ({"silent": silent} if silent else {}))
    if s.refit != "closed_form":
        mute(network.model, found.silent)
    score = judged(context, network)
    return Cut(
        val_accuracy=score,
        widths=earlier
        | {group.name: (earlier.get(group.name, (group.width,))[0], group.left) for group in plan.groups},
        flops_reduction_pct=round(100 * plan.macs_reduction, 4),
        round_to=plan.round_to,
        round_to_narrow=dict(plan.narrow) or None,
        forecasts=plan.forecasts or None,
        proof_difference=float(found.proof.max_difference),
        fall_backs=tuple(plan.fall_backs),
        summary=f"{100 * plan.macs_reduction:.1f}% fewer multiply-accumulates, "
        f"validation {context.task.metric.text(score)}",
        batch_norm_reestimated=recovered.batch_norm_reestimated,
        batch_norm=recovered.batch_norm,
    )


def foresee(context: StepContext, part: Part) -> Foreseen:
    """What the cycle cuts: by the scores that were kept, so the same whatever its network has been trained to since."""
    network, scored = context.network(), context.tensors("scores", SCORED)
    widths = {name: before for name, (before, _) in _widths_so_far(context).items()}
    return plan_cut(
        context.cfg,
        network.model,
        network.recipe,
        context.device,
        ChannelScores(scored["scores"], scored.get("losses")),
        part,
        Origin(context.network("dense").model, widths or None),
        context,
    )


def _widths_so_far(context: StepContext) -> dict[str, tuple[int, int]]:
    """Group -> channels in the dense network and after the cycles before this one."""
    return context.outcome("cut", Cut).widths if "cut" in context.inputs else {}


def composed(earlier: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layer -> the dense network's output channels that are left, where `now` numbers those that `earlier` left."""
    return dict(earlier) | {path: earlier[path][left] if path in earlier else left for path, left in now.items()}


def renumbered(kept: Mapping[str, Tensor], earlier: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other way round: channels of the dense network -> their places among those that `earlier` left."""
    return {path: torch.searchsorted(earlier[path], left) if path in earlier else left for path, left in kept.items()}


def masks_after(masks: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The masks of the network that was cut: the zeros that it had stay."""
    if masks:
        LOGGER.info("The checkpoint's own zeros stay, in %d of the cut network's layers", len(masks))
    return {name: model.get_parameter(name).detach() != 0 for name in masks}


def plan_cut(
    cfg: Config,
    model: nn.Module,
    recipe: Recipe,
    device: torch.device,
    scored: ChannelScores | None = None,
    part: Part = WHOLE,
    origin: Origin | None = None,
    context: StepContext | None = None,
) -> Foreseen:
    """What to cut for running on `device`; a GoalNotMet where this part of the budget can't be met.

    Before the last cycle nothing is cut where widths change in steps too coarse for its part. `origin`: left out, the
    network itself. `context`: of the step that plans it, which tells how far it is.
    """
    s = settings.channel_choices(cfg)
    if scored is not None and s.allocation == "measured" and scored.losses is None:  # it could not be measured
        s = chosen(cfg.structured, measured=False)
    return _planned(s, cfg, model, recipe, device, scored, part, origin, context)


def check_reachable(cfg: Config, model: nn.Module, recipe: Recipe, device: torch.device) -> None:
    """A GoalNotMet where no choice of channels meets the budget: known before any of them is measured."""
    if cfg.structured.timed:
        ready, ready_recipe = ready_to_cut(model, recipe)
        times = timing(cfg, model, recipe, device)
        check_time(cfg.structured, ready, ready_recipe, times)
        return
    _planned(replace(cfg.structured, score=Choice("l1"), allocation="global"), cfg, model, recipe, device)


def _planned(
    s: StructuredSettings,
    cfg: Config,
    model: nn.Module,
    recipe: Recipe,
    device: torch.device,
    scored: ChannelScores | None = None,
    part: Part = WHOLE,
    origin: Origin | None = None,
    context: StepContext | None = None,
) -> Foreseen:
    ready, recipe = ready_to_cut(model, recipe)
    example = example_input(recipe)
    dense = model if origin is None else origin.dense
    s, times = s.part(part.share), None
    if s.timed:
        times = timing(cfg, dense, recipe, device, context)
        s = as_share(s, times)
    plan = plan_structured(
        ready,
        example,
        s,
        seed=cfg.seed,
        baseline_macs=cost_of(dense, example)[1].macs,
        baseline_params=compute_params(dense),
        widths=None if origin is None else origin.widths,
        on_the_way=not part.last,
        scores=None if scored is None else scored.scores,
        losses=None if scored is None else scored.losses,
        device=device,
        timing=times,
    )
    return Foreseen(ready, recipe, plan)


def ready_to_cut(model: nn.Module, recipe: Recipe) -> tuple[nn.Module, Recipe]:
    """The network as it can be cut (option A shortcuts become convolutions), the same function; how that is built."""
    ready, args = make_prunable(model, recipe.args)
    recipe = replace(recipe, args=args)
    _check_same_function(model.cpu(), ready.cpu(), example_input(recipe, 4))
    return ready, recipe


def _check_same_function(dense: nn.Module, ready: nn.Module, example: Tensor) -> None:
    """What was rewritten so that it can be cut computes what it did before, to rounding."""
    if ready is dense:
        return
    with evaluation_mode(dense, ready), torch.inference_mode():
        before, after = dense(example), ready(example)
    difference = float((before - after).abs().max() / before.abs().max().clamp(min=1.0))
    if not difference < 1e-5:
        raise GoalNotMet(f"the network rewritten for cutting differs from the dense one by {difference:.1e}.")
