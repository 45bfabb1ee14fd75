"""prune-unstructured: zero weights in one shot, in cycles or while fine-tuning; the zeros stay zero."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from pruning_bootcamp.config import Config
from pruning_bootcamp.evaluation import evaluate_on
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.masks import detached_copy
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.scores import SCORES, needs_labels, needs_of
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.pruning.unstructured import UnstructuredResult, iterative_sparsities
from pruning_bootcamp.pruning.unstructured import prune_unstructured as prune_weights
from pruning_bootcamp.runs import Run
from pruning_bootcamp.stages import afterwards, common, memorised
from pruning_bootcamp.stages.afterwards import Masks
from pruning_bootcamp.stages.verdict import goal_of
from pruning_bootcamp.tools.datasets import Splits, eval_batches
from pruning_bootcamp.tools.metrics import compute_sparsity
from pruning_bootcamp.training.gradual import GradualPruning, say_left_out
from pruning_bootcamp.training.recovery import first_images
from pruning_bootcamp.training.rewinding import load_values, rewind, rewind_file

# Sections of the config that the pruned network depends on. The goal only judges it.
SECTIONS = ("data", "model", "train", "prune", "recover", "fine_tune")


def prune_unstructured(
    cfg: Config, method: str | None = None, resume: bool | None = None, watch: common.Watch = common.unwatched
) -> dict[str, Any]:
    """Zero weights in one shot, in cycles or while fine-tuning, then compare with the dense network."""
    path = common.checkpoint_path(cfg.checkpoint)
    ticket = [rewind_file(cfg.prune.rewind, path)] if cfg.prune.rewind is not None else []
    inputs = [*ticket, *named_files(cfg)]
    folder = _default_folder(cfg, method)
    outputs = ("pruned_model.pth",)
    run = common.stage_run(cfg, "prune-unstructured", folder, SECTIONS, path, outputs=outputs, inputs=inputs)
    goal = goal_of(cfg, cut=False)
    if done := common.already_done(run, resume):
        return afterwards.judge_again(run, done, cfg, goal)
    device = common.start(cfg)
    splits = common.open_data(cfg)
    dense = common.open_network(path, cfg, splits)
    start = load_values(ticket[0], dense.recipe, dense.model) if ticket else None
    with common.working(run, cfg, path, resume):
        known = memorised.look(dense, cfg, splits, device)
        p, target = cfg.prune, target_sparsity(cfg)
        solver = "" if p.solver.name == "none" else f", {p.solver.name}"
        LOGGER.info("\n=== Pruning: %s (%s, %s%s) ===", p.score.name, p.allocation.name, pattern_text(cfg), solver)
        LOGGER.info("Target sparsity: %s", "as the pattern says" if target is None else f"{100 * target:.1f}%")
        LOGGER.info("Mode: %s", _mode_text(cfg))

        model, masks = detached_copy(dense.model), dense.masks
        if p.gradual:
            masks, figures = _gradually(cfg, run, model, dense, splits, device, watch)
            figures |= known
            return afterwards.finish(cfg, run, dense, model, dense.recipe, masks, splits, device, figures, goal)
        steps: list[float | None] = [target]
        if target is not None:
            there = compute_sparsity(model, masks).total if masks else 0.0
            sparsities = iterative_sparsities(target, p.iterations, p.schedule.name, p.schedule.args)
            steps = [*(step for step in sparsities[:-1] if step > there), target]
            if there:
                LOGGER.info("The checkpoint's own zeros stay: %.2f%% before this pruning", 100 * there)
        cycles: list[dict[str, Any]] = []
        for number, sparsity in enumerate(steps, start=1):
            here = (model, masks, dense, start, splits, device, watch)
            model, masks, figures = _cycle(cfg, run, number, sparsity, *here)
            cycles.append(figures)
        every = dict.fromkeys(text for cycle in cycles for text in cycle.get("fall_backs", []))  # each cycle says it
        figures = {"cycles": cycles, "fall_backs": list(every), **known}
        return afterwards.finish(cfg, run, dense, model, dense.recipe, masks, splits, device, figures, goal)


def _cycle(
    cfg: Config,
    run: Run,
    number: int,
    sparsity: float | None,
    model: nn.Module,
    masks: Masks,
    dense: Checkpoint,
    start: Mapping[str, Tensor] | None,
    splits: Splits,
    device: torch.device,
    watch: common.Watch,
) -> tuple[nn.Module, Masks, dict[str, Any]]:
    """One prune (and rewind to `start`) and fine-tune. A cycle that was finished before is read back instead."""
    p = cfg.prune
    folder = run.folder if p.iterations == 1 else run.path(f"cycle_{number}")
    saved = folder / "pruned_model.pth"
    if p.iterations > 1 and saved.exists():
        checkpoint = load_checkpoint(saved, recipe=dense.recipe)
        if checkpoint.extra.get("fingerprint") == run.fingerprint:
            LOGGER.info("Cycle %d: already finished, read from %s", number, saved)
            return checkpoint.model, checkpoint.masks, checkpoint.metrics
    begun = time.perf_counter()
    first = before_growing(cfg, sparsity, compute_sparsity(model, masks).total if masks else 0.0)
    result = prune_weights(
        model.to(device),
        **engine_choices(cfg) | {"sparsity": first},
        previous=masks or None,
        stats_batches=calibration(cfg, splits, device),
        seed=cfg.seed,
    )
    seconds = {"pruning_seconds": round(time.perf_counter() - begun, 2)}
    say_pruned(result, number, p.iterations)
    fall_backs = result.fall_backs
    if start is not None:
        # nothing is re-estimated or recovered now: it is the ticket as it was at that step that trains, and batch-norm
        # statistics of other weights, or weights fitted to the dense network's outputs, would make it another one
        rewind(model, start, result.masks)
        LOGGER.info("Rewound to %s: the weights that stay, and all that is not pruned", p.rewind)
        recovered, masks, reached = {}, result.masks, result.sparsity
    else:
        hooks = [] if first == sparsity else [growing(cfg, sparsity)]
        masks, reached = result.masks, result.sparsity
        recovered = afterwards.recover(model, dense.model, cfg, run, splits, device, folder, masks, hooks)
        for hook in hooks:
            masks, reached = hook.masks, hook.points[-1]["sparsity"]
            fall_backs += hook.fall_backs
    pruned_val = evaluate_on(model, splits.val, splits, device=device, batch_size=cfg.data.batch_size)
    LOGGER.info("Validation accuracy before fine-tuning: %.2f%%", pruned_val["accuracy"])
    figures: dict[str, Any] = {
        "cycle": number,
        "sparsity": round(reached, 6),
        "val_accuracy_pruned": round(pruned_val["accuracy"], 4),
        "fall_backs": fall_backs,
        **seconds,
        **recovered,
    }
    if cfg.fine_tune.enabled:
        LOGGER.info("\n=== Fine-tuning ===")
        figures |= afterwards.fine_tune(cfg, run, model, splits, device, folder, dense.model, masks, watch(number))
    else:
        figures["val_accuracy"] = figures["val_accuracy_pruned"]
    if common.is_leader() and p.iterations > 1:
        mark = {"fingerprint": run.fingerprint}
        save_checkpoint(saved, model, dense.recipe, masks=masks, metrics=figures, extra=mark)
    return model, masks, figures


def before_growing(cfg: Config, target: float | None, there: float) -> float | None:
    """The sparsity before the distillation, which grows it to the target; the target itself where nothing can grow."""
    r = cfg.recover
    named = ALLOCATIONS[cfg.prune.allocation.name].facts.get("own_sparsity")  # what it names it does not name for less
    if target is None or r.method != "distill" or r.grow == 0 or fixes_count(cfg) or named:
        return target
    return min(max(1 - (1 - target) ** (1 - r.grow), there), target)


def growing(cfg: Config, target: float | None) -> GradualPruning:
    """Grows the sparsity in the first half of the distillation, by the size that the weights have come to there."""
    assert target is not None
    by_weights = {"score": "magnitude", "score_args": {}, "solver": "none", "solver_args": {}}
    if ALLOCATIONS[cfg.prune.allocation.name].facts.get("by"):
        by_weights |= {"allocation": "global", "allocation_args": {}}
    return GradualPruning(target, end="50%", frequency="2%", choices=engine_choices(cfg) | by_weights, seed=cfg.seed)


def fixes_count(cfg: Config) -> bool:
    """Whether the pattern itself says how many weights go, so that no sparsity can grow."""
    name = cfg.prune.pattern.name
    return name in PATTERNS and "fixed_count" in PATTERNS[name].facts


def _gradually(
    cfg: Config,
    run: Run,
    model: nn.Module,
    dense: Checkpoint,
    splits: Splits,
    device: torch.device,
    watch: common.Watch,
) -> tuple[Masks, dict[str, Any]]:
    """Fine-tune while the sparsity grows. Batch norm follows by itself: its statistics are the training's own."""
    target = target_sparsity(cfg)
    assert target is not None, "preflight refuses a pattern that fixes the sparsity"
    growing = gradual_pruning(cfg, target, splits, device)
    masks = dense.masks or None
    LOGGER.info("\n=== Fine-tuning ===")
    hooks = [growing, *watch(1)]
    figures = afterwards.fine_tune(cfg, run, model, splits, device, run.folder, dense.model, masks, hooks)
    return growing.masks, {"updates": growing.points, "fall_backs": growing.fall_backs, **figures}


def gradual_pruning(cfg: Config, target: float, splits: Splits, device: torch.device) -> GradualPruning:
    """The hook that prunes while the fine-tuning goes on, as `prune` of the config says."""
    p = cfg.prune
    return GradualPruning(
        target,
        schedule=p.schedule.name,
        schedule_args=p.schedule.args,
        begin=p.begin,
        end=p.end,
        frequency=p.frequency,
        choices=engine_choices(cfg),
        batches=lambda: calibration(cfg, splits, device),
        seed=cfg.seed,
    )


def calibration(cfg: Config, splits: Splits, device: torch.device) -> list[tuple[Tensor, Tensor] | Tensor] | None:
    """Training images for the scores and solvers that need them; with labels only where a score asks for labels."""
    p = cfg.prune
    by = ALLOCATIONS[p.allocation.name].facts.get("by")
    if not needs_of(p.score.name) and by is None and not SOLVERS[p.solver.name].facts.get("images"):
        return None
    count = min(p.calibration_images, len(splits.train))
    images = splits.train.subset(first_images(len(splits.train), count, cfg.seed))
    batches = eval_batches(images, batch_size=min(128, count), mean=splits.mean, std=splits.std, device=device)
    if needs_labels(p.score.name):
        return list(batches)
    return [shown for shown, _ in batches]


def say_pruned(result: UnstructuredResult, number: int, cycles: int) -> None:
    which = f"Cycle {number}/{cycles}: " if cycles > 1 else ""
    size = sum(layer.size for layer in result.layers)
    text = "%spruned to %.2f%% of %d layers' weights (%s)"
    LOGGER.info(text, which, 100 * result.sparsity, len(result.layers), f"{size:,}")
    say_left_out(result)


def engine_choices(cfg: Config) -> dict[str, Any]:
    """`prune` of the config in the engine's words: what is checked before a run is what runs."""
    p = cfg.prune
    return {
        "sparsity": target_sparsity(cfg),
        "score": p.score.name,
        "score_args": p.score.args,
        "allocation": p.allocation.name,
        "allocation_args": p.allocation.args,
        "pattern": p.pattern.name,
        "pattern_args": p.pattern.args,
        "solver": p.solver.name,
        "solver_args": p.solver.args,
        "include": p.include,
        "exclude": p.exclude,
    }


def named_files(cfg: Config) -> list[Path]:
    """Files that the settings of the engine's choices name: what is in them is part of what the result depends on."""
    p = cfg.prune
    chosen = ((SCORES, p.score), (ALLOCATIONS, p.allocation), (PATTERNS, p.pattern), (SOLVERS, p.solver))
    return [
        Path(choice.args[setting])
        for registry, choice in chosen
        if choice.name in registry
        for setting in registry[choice.name].facts.get("files", ())
        if choice.args.get(setting) is not None
    ]


def target_sparsity(cfg: Config) -> float | None:
    """The sparsity asked for; left out, None where the pattern or allocation says it, else one half."""
    p = cfg.prune
    if p.sparsity is not None:
        return p.sparsity
    says_it = fixes_count(cfg) or (
        p.allocation.name in ALLOCATIONS and bool(ALLOCATIONS[p.allocation.name].facts.get("own_sparsity"))
    )
    return None if says_it else 0.5


def _mode_text(cfg: Config) -> str:
    p = cfg.prune
    if p.gradual:
        return f"gradual, {p.schedule.name}, from {p.begin} to {p.end} of the fine-tuning, every {p.frequency}"
    return "one-shot" if p.iterations == 1 else f"{p.iterations} cycles, {p.schedule.name}"


def pattern_text(cfg: Config) -> str:
    """The pattern as a user writes it: 2:4, block, unstructured."""
    pattern = cfg.prune.pattern
    return f"{pattern.args['n']}:{pattern.args['m']}" if pattern.name == "nm" else pattern.name


def _default_folder(cfg: Config, method: str | None) -> Path:
    p = cfg.prune
    mode = {"uniform": "layerwise"}.get(p.allocation.name, p.allocation.name)
    pattern = "" if p.pattern.name == "unstructured" else "_" + pattern_text(cfg).replace(":", "of")
    solver = "" if p.solver.name == "none" else f"_{p.solver.name}"
    cycles = "" if p.iterations == 1 else f"_x{p.iterations}"
    cycles += "_gradual" if p.gradual else ""
    cycles += "" if p.rewind is None else f"_rewind_{Path(p.rewind).stem}"
    target = target_sparsity(cfg)
    sparsity = "" if target is None else f"_sp{target:g}"
    return common.RESULTS / "unstructured" / f"{method or p.score.name}_{mode}{sparsity}{pattern}{solver}{cycles}"
