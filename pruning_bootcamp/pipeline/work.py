"""What the steps do when their turn comes: each reads the network before it from the desk, and keeps its own there."""

from functools import partial

from pruning_bootcamp.config import Config
from pruning_bootcamp.evaluation import evaluate_on
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pipeline.step import Desk, Figures, Network
from pruning_bootcamp.pipeline.training import as_shipped, quantizing, train_network
from pruning_bootcamp.pruning.scores import score_stats
from pruning_bootcamp.pruning.structured import cut_channels, score_channels
from pruning_bootcamp.pruning.unstructured import UnstructuredPruning
from pruning_bootcamp.runs import Run
from pruning_bootcamp.stages import afterwards, common, structured, unstructured
from pruning_bootcamp.stages.batch_norm import recover_batch_norm
from pruning_bootcamp.tools.metrics import compute_sparsity
from pruning_bootcamp.training.gradual import GradualPruning
from pruning_bootcamp.training.hooks import Hook

STATISTICS, SCORED = "statistics.pth", "scores.pth"


def _engine(desk: Desk, network: Network, sparsity: float | None) -> UnstructuredPruning:
    images = unstructured.calibration(desk.cfg, desk.splits, desk.device)
    choices = unstructured.engine_choices(desk.cfg) | {"sparsity": sparsity}
    model = network.model.to(desk.device)
    return UnstructuredPruning(
        model, **choices, previous=network.masks or None, stats_batches=images, seed=desk.cfg.seed
    )


def _asked(cfg: Config) -> float | None:
    """A sparsity that passes for any step that only measures: what it gives does not depend on it."""
    return unstructured.target_sparsity(cfg)


def calibrate(desk: Desk) -> Figures:
    statistics = _engine(desk, desk.network(), _asked(desk.cfg)).calibrate()
    desk.keep_tensors(STATISTICS, statistics)
    count = min(desk.cfg.prune.calibration_images, len(desk.splits.train))
    what = ", ".join(statistics) if statistics else "what the solver reads while it prunes"
    return {"images": count, "statistics": list(statistics), "summary": f"{count} images: {what}"}


def score(desk: Desk) -> Figures:
    statistics = desk.tensors("statistics", STATISTICS)
    scored = _engine(desk, desk.network(), _asked(desk.cfg)).score(statistics)
    desk.keep_tensors(SCORED, scored)
    stats = {name: vars(score_stats(values, name)) for name, values in scored["scores"].items()}
    return {"layers": stats, "summary": f"{len(stats)} layers"}


def prune(desk: Desk, sparsity: float | None) -> Figures:
    cfg, network = desk.cfg, desk.network()
    there = compute_sparsity(network.model, network.masks).total if network.masks else 0.0
    if sparsity is not None:
        sparsity = max(sparsity, there)
    first = unstructured.before_growing(cfg, sparsity, there)
    result = _engine(desk, network, first).prune(desk.tensors("scores", SCORED))
    unstructured.say_pruned(result, 1, 1)
    network.masks = result.masks
    recovered = _batch_norm(desk, network)
    return {
        "sparsity": round(result.sparsity, 6),
        "layers": {layer.name: round(layer.sparsity, 6) for layer in result.layers},
        "fall_backs": result.fall_backs,
        **recovered,
        **_judged(desk, network, f"{100 * result.sparsity:.2f}% zeros"),
    }


def prune_gradually(desk: Desk) -> Figures:
    cfg, network = desk.cfg, desk.network()
    target = unstructured.target_sparsity(cfg)
    assert target is not None, "preflight refuses a pattern that fixes the sparsity"
    growing = unstructured.gradual_pruning(cfg, target, desk.splits, desk.device)
    found = train_network(desk, network, partial(_fit_fine_tune, desk, desk.cfg), [growing])
    network.masks = growing.masks
    reached = compute_sparsity(network.model, network.masks).total
    figures = {"sparsity": round(reached, 6), "updates": growing.points, "fall_backs": growing.fall_backs, **found}
    return figures | _judged(desk, network, f"{100 * reached:.2f}% zeros")


def weigh_channels(desk: Desk) -> Figures:
    s, network = desk.cfg.structured, desk.network()
    ready, recipe = structured.ready_to_cut(network.model, network.recipe)
    example = common.example_input(recipe)
    scores = score_channels(
        ready, example, score=s.score.name, score_args=s.score.args, exclude=s.exclude, seed=desk.cfg.seed
    )
    desk.keep_tensors(SCORED, {"scores": scores})
    stats = {
        name: {"min": float(v.min()), "max": float(v.max()), "mean": float(v.mean()), "std": float(v.std(correction=0))}
        for name, v in scores.items()
    }
    return {"groups": stats, "summary": f"{len(stats)} groups of channels"}


def cut(desk: Desk) -> Figures:
    network = desk.network()
    scores = desk.tensors("scores", SCORED)["scores"]
    ready, recipe, plan = structured.plan_cut(desk.cfg, network.model, network.recipe, desk.device, scores)
    cut = cut_channels(ready, common.example_input(recipe), plan)  # a failed proof stops here
    LOGGER.info("Slice proof: passed, %s", cut.proof)
    masks = {name: cut.model.get_parameter(name).detach() != 0 for name in network.masks}
    network = Network(cut.model, recipe, masks)
    recovered = _batch_norm(desk, network)
    return {
        **structured.widths_of(plan),
        "slice_proof": {"max_difference": float(cut.proof.max_difference), "passed": True},
        "fall_backs": plan.fall_backs,
        **recovered,
        **_judged(desk, network, f"{100 * plan.macs_reduction:.1f}% fewer multiply-accumulates"),
    }


def _batch_norm(desk: Desk, network: Network) -> Figures:
    return recover_batch_norm(network.model, desk.network("dense").model, desk.cfg, desk.splits, desk.device)


def _judged(desk: Desk, network: Network, what: str) -> Figures:
    """Keep the network, and say how good it is on the validation images."""
    with as_shipped(network) as model:
        val = evaluate_on(
            model.to(desk.device),
            desk.splits.val,
            desk.splits,
            device=desk.device,
            batch_size=desk.cfg.data.batch_size,
            progress=False,
        )
    desk.keep_network(network)
    LOGGER.info("Validation accuracy: %.2f%%", val["accuracy"])
    return {"val_accuracy": round(val["accuracy"], 4), "summary": f"{what}, validation {val['accuracy']:.2f}%"}


def fine_tune(desk: Desk) -> Figures:
    network = desk.network()
    found = train_network(desk, network, partial(_fit_fine_tune, desk, desk.cfg))
    desk.keep_network(network)
    return found | {"summary": f"validation {found['val_accuracy']:.2f}%"}


def _fit_fine_tune(desk: Desk, cfg: Config, network: Network, hooks: list[Hook]) -> Figures:
    run = Run(desk.folder, "pipeline", desk.key)
    teacher, masks = desk.network("dense").model, network.masks or None
    model, folder = network.model, desk.folder
    found = afterwards.fine_tune(cfg, run, model, desk.splits, desk.device, folder, teacher, masks, hooks)
    return {name: figure for name, figure in found.items() if name != "fine_tune_seconds"}


def distill(desk: Desk, sparsity: float | None = None) -> Figures:
    network, cfg = desk.network(), desk.cfg
    there = compute_sparsity(network.model, network.masks).total if network.masks else 0.0
    growing: list[GradualPruning] = []
    if sparsity is not None and sparsity > there and unstructured.before_growing(cfg, sparsity, 0.0) != sparsity:
        growing = [unstructured.growing(cfg, sparsity)]

    def fit(network: Network, hooks: list[Hook]) -> Figures:
        run = Run(desk.folder, "pipeline", desk.key)
        dense = desk.network("dense").model
        return afterwards.follow_dense(
            network.model, dense, cfg, run, desk.splits, desk.device, desk.folder, network.masks or None, hooks
        )

    found = train_network(desk, network, fit, growing)
    if growing:
        network.masks = growing[0].masks
        found["sparsity"] = growing[0].points[-1]["sparsity"]
        found["fall_backs"] = growing[0].fall_backs
    found["distillation"].pop("seconds")
    return found | _judged(desk, network, f"{found['distillation']['steps']} steps")


def quantize(desk: Desk) -> Figures:
    network = desk.network()
    network.ranges = network.ranges or {}

    found = train_network(desk, network, partial(_fit_fine_tune, desk, quantizing(desk.cfg)))
    desk.keep_network(network)
    return found | {"summary": f"validation {found['val_accuracy']:.2f}% in 8 bits"}
