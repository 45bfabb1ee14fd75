"""export, profile."""

from pathlib import Path
from typing import Annotated

import typer

from pruning_bootcamp.cli.base import app, common_options, examples, load_checked
from pruning_bootcamp.cli.options import Checkpoint, ConfigFile, Debug, Device, Overrides, SaveDir, Seed


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
    format: Annotated[  # noqa: A002 - the option's name is fixed
        str | None,
        typer.Option("--format", help="onnx, torchscript, pt2, int8, sparse, both (onnx and torchscript) or all."),
    ] = None,
    verify: Annotated[
        bool | None, typer.Option("--verify/--no-verify", help="Run the file, here and in a new process.")
    ] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="ONNX operator set.")] = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Write the network in a deployment format, and check the file against the network."""
    options = {"export.format": format, "export.verify": verify, "export.opset": opset}
    options = common_options(save_dir, device, seed, checkpoint=checkpoint, **options)
    cfg = load_checked("export", config, overrides, options)
    from pruning_bootcamp.flow.commands import export as run

    run(cfg)


@app.command(
    epilog=examples(
        "profile -c cfgs/digits.yaml --baseline results/baseline/best_model.pth "
        "--pruned results/structured/bn_scale_flops0.5/pruned_model.pth",
        "profile -c cfgs/digits.yaml --pruned results/quickstart/structured/pruned_model.pth "
        "--batch-size 16 --backend onnxruntime --save-results results/profile.yaml",
    )
)
def profile(
    overrides: Overrides = None,
    config: ConfigFile = None,
    baseline: Annotated[str | None, typer.Option("--baseline", metavar="FILE", help="The dense checkpoint.")] = None,
    pruned: Annotated[str | None, typer.Option("--pruned", metavar="FILE", help="The pruned checkpoint.")] = None,
    measure_latency: Annotated[
        bool | None, typer.Option("--measure-latency/--no-measure-latency", help="Time both, interleaved (default).")
    ] = None,
    backend: Annotated[str | None, typer.Option("--backend", help="torch or onnxruntime.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Images per forward pass.")] = None,
    save_results: Annotated[
        Path | None, typer.Option("--save-results", metavar="FILE", help="Write the figures as YAML.")
    ] = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """FLOPs against measured latency, layer by layer: how much of the saving arrives on this machine, and why."""
    options = {
        "profile.backend": backend,
        "profile.batch_size": batch_size,
        "profile.measure_latency": measure_latency,
        "checkpoint": pruned,
    }
    cfg = load_checked("profile", config, overrides, common_options(save_dir, device, seed, **options))
    from pruning_bootcamp.flow.commands import profile as run

    run(cfg, baseline=baseline, save_results=save_results)
