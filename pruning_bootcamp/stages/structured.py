"""prune-structured: plan a cut that meets the budget, cut, prove it, recover, judge the goal."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from pruning_bootcamp.checkpoints import Checkpoint, Recipe
from pruning_bootcamp.config import Config
from pruning_bootcamp.evaluation import cost_of, evaluate_on
from pruning_bootcamp.logs import LOGGER, also_to_file
from pruning_bootcamp.models import make_prunable
from pruning_bootcamp.pruning.structured import StructuredPlan, cut_channels, plan_structured
from pruning_bootcamp.reporting import structured_table
from pruning_bootcamp.stages import afterwards, common


def prune_structured(cfg: Config, dry_run: bool = False, resume: bool | None = None) -> dict[str, Any]:
    """Cut channels to a budget, prove the cut, fine-tune, and judge the goal. With `dry_run` only the plan is shown."""
    path = common.checkpoint_path(cfg.checkpoint)
    if dry_run:
        device = common.start(cfg)
        splits = common.open_data(cfg)
        _, _, plan = _plan(cfg, common.open_network(path, cfg, splits))
        LOGGER.info("\nDry run: nothing was changed or written.")
        return {"flops_reduction_pct": round(100 * plan.macs_reduction, 4)}
    run = common.open_stage(cfg, "prune-structured", _default_folder(cfg), afterwards.SECTIONS, path, resume)
    if done := common.already_done(run):
        return done
    with also_to_file(run.path("log.txt")):
        device = common.start(cfg)
        splits = common.open_data(cfg)
        dense = common.open_network(path, cfg, splits)
        ready, recipe, plan = _plan(cfg, dense)
        cut = cut_channels(ready, common.example_input(recipe), plan)
        LOGGER.info("Slice proof: passed, %s", cut.proof)
        model = cut.model
        afterwards.recover(model, cfg, splits, device)
        pruned_val = evaluate_on(model, splits.val, splits, device=device, batch_size=cfg.data.batch_size)
        LOGGER.info("Validation accuracy before fine-tuning: %.2f%%", pruned_val["accuracy"])
        figures: dict[str, Any] = {"val_accuracy_pruned": round(pruned_val["accuracy"], 4)}
        if cfg.fine_tune.enabled:
            figures |= afterwards.fine_tune(cfg, run, model, splits, device, run.folder, dense.model, None)
        else:
            figures["val_accuracy"] = figures["val_accuracy_pruned"]
        figures |= {
            "slice_proof": {"max_difference": float(cut.proof.max_difference), "passed": True},
            "widths": {group.name: [group.width, len(group.keep)] for group in plan.groups},
        }
        return afterwards.finish(cfg, run, dense, model, recipe, {}, splits, device, figures)


def _plan(cfg: Config, dense: Checkpoint) -> tuple[nn.Module, Recipe, StructuredPlan]:
    """The network as it can be cut, how that is built, and what to cut; the plan is shown."""
    s = cfg.structured
    ready, args = make_prunable(dense.model, dense.recipe.args)
    recipe = replace(dense.recipe, args=args)
    example = common.example_input(recipe)
    baseline, _ = cost_of(dense.model, example)
    LOGGER.info("\n=== Structured Pruning: %s (%s) ===", s.score.name, s.allocation)
    plan = plan_structured(
        ready,
        example,
        score=s.score.name,
        score_args=s.score.args,
        allocation=s.allocation,
        **s.budget(),
        round_to=s.round_to,
        max_sparsity=s.max_sparsity,
        exclude=s.exclude,
        seed=cfg.seed,
        baseline_macs=baseline["flops_g"] * 1e9,
        baseline_params=round(baseline["params_m"] * 1e6),
    )
    LOGGER.info("%s", structured_table(plan))
    return ready, recipe, plan


def _default_folder(cfg: Config) -> Path:
    s = cfg.structured
    words = {"sparsity": "sp", "flops_reduction": "flops", "params_reduction": "params"}
    budget = "_".join(f"{words[name]}{value:g}" for name, value in s.budget().items())
    return common.RESULTS / "structured" / f"{s.score.name}_{budget}"
