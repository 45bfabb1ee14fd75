"""Trained with labels before the cut, while a penalty grows on the weights that make the channels which will go."""

from collections.abc import Mapping

from torch import Tensor, nn

from pruning_bootcamp.checkpoints import example_input
from pruning_bootcamp.flow import settings
from pruning_bootcamp.flow.outcomes import Regularised
from pruning_bootcamp.flow.step import Network, StepContext
from pruning_bootcamp.flow.steps.cut import Part, foresee
from pruning_bootcamp.flow.steps.training import fine_tuned, trained
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.channels.structured import doomed_weights
from pruning_bootcamp.reporting import penalty_text
from pruning_bootcamp.results import GrownPenalty
from pruning_bootcamp.training.hooks import GrowingPenalty, PenaltyGrowth


def regularise(context: StepContext, part: Part) -> Regularised:
    """The network by the end of the penalty's growth, whole; what is penalised is what the cut after it takes."""
    s = context.cfg.structured
    foreseen = foresee(context, part)
    network = Network(foreseen.model, foreseen.recipe, context.network().masks)
    doomed = doomed_weights(foreseen.model, example_input(foreseen.recipe), foreseen.plan)
    gone = sum(group.width - len(group.keep) for group in foreseen.plan.groups)
    growth = PenaltyGrowth(s.grow_step, s.grow_every, s.grow_ceiling)
    LOGGER.info("A penalty grows to %g on what makes %d channels", s.grow_ceiling, gone)
    before = _norm(network.model, doomed)
    train = fine_tuned(context, settings.penalising(context.cfg), keep_best=False, label="regularise")
    result, fall_backs = trained(context, network, train, [GrowingPenalty(doomed, growth)], keeps_best=False)
    context.keep_network(network)
    found = GrownPenalty(
        steps=result.steps,
        penalty=round(growth.at(result.steps - 1, result.steps), 6),
        norm_left=round(_norm(network.model, doomed) / max(before, 1e-30), 6),
        seconds=round(result.seconds, 2),
    )
    LOGGER.info("%s", penalty_text(found))
    score = round(result.best_score, 4)
    return Regularised(
        val_accuracy=score,
        grown_penalty=found,
        fall_backs=tuple(fall_backs),
        summary=f"penalty {found.penalty:.3g}, {100 * found.norm_left:.2g}% of the norm left, validation "
        f"{context.task.metric.text(score)}",
    )


def _norm(model: nn.Module, numbers: Mapping[str, Tensor]) -> float:
    """Of these numbers of the weights, all together."""
    chosen = (model.get_parameter(name).detach().double().cpu()[where] for name, where in numbers.items())
    return sum(float(values.square().sum()) for values in chosen) ** 0.5
