"""The network that everything is compared with: trained here, or opened."""

from pathlib import Path

from pruning_bootcamp.checkpoints import Checkpoint, example_input
from pruning_bootcamp.duration import parse_duration
from pruning_bootcamp.evaluation import cost_of, say_disagreement
from pruning_bootcamp.flow.outcomes import DenseNetwork
from pruning_bootcamp.flow.start import new_network, open_network, recipe_for
from pruning_bootcamp.flow.step import Network, StepContext
from pruning_bootcamp.flow.steps import memorised
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.memorised import NO
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.results import Known
from pruning_bootcamp.training.loop import fit
from pruning_bootcamp.training.rewinding import StepCheckpoints


def train(context: StepContext) -> DenseNetwork:
    """A new network, with the weights of its best epoch by validation score."""
    cfg, splits = context.cfg, context.splits
    recipe = recipe_for(cfg, splits)
    model = new_network(recipe)
    cost, flops = cost_of(model, example_input(recipe))
    LOGGER.info("FLOPs: %.4g G (multiply-accumulates)\nParams: %.4g M\n", cost.flops_g, cost.params_m)
    say_disagreement(flops)
    model.to(context.device)
    steps = [parse_duration(text, "train.save_steps") for text in cfg.train.save_steps]
    saving = [StepCheckpoints(context.folder, recipe, steps, write=context.leads)] if steps else []
    result = fit(
        model,
        splits,
        cfg.train,
        device=context.device,
        folder=context.folder,
        logs=context.logs,
        seed=cfg.seed,
        hooks=[*saving, *context.hooks],
        fingerprint=context.key,
        task=context.task,
    )
    score = round(result.best_score, 4)
    known = Known(validation_was_trained_on=NO, held_out=splits.val.content_hash())
    context.keep_network(Network(model, recipe), {f"val_{context.task.metric.name}": score, **to_plain(known)})
    return DenseNetwork(
        known=known,
        val_accuracy=score,
        epochs=len(result.history),
        best_epoch=result.best_epoch,
        steps=result.steps,
        history=tuple(result.history),
        train_seconds=round(result.seconds, 2),
        summary=f"validation {context.task.metric.text(score)}, best of {len(result.history)} epochs",
    )


def open_as_it_is(context: StepContext) -> DenseNetwork:
    """The network of a checkpoint, which stays where it is; nothing is asked about it."""
    return DenseNetwork(known=Known())


def open_given(context: StepContext, path: Path, found: Checkpoint | None = None) -> DenseNetwork:
    """The network of a checkpoint, which stays where it is; `found`: as this process has opened it already."""
    known = memorised.check_validation_images(
        found or open_network(path, context.cfg, context.splits), context.cfg, context.splits, context.device
    )
    return DenseNetwork(known=known, summary=path.name)
