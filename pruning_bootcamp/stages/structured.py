"""prune-structured: plan a cut that meets the budget, cut, prove it, recover, judge the goal."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints import Recipe
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import GoalNotMet
from pruning_bootcamp.evaluation import cost_of, evaluate_on
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.models import make_prunable
from pruning_bootcamp.pruning.structured import StructuredPlan, cut_channels, plan_structured
from pruning_bootcamp.reporting import structured_table
from pruning_bootcamp.stages import afterwards, common, memorised
from pruning_bootcamp.stages.verdict import goal_of
from pruning_bootcamp.tools.modes import evaluation_mode

# Sections of the config that the cut network depends on. The goal only judges it.
SECTIONS = ("data", "model", "train", "structured", "recover", "fine_tune")


def prune_structured(
    cfg: Config, dry_run: bool = False, resume: bool | None = None, watch: common.Watch = common.unwatched
) -> dict[str, Any]:
    """Cut channels to a budget, prove the cut, fine-tune, and judge the goal. With `dry_run` only the plan is shown."""
    path = common.checkpoint_path(cfg.checkpoint)
    run = common.stage_run(cfg, "prune-structured", _default_folder(cfg), SECTIONS, path, outputs=("pruned_model.pth",))
    if not dry_run and (done := common.already_done(run, resume)):
        return afterwards.judge_again(run, done, cfg, goal_of(cfg, cut=True))
    device = common.start(cfg)
    splits = common.open_data(cfg)
    dense = common.open_network(path, cfg, splits)
    ready, recipe, plan = plan_cut(cfg, dense.model, dense.recipe, device)
    if dry_run:
        LOGGER.info("\nDry run: nothing was changed or written.")
        return {"flops_reduction_pct": 100 * plan.macs_reduction}
    cut = cut_channels(ready, common.example_input(recipe), plan)  # a failed proof leaves nothing behind
    LOGGER.info("Slice proof: passed, %s", cut.proof)
    with common.working(run, cfg, path, resume):
        known = memorised.look(dense, cfg, splits, device)
        model = cut.model
        masks = {name: model.get_parameter(name).detach() != 0 for name in dense.masks}
        if masks:
            LOGGER.info("The checkpoint's own zeros stay, in %d of the cut network's layers", len(masks))
        recovered = afterwards.recover(model, dense.model, cfg, run, splits, device, run.folder, masks or None)
        pruned_val = evaluate_on(model, splits.val, splits, device=device, batch_size=cfg.data.batch_size)
        LOGGER.info("Validation accuracy before fine-tuning: %.2f%%", pruned_val["accuracy"])
        figures: dict[str, Any] = {"val_accuracy_pruned": round(pruned_val["accuracy"], 4), **recovered}
        if cfg.fine_tune.enabled:
            LOGGER.info("\n=== Fine-tuning ===")
            look = (splits, device, run.folder, dense.model, masks or None, watch(1))
            figures |= afterwards.fine_tune(cfg, run, model, *look)
        else:
            figures["val_accuracy"] = figures["val_accuracy_pruned"]
        figures |= {
            **known,
            "slice_proof": {"max_difference": float(cut.proof.max_difference), "passed": True},
            **widths_of(plan),
            "fall_backs": plan.fall_backs,
        }
        return afterwards.finish(cfg, run, dense, model, recipe, masks, splits, device, figures, goal_of(cfg, cut=True))


def widths_of(plan: StructuredPlan) -> dict[str, Any]:
    """Channels before and after, group by group, and what they are multiples of."""
    narrow = {"round_to_narrow": dict(plan.narrow)} if plan.narrow else {}
    widths = {group.name: [group.width, len(group.keep)] for group in plan.groups}
    return {"widths": widths, "round_to": plan.round_to, **narrow}


def engine_choices(cfg: Config) -> dict[str, Any]:
    """`structured` of the config in the engine's words: what is checked before a run is what runs."""
    s = cfg.structured
    return {
        "score": s.score.name,
        "score_args": s.score.args,
        "allocation": s.allocation,
        **s.budget(),
        "round_to": s.round_to,
        "max_sparsity": s.max_sparsity,
    }


def _check_same_function(dense: nn.Module, ready: nn.Module, example: Tensor) -> None:
    """What was rewritten so that it can be cut computes what it did before, to rounding."""
    if ready is dense:
        return
    with evaluation_mode(dense, ready), torch.inference_mode():
        before, after = dense(example), ready(example)
    difference = float((before - after).abs().max() / before.abs().max().clamp(min=1.0))
    if not difference < 1e-5:
        raise GoalNotMet(f"the network rewritten for cutting differs from the dense one by {difference:.1e}.")


def ready_to_cut(model: nn.Module, recipe: Recipe) -> tuple[nn.Module, Recipe]:
    """The network as it can be cut (option A shortcuts become convolutions), the same function; how that is built."""
    ready, args = make_prunable(model, recipe.args)
    recipe = replace(recipe, args=args)
    _check_same_function(model.cpu(), ready.cpu(), common.example_input(recipe, 4))
    return ready, recipe


def plan_cut(
    cfg: Config,
    model: nn.Module,
    recipe: Recipe,
    device: torch.device,
    scores: Mapping[str, Tensor] | None = None,
) -> tuple[nn.Module, Recipe, StructuredPlan]:
    """The network as it can be cut, how that is built, and what to cut for running on `device`; the plan is shown."""
    s = cfg.structured
    ready, recipe = ready_to_cut(model, recipe)
    example = common.example_input(recipe)
    baseline, _ = cost_of(model, example)
    LOGGER.info("\n=== Structured Pruning: %s (%s) ===", s.score.name, s.allocation)
    plan = plan_structured(
        ready,
        example,
        **engine_choices(cfg),
        exclude=s.exclude,
        seed=cfg.seed,
        baseline_macs=baseline["flops_g"] * 1e9,
        baseline_params=round(baseline["params_m"] * 1e6),
        scores=scores,
        device=device,
    )
    LOGGER.info("%s", structured_table(plan))
    return ready, recipe, plan


def _default_folder(cfg: Config) -> Path:
    s = cfg.structured
    words = {"sparsity": "sp", "flops_reduction": "flops", "params_reduction": "params"}
    budget = "_".join(f"{words[name]}{value:g}" for name, value in s.budget().items())
    return common.RESULTS / "structured" / f"{s.score.name}_{budget}"
