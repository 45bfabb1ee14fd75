"""export, profile."""

from pathlib import Path
from typing import Annotated

import typer

from pruning_bootcamp.cli.base import app, examples, load_checked
from pruning_bootcamp.cli.options import (
    Backend,
    BatchSize,
    Checkpoint,
    ConfigFile,
    Debug,
    Device,
    DryRun,
    Overrides,
    SaveDir,
    Seed,
    Threads,
    given,
    number_or_word,
    setting,
)


@app.command(
    epilog=examples(
        "export -c cfgs/digits.yaml --checkpoint results/structured/bn_scale_flops0.5/pruned_model.pth --format both",
        "export -c cfgs/digits.yaml --checkpoint results/baseline/best_model.pth --format pt2 --verify",
    )
)
def export(
    overrides: Overrides = None,
    config: ConfigFile = None,
    checkpoint: Checkpoint = None,
    format: Annotated[str | None, setting("export.format", "--format")] = None,  # noqa: A002 - the name is fixed
    verify: Annotated[bool | None, setting("export.verify", "--verify/--no-verify")] = None,
    opset: Annotated[int | None, setting("export.opset", "--opset")] = None,
    pad_to: Annotated[str | None, setting("export.pad_to", "--pad-to", metavar="N|auto")] = None,
    dry_run: DryRun = False,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Write the network in a deployment format, and check the file against the network."""
    options = given(export, locals())
    if pad_to is not None:
        options["export.pad_to"] = number_or_word(pad_to)
    cfg = load_checked("export", config, overrides, options)
    from pruning_bootcamp.flow.commands import export as run

    run(cfg, dry_run=dry_run)


@app.command(
    epilog=examples(
        "profile -c cfgs/digits.yaml --baseline results/baseline/best_model.pth "
        "--pruned results/structured/bn_scale_flops0.5/pruned_model.pth",
        "profile -c cfgs/digits.yaml --pruned results/quickstart/structured/pruned_model.pth "
        "--batch-size 16 --backend onnxruntime,torch --save-results results/profile.yaml",
        "profile -c cfgs/digits.yaml --what-would-pay --baseline results/baseline/best_model.pth --backend onnxruntime",
    )
)
def profile(
    overrides: Overrides = None,
    config: ConfigFile = None,
    baseline: Annotated[str | None, typer.Option("--baseline", metavar="FILE", help="The dense checkpoint.")] = None,
    pruned: Annotated[
        str | None, setting("checkpoint", "--pruned", metavar="FILE", more="Here: the pruned one.")
    ] = None,
    measure_latency: Annotated[
        bool | None, setting("profile.measure_latency", "--measure-latency/--no-measure-latency")
    ] = None,
    what_would_pay: Annotated[
        bool | None, setting("profile.what_would_pay", "--what-would-pay/--no-what-would-pay")
    ] = None,
    backend: Backend = None,
    batch_size: BatchSize = None,
    threads: Threads = None,
    save_results: Annotated[
        Path | None, typer.Option("--save-results", metavar="FILE", help="Write the metrics as YAML.")
    ] = None,
    dry_run: DryRun = False,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """FLOPs against measured latency, layer by layer: how much of the saving arrives on this machine, and why."""
    cfg = load_checked("profile", config, overrides, given(profile, locals()))
    from pruning_bootcamp.flow.commands import profile as run

    run(cfg, baseline=baseline, save_results=save_results, dry_run=dry_run)
