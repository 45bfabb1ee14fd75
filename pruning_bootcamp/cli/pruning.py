"""prune-unstructured, prune-structured."""

import re
from typing import Annotated, Any

import typer

from pruning_bootcamp.cli.base import app, examples, exit_by_goal, load_checked
from pruning_bootcamp.cli.options import (
    Backend,
    BatchSize,
    Checkpoint,
    ConfigFile,
    Debug,
    Device,
    DryRun,
    FineTune,
    Overrides,
    Resume,
    SaveDir,
    Seed,
    Threads,
    given,
    number_or_word,
    setting,
)
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.sections import BUDGETS, TIMED


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
    method: Annotated[str | None, setting("prune.score", "--method")] = None,
    mode: Annotated[str | None, setting("prune.allocation", "--mode")] = None,
    sparsity: Annotated[float | None, setting("prune.sparsity", "--sparsity")] = None,
    pattern: Annotated[str | None, setting("prune.pattern", "--pattern")] = None,
    solver: Annotated[str | None, setting("prune.solver", "--solver")] = None,
    iterative: Annotated[bool, typer.Option("--iterative", help="Prune and fine-tune in cycles.")] = False,
    num_iterations: Annotated[
        int | None, setting("prune.iterations", "--num-iterations", more="With --iterative: 5.")
    ] = None,
    gradual: Annotated[bool, setting("prune.gradual", "--gradual")] = False,
    schedule: Annotated[str | None, setting("prune.schedule", "--schedule")] = None,
    dry_run: DryRun = False,
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
    if mode is None and pattern is not None and re.fullmatch(r"\d+:\d+", pattern):
        mode = "layerwise"  # N:M itself says how many go in each layer, whatever the config has for other patterns
    options = given(prune_unstructured, locals())
    if method == "sparsegpt" and solver is None:  # known as a method, it is a solver: it needs no score
        options["prune.solver"] = options.pop("prune.score")
    cfg = load_checked("prune-unstructured", config, overrides, options, iterative=iterative)
    from pruning_bootcamp.flow.commands import prune_unstructured as run

    exit_by_goal(run(cfg, method=method, resume=resume, dry_run=dry_run).goal_met)


_BUDGETS: dict[str, Any] = dict.fromkeys(f"structured.{name}" for name in BUDGETS.values())
_TIMED = {f"structured.{BUDGETS[name]}" for name in TIMED}

_NOTHING_LOST = (
    "nothing is lost with dead channels, so nothing is trained after them. To train all the same, write "
    "`pipeline run` with pipeline.steps=[prune-structured,fine-tune] and structured.only_dead=true."
)
_DEAD = "dead: only what does nothing goes, without a budget, and the network computes what it did (only_dead)."


@app.command(
    "prune-structured",
    epilog=examples(
        "prune-structured -c cfgs/digits.yaml --method bn_scale --target-flops-reduction 0.5",
        "prune-structured -c cfgs/digits.yaml --target-latency-reduction 0.4 --backend onnxruntime",
        "prune-structured -c cfgs/cifar10_resnet20.yaml --method l1 --sparsity 0.4 --dry-run data.root=data/cifar10",
        "prune-structured -c cfgs/digits.yaml --method dead "
        "--checkpoint results/unstructured/global_global_sp0.8/pruned_model.pth",
    ),
)
def prune_structured(
    overrides: Overrides = None,
    config: ConfigFile = None,
    checkpoint: Checkpoint = None,
    method: Annotated[str | None, setting("structured.score", "--method", more=_DEAD)] = None,
    sparsity: Annotated[float | None, setting("structured.sparsity", "--sparsity")] = None,
    target_flops_reduction: Annotated[
        float | None, setting("structured.target_flops_reduction", "--target-flops-reduction")
    ] = None,
    target_params_reduction: Annotated[
        float | None, setting("structured.target_params_reduction", "--target-params-reduction")
    ] = None,
    target_latency_reduction: Annotated[
        float | None, setting("structured.target_latency_reduction", "--target-latency-reduction")
    ] = None,
    target_latency_ms: Annotated[float | None, setting("structured.target_latency_ms", "--target-latency-ms")] = None,
    max_accuracy_drop: Annotated[float | None, setting("structured.max_accuracy_drop", "--max-accuracy-drop")] = None,
    backend: Backend = None,
    batch_size: BatchSize = None,
    threads: Threads = None,
    round_to: Annotated[str | None, setting("structured.round_to", "--round-to", metavar="N|auto|none")] = None,
    dry_run: DryRun = False,
    fine_tune: FineTune = None,
    resume: Resume = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Cut whole channels out of the network, prove the cut, fine-tune, and say whether the goal is met."""
    options = given(prune_structured, locals())
    if round_to is not None:
        options["structured.round_to"] = number_or_word(round_to)
    if backend is not None and not options.keys() & _TIMED:
        options["goal.latency_reduction_pct"] = 0.0  # whoever names a backend wants it quicker there
    if method == "dead":  # known as a method, it is no score: there is nothing to rank
        options["structured.only_dead"] = True
        options["structured.score"] = None
        if fine_tune:
            raise BootcampError(_NOTHING_LOST, where="--fine-tune")
    if (
        method == "dead" or options.keys() & _BUDGETS.keys()
    ):  # it replaces the config's; two at once are left for preflight to refuse
        options = _BUDGETS | options
    cfg = load_checked("prune-structured", config, overrides, options)
    from pruning_bootcamp.flow import commands

    within = cfg.structured.max_accuracy_drop is not None
    run = commands.prune_within_drop if within else commands.prune_structured
    exit_by_goal(run(cfg, dry_run=dry_run, resume=resume).goal_met)
