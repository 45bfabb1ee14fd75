"""quickstart, train, eval."""

from pathlib import Path
from typing import Annotated

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
    Overrides,
    Resume,
    SaveDir,
    Seed,
    Threads,
    given,
    setting,
)
from pruning_bootcamp.pruning.sections import BUDGETS

_OTHER_BUDGETS = tuple(f"structured.{name}=" for name in BUDGETS.values() if name != "target_latency_reduction")


@app.command(epilog=examples("quickstart", "quickstart --save-dir /tmp/quickstart --seed 1"))
def quickstart(
    overrides: Overrides = None,
    dataset: Annotated[str | None, setting("data.name", "--dataset")] = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """The whole way in two minutes: train, cut until it is quick, fine-tune, evaluate, export, profile, report."""
    options = given(quickstart, locals())
    if config is None:  # 15 epochs on labels alone end within the goal or just outside, by the number of threads
        options |= {"fine_tune.epochs": "30ep", "fine_tune.lr": 0.02, "fine_tune.distill": 0.9}
        options |= {"structured.refit": "batch_norm"}  # the page's figures are of that
        options |= {"profile.backend": "onnxruntime", "profile.more_batch_sizes": [16]}
        options |= {"threads": 1}  # the quickest for so small a network, and the same one on every machine
        if not any(text.startswith(_OTHER_BUDGETS) for text in overrides or []):
            # what is cut, and what the page promises: at least 1.5 times as quick, one image at a time and sixteen
            options |= {"structured.target_latency_reduction": 0.38, "goal.latency_reduction_pct": 33.4}
            options |= {"structured.round_to": 8}  # a few widths to time, all of them blocks of the runtime
    cfg = load_checked("quickstart", config, overrides, options)
    from pruning_bootcamp.flow.commands import quickstart as run

    exit_by_goal(run(cfg, dry_run=dry_run).goal_met)


@app.command(
    epilog=examples(
        "train -c cfgs/cifar10_resnet20.yaml data.root=data/cifar10",
        "train -c cfgs/digits.yaml train.epochs=5 --save-dir results/short",
    )
)
def train(
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    resume: Resume = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Train the dense network that everything is compared with."""
    cfg = load_checked("train", config, overrides, given(train, locals()))
    from pruning_bootcamp.flow.commands import train as run

    run(cfg, resume=resume, dry_run=dry_run)


@app.command(
    "eval",
    epilog=examples(
        "eval -c cfgs/digits.yaml --checkpoint results/baseline/best_model.pth --measure-latency",
        "eval -c cfgs/digits.yaml --checkpoint results/structured/bn_scale_flops0.5/pruned_model.pth "
        "--baseline-metrics results/baseline/metrics.yaml",
    ),
)
def evaluate(
    overrides: Overrides = None,
    config: ConfigFile = None,
    checkpoint: Checkpoint = None,
    measure_latency: Annotated[bool, typer.Option("--measure-latency", help="Time it on this machine too.")] = False,
    backend: Backend = None,
    batch_size: BatchSize = None,
    threads: Threads = None,
    baseline_metrics: Annotated[
        Path | None,
        typer.Option("--baseline-metrics", metavar="FILE", help="A metrics.yaml to judge it against."),
    ] = None,
    dry_run: DryRun = False,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Accuracy on the test split, FLOPs by two counters, parameters, sparsity and, if asked, latency."""
    cfg = load_checked("eval", config, overrides, given(evaluate, locals()))
    from pruning_bootcamp.flow.commands import evaluate as run

    found = run(cfg, measure_latency=measure_latency, baseline_metrics=baseline_metrics, dry_run=dry_run)
    exit_by_goal(found.goal_met)
