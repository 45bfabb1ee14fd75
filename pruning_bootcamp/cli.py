"""The command line: one thin function a command; torch is imported inside it, so that --help is quick."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pruning_bootcamp.options import Checkpoint, ConfigFile, Debug, Device, FineTune, Overrides, Resume, SaveDir, Seed

app = typer.Typer(
    name="pruning-bootcamp",
    help="Train, prune, recover, prove, export and profile PyTorch networks; every number printed was measured.",
    epilog="Start here: pruning-bootcamp quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _examples(*lines: str) -> str:
    """The end of every --help: real commands (\\b keeps the lines as they are)."""
    return "\b\nExamples:\n" + "\n".join(f"  pruning-bootcamp {line}" for line in lines)


def _load(
    command: str,
    config: Path | None,
    overrides: list[str] | None,
    options: dict[str, Any],
    iterative: bool = False,
) -> Any:
    """The checked config of a command; its problems, of every kind, in one error and before any work."""
    from pruning_bootcamp.config import load
    from pruning_bootcamp.logs import start_screen
    from pruning_bootcamp.preflight import check

    start_screen(debug="--debug" in sys.argv)
    cfg = load(config, overrides or (), options)
    if iterative and cfg.prune.iterations == 1 and "prune.iterations" not in options:
        cfg.prune.iterations = 5  # --iterative alone, and the config names no number
    check(cfg, command, where=str(config) if config else "the config")
    return cfg


def _common(save_dir: str | None, device: str | None, seed: int | None, **more: Any) -> dict[str, Any]:
    """The options that were given, as config keys."""
    options = {"save_dir": save_dir, "device": device, "seed": seed, **more}
    return {key: value for key, value in options.items() if value is not None}


@app.command(epilog=_examples("quickstart", "quickstart --save-dir /tmp/quickstart --seed 1"))
def quickstart(
    overrides: Overrides = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="The images to learn from (digits, which needs no download).")
    ] = None,
    config: ConfigFile = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """The whole way in two minutes: train, prune to half the FLOPs, fine-tune, evaluate, export, profile, report."""
    options = _common(save_dir, device, seed, **{"data.name": dataset})
    if config is None:  # 15 epochs on labels alone end within the goal or just outside, by the number of threads
        options |= {"fine_tune.epochs": "30ep", "fine_tune.lr": 0.02, "fine_tune.distill": 0.9}
    cfg = _load("quickstart", config, overrides, options)
    from pruning_bootcamp.quickstart import quickstart as run

    _exit_by_goal(run(cfg))


@app.command(
    epilog=_examples(
        "train -c cfgs/cifar10_resnet20.yaml data.root=data/cifar10",
        "train -c cfgs/digits.yaml train.epochs=5 --save-dir results/short",
    )
)
def train(
    overrides: Overrides = None,
    config: ConfigFile = None,
    resume: Resume = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Train the dense network that everything is compared with."""
    cfg = _load("train", config, overrides, _common(save_dir, device, seed))
    from pruning_bootcamp.stages import train as run

    run(cfg, resume=resume)


@app.command(
    "eval",
    epilog=_examples(
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
    baseline_metrics: Annotated[
        Path | None, typer.Option("--baseline-metrics", metavar="FILE", help="A metrics.yaml to compare with.")
    ] = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Accuracy on the test split, FLOPs by two counters, parameters, sparsity and, if asked, latency."""
    cfg = _load("eval", config, overrides, _common(save_dir, device, seed, checkpoint=checkpoint))
    from pruning_bootcamp.stages import evaluate as run

    run(cfg, measure_latency=measure_latency, baseline_metrics=baseline_metrics)


@app.command(
    "prune-unstructured",
    epilog=_examples(
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
    options = _common(save_dir, device, seed, checkpoint=checkpoint, **options)
    cfg = _load("prune-unstructured", config, overrides, options, iterative=iterative)
    from pruning_bootcamp.stages import prune_unstructured as run

    _exit_by_goal(run(cfg, method=method, resume=resume))


@app.command(
    "prune-structured",
    epilog=_examples(
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
    round_to: Annotated[int | None, typer.Option("--round-to", help="Keep widths in multiples of this.")] = None,
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
        "structured.round_to": round_to,
        "fine_tune.enabled": fine_tune,
    }
    options = _common(save_dir, device, seed, checkpoint=checkpoint, **options)
    options |= _one_budget(sparsity, target_flops_reduction, target_params_reduction)
    cfg = _load("prune-structured", config, overrides, options)
    from pruning_bootcamp.stages import prune_structured as run

    _exit_by_goal(run(cfg, dry_run=dry_run, resume=resume))


def _exit_by_goal(metrics: dict[str, Any]) -> None:
    """The stage has said whether the goal is met; a script reads it from the exit code."""
    if metrics.get("goal_met") is False:
        raise typer.Exit(3)


def _one_budget(sparsity: float | None, flops: float | None, params: float | None) -> dict[str, Any]:
    """The budget given on the command line replaces the config's; two at once are left for preflight to refuse."""
    budgets = {
        "structured.sparsity": sparsity,
        "structured.target_flops_reduction": flops,
        "structured.target_params_reduction": params,
    }
    return {} if all(value is None for value in budgets.values()) else budgets


@app.command(
    epilog=_examples(
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
    cfg = _load("export", config, overrides, _common(save_dir, device, seed, checkpoint=checkpoint, **options))
    from pruning_bootcamp.stages import export as run

    run(cfg)


@app.command(
    epilog=_examples(
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
    cfg = _load("profile", config, overrides, _common(save_dir, device, seed, **options))
    from pruning_bootcamp.stages import profile as run

    run(cfg, baseline=baseline, save_results=save_results)


pipeline = typer.Typer(
    name="pipeline",
    help="The stage machine: from training to exported files, with gates; killed at any moment, it goes on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(pipeline)

PipelineDir = Annotated[Path, typer.Option("--save-dir", metavar="DIR", help="The folder that `pipeline run` wrote.")]


@pipeline.command(
    "run",
    epilog=_examples(
        "pipeline run -c cfgs/pipeline/digits.yaml --save-dir results/pipeline/digits",
        "pipeline run -c cfgs/pipeline/digits.yaml prune.sparsity=0.9 gates.max_accuracy_drop=1",
    ),
)
def pipeline_run(
    overrides: Overrides = None,
    config: ConfigFile = None,
    checkpoint: Checkpoint = None,
    resume: Resume = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Train (or take --checkpoint), compress, judge by the gates, export, verify; each stage is kept and reused."""
    cfg = _load("pipeline run", config, overrides, _common(save_dir, device, seed, checkpoint=checkpoint))
    from pruning_bootcamp.pipeline.commands import run

    run(cfg, resume=resume)


@pipeline.command("resume", epilog=_examples("pipeline resume --save-dir results/pipeline/digits"))
def pipeline_resume(save_dir: PipelineDir, device: Device = None, debug: Debug = False) -> None:
    """Go on with a pipeline that was interrupted or killed, with the config that it began with."""
    from pruning_bootcamp.pipeline.commands import resume

    resume(save_dir, lambda path, options: _load("pipeline run", path, [], _common(None, device, None) | options))


@pipeline.command(
    "status",
    epilog=_examples(
        "pipeline status --save-dir results/pipeline/digits",
        "pipeline status --save-dir results/pipeline/digits --watch",
    ),
)
def pipeline_status(
    save_dir: PipelineDir,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it until the pipeline ends.")] = False,
    debug: Debug = False,
) -> None:
    """Where a pipeline stands: its stages, progress and time left; from any terminal."""
    from pruning_bootcamp.logs import start_screen
    from pruning_bootcamp.pipeline.commands import status

    start_screen(debug)
    status(save_dir, watch)


@app.command("list", epilog=_examples("list", "list models"))
def list_names(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: datasets, models, scores, ...")] = None,
    debug: Debug = False,
) -> None:
    """Every dataset, model, method, pattern, schedule and format with its first docstring line."""
    from pruning_bootcamp.listing import show

    show(kind)


@app.command(
    epilog=_examples("validate cfgs/digits.yaml", "validate cfgs/cifar10_resnet20.yaml data.root=data/cifar10")
)
def validate(
    what: Annotated[str, typer.Argument(help="A config to check before anything runs.")],
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Check a config without running anything: names, settings, types, ranges, files; all problems at once."""
    _load("validate", Path(what), overrides, {})
    typer.echo(f"{what}: valid")
