"""prune-unstructured, prune-structured."""

from typing import Annotated, Any

import typer

from pruning_bootcamp.cli.base import app, common_options, examples, exit_by_goal, load_checked
from pruning_bootcamp.cli.options import (
    Checkpoint,
    ConfigFile,
    Debug,
    Device,
    FineTune,
    Overrides,
    Resume,
    SaveDir,
    Seed,
)


@app.command(
    "prune-unstructured",
    epilog=examples(
        "prune-unstructured -c cfgs/digits.yaml --method global --sparsity 0.8",
        "prune-unstructured -c cfgs/digits.yaml --method l1 --sparsity 0.9 --iterative --num-iterations 3",
        "prune-unstructured -c cfgs/digits.yaml --method global --sparsity 0.9 --gradual --schedule cubic",
    ),
)
def prune_unstructured(
    overrides: Overrides = None,
    config: ConfigFile = None,
    checkpoint: Checkpoint = None,
    method: Annotated[str | None, typer.Option("--method", help="What a weight is worth: l1, wanda, obs, ...")] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", help="layerwise (each layer the same) or global (one ranking).")
    ] = None,
    sparsity: Annotated[float | None, typer.Option("--sparsity", help="Share of zero weights, in [0, 1).")] = None,
    pattern: Annotated[str | None, typer.Option("--pattern", help="unstructured, or N:M such as 2:4.")] = None,
    solver: Annotated[
        str | None, typer.Option("--solver", help="What happens to the rest: none, sparsegpt, reconstruct.")
    ] = None,
    iterative: Annotated[bool, typer.Option("--iterative", help="Prune and fine-tune in cycles.")] = False,
    num_iterations: Annotated[int | None, typer.Option("--num-iterations", help="How many cycles (5).")] = None,
    gradual: Annotated[bool, typer.Option("--gradual", help="Grow the sparsity while fine-tuning.")] = False,
    schedule: Annotated[
        str | None, typer.Option("--schedule", help="How sparsity grows (--iterative, --gradual): cubic, linear, ...")
    ] = None,
    fine_tune: FineTune = None,
    resume: Resume = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Set single weights to zero (or N of M), fine-tune with the zeros frozen, and measure."""
    if mode is None and method == "global":
        mode = "global"
    if mode is None and pattern is not None and ":" in pattern:
        mode = "layerwise"  # N:M itself says how many go in each layer, whatever the config has for other patterns
    score = method
    if method == "sparsegpt" and solver is None:  # known as a method, it is a solver: it needs no score
        score, solver = None, method
    options = {
        "prune.score": score,
        "prune.allocation": mode,
        "prune.sparsity": sparsity,
        "prune.pattern": pattern,
        "prune.solver": solver,
        "prune.iterations": num_iterations,
        "prune.gradual": gradual or None,  # without the flag, the config decides
        "prune.schedule": schedule,
        "fine_tune.enabled": fine_tune,
    }
    options = common_options(save_dir, device, seed, checkpoint=checkpoint, **options)
    cfg = load_checked("prune-unstructured", config, overrides, options, iterative=iterative)
    from pruning_bootcamp.flow.commands import prune_unstructured as run

    exit_by_goal(run(cfg, method=method, resume=resume).goal_met)


@app.command(
    "prune-structured",
    epilog=examples(
        "prune-structured -c cfgs/digits.yaml --method bn_scale --target-flops-reduction 0.5",
        "prune-structured -c cfgs/cifar10_resnet20.yaml --method l1 --sparsity 0.4 --dry-run data.root=data/cifar10",
    ),
)
def prune_structured(
    overrides: Overrides = None,
    config: ConfigFile = None,
    checkpoint: Checkpoint = None,
    method: Annotated[
        str | None, typer.Option("--method", help="What a channel is worth: l1, l2, bn_scale, random, ...")
    ] = None,
    sparsity: Annotated[float | None, typer.Option("--sparsity", help="Share of channels to cut.")] = None,
    target_flops_reduction: Annotated[
        float | None, typer.Option("--target-flops-reduction", help="Share of FLOPs to save, e.g. 0.5.")
    ] = None,
    target_params_reduction: Annotated[
        float | None, typer.Option("--target-params-reduction", help="Share of parameters to save.")
    ] = None,
    round_to: Annotated[
        str | None, typer.Option("--round-to", help="Widths in multiples of this: a number, auto or none.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be cut, and change nothing.")] = False,
    fine_tune: FineTune = None,
    resume: Resume = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Cut whole channels out of the network, prove the cut, fine-tune, and say whether the goal is met."""
    options = {
        "structured.score": method,
        "structured.round_to": _number_or_word(round_to),
        "fine_tune.enabled": fine_tune,
    }
    options = common_options(save_dir, device, seed, checkpoint=checkpoint, **options)
    options |= _one_budget(sparsity, target_flops_reduction, target_params_reduction)
    cfg = load_checked("prune-structured", config, overrides, options)
    from pruning_bootcamp.flow.commands import prune_structured as run

    exit_by_goal(run(cfg, dry_run=dry_run, resume=resume).goal_met)


def _number_or_word(text: str | None) -> int | str | None:
    """--round-to 8 as YAML would read it; null is another word for none."""
    if text is not None and text.lstrip("-").isdecimal():
        return int(text)
    return "none" if text == "null" else text


def _one_budget(sparsity: float | None, flops: float | None, params: float | None) -> dict[str, Any]:
    """The budget given on the command line replaces the config's; two at once are left for preflight to refuse."""
    budgets = {
        "structured.sparsity": sparsity,
        "structured.target_flops_reduction": flops,
        "structured.target_params_reduction": params,
    }
    return {} if all(value is None for value in budgets.values()) else budgets
