"""Channels cut out: scores, a plan that meets the budget, the cut and its proof."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Recipe, example_input
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import GoalNotMet
from pruning_bootcamp.evaluation import cost_of
from pruning_bootcamp.flow.outcomes import Cut, Measured
from pruning_bootcamp.flow.step import Network, StepContext
from pruning_bootcamp.flow.steps.batch_norm import recover_batch_norm
from pruning_bootcamp.flow.steps.prune import SCORED, distribution_of
from pruning_bootcamp.flow.steps.training import judged
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.models import make_prunable
from pruning_bootcamp.pruning.channels.structured import StructuredPlan, cut_channels, plan_structured, score_channels
from pruning_bootcamp.reporting import structured_table
from pruning_bootcamp.tools.metrics import compute_params
from pruning_bootcamp.tools.modes import evaluation_mode


@dataclass
class Foreseen:
    """The network as it can be cut, how that is built, and what to cut: found before anything is written."""

    model: nn.Module
    recipe: Recipe
    plan: StructuredPlan


def score(context: StepContext) -> Measured:
    """What each channel is worth, group by group."""
    s, network = context.cfg.structured, context.network()
    ready, recipe = ready_to_cut(network.model, network.recipe)
    scores = score_channels(ready, example_input(recipe), s, seed=context.cfg.seed)
    context.keep_tensors(SCORED, {"scores": scores})
    stats = {name: distribution_of(values, name) for name, values in scores.items()}
    return Measured(scores=stats, summary=f"{len(stats)} groups of channels")


def cut(context: StepContext, foreseen: Foreseen | None = None) -> Cut:
    """The channels cut out, the cut proved, batch norm re-estimated."""
    network = context.network()
    if foreseen is None:
        scores = context.tensors("scores", SCORED)["scores"]
        foreseen = plan_cut(context.cfg, network.model, network.recipe, context.device, scores)
        LOGGER.info("%s", structured_table(foreseen.plan))
    plan = foreseen.plan
    found = cut_channels(foreseen.model, example_input(foreseen.recipe), plan)  # a failed proof leaves nothing behind
    LOGGER.info("Slice proof: passed, %s", found.proof)
    masks = {name: found.model.get_parameter(name).detach() != 0 for name in network.masks}
    if masks:
        LOGGER.info("The checkpoint's own zeros stay, in %d of the cut network's layers", len(masks))
    network = Network(found.model, foreseen.recipe, masks)
    recovered = recover_batch_norm(
        network.model, context.network("dense").model, context.cfg, context.splits, context.device
    )
    score = judged(context, network)
    return Cut(
        val_accuracy=score,
        widths={group.name: (group.width, len(group.keep)) for group in plan.groups},
        round_to=plan.round_to,
        round_to_narrow=dict(plan.narrow) or None,
        proof_difference=float(found.proof.max_difference),
        fall_backs=tuple(plan.fall_backs),
        summary=f"{100 * plan.macs_reduction:.1f}% fewer multiply-accumulates, "
        f"validation {context.task.metric.text(score)}",
        batch_norm_reestimated=recovered.batch_norm_reestimated,
        batch_norm=recovered.batch_norm,
    )


def plan_cut(
    cfg: Config,
    model: nn.Module,
    recipe: Recipe,
    device: torch.device,
    scores: Mapping[str, Tensor] | None = None,
) -> Foreseen:
    """What to cut for running on `device`; a GoalNotMet where the budget can't be met."""
    ready, recipe = ready_to_cut(model, recipe)
    example = example_input(recipe)
    _, flops = cost_of(model, example)
    plan = plan_structured(
        ready,
        example,
        cfg.structured,
        seed=cfg.seed,
        baseline_macs=flops.macs,
        baseline_params=compute_params(model),
        scores=scores,
        device=device,
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
