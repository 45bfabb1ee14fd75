"""Channels that do nothing, removed; what the network computes is proved to be the same."""

from dataclasses import dataclass

from torch import nn

from pruning_bootcamp.checkpoints import Recipe, example_input
from pruning_bootcamp.config import Config
from pruning_bootcamp.flow.outcomes import Cut
from pruning_bootcamp.flow.step import Network, StepContext
from pruning_bootcamp.flow.steps.cut import masks_after, ready_to_cut
from pruning_bootcamp.flow.steps.training import judged
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.channels.dead import DeadPlan, plan_dead, remove_dead
from pruning_bootcamp.reporting import dead_table
from pruning_bootcamp.results import DeadChannels


@dataclass
class Foreseen:
    """The network that is cut, its example input, and what in it is dead: found before anything is written."""

    model: nn.Module
    recipe: Recipe
    plan: DeadPlan


def remove(context: StepContext, foreseen: Foreseen | None = None) -> Cut:
    """The network without what does nothing; as it was where nothing of it is dead."""
    network = context.network()
    if foreseen is None:
        foreseen = find(context.cfg, network.model, network.recipe)
    plan, difference = foreseen.plan, None
    if plan.removed:
        found = remove_dead(
            foreseen.model, example_input(foreseen.recipe), plan
        )  # a failed proof leaves nothing behind
        LOGGER.info("Slice proof: passed, %s", found.proof)
        difference = float(found.proof.max_difference)
        network = Network(found.model, foreseen.recipe, masks_after(network.masks, found.model))
    score = judged(context, network)
    return Cut(
        val_accuracy=score,
        widths={group.name: (group.width, len(group.keep)) for group in plan.groups},
        round_to=None,
        proof_difference=difference,
        dead=DeadChannels(removed=plan.removed, folded=plan.folded, stays=tuple(plan.stays_said)),
        summary=f"{plan.removed} dead channels removed, validation {context.task.metric.text(score)}",
    )


def find(cfg: Config, model: nn.Module, recipe: Recipe) -> Foreseen:
    """What is dead in the network, and the table of it on the screen.

    A network that can be rewritten for cutting (option A shortcuts as convolutions) is, where that saves more than the
    rewriting costs.
    """
    ready, its_recipe = ready_to_cut(model, recipe)
    choices = [(model, recipe)] if ready is model else [(model, recipe), (ready, its_recipe)]
    exclude = cfg.structured.exclude
    found = [Foreseen(one, how, plan_dead(one, example_input(how), exclude=exclude)) for one, how in choices]
    before = found[0].plan
    best = min(found, key=lambda one: (one.plan.macs_after, one.plan.params_after))
    LOGGER.info("%s", dead_table(best.plan, before.macs_before, before.params_before))
    return best
