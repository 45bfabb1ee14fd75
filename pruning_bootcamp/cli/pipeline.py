"""pipeline run, resume, status."""

from pathlib import Path
from typing import Annotated

import typer

from pruning_bootcamp.cli.base import app, examples, exit_by_goal, load_checked
from pruning_bootcamp.cli.options import (
    Checkpoint,
    ConfigFile,
    Debug,
    Device,
    DryRun,
    Overrides,
    Resume,
    SaveDir,
    Seed,
    given,
)

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
    epilog=examples(
        "pipeline run -c cfgs/pipeline/digits.yaml --save-dir results/pipeline/digits",
        "pipeline run -c cfgs/pipeline/digits.yaml prune.sparsity=0.9 gates.max_accuracy_drop=1",
    ),
)
def pipeline_run(
    overrides: Overrides = None,
    config: ConfigFile = None,
    checkpoint: Checkpoint = None,
    dry_run: DryRun = False,
    resume: Resume = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Train (or take --checkpoint), compress, judge by gates and goal, export, verify; stages are kept and reused."""
    cfg = load_checked("pipeline run", config, overrides, given(pipeline_run, locals()))
    from pruning_bootcamp.flow.commands import pipeline as run

    exit_by_goal(run(cfg, resume=resume, dry_run=dry_run).goal_met)


@pipeline.command("resume", epilog=examples("pipeline resume --save-dir results/pipeline/digits"))
def pipeline_resume(save_dir: PipelineDir, device: Device = None, debug: Debug = False) -> None:
    """Go on with a pipeline that was interrupted or killed, with the config that it began with."""
    from pruning_bootcamp.flow.commands import resume_pipeline as resume

    metrics = resume(
        save_dir,
        lambda path, options: load_checked("pipeline run", path, [], ({"device": device} if device else {}) | options),
    )
    exit_by_goal(metrics.goal_met)


@pipeline.command(
    "status",
    epilog=examples(
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
    from pruning_bootcamp.flow.commands import show_status as status
    from pruning_bootcamp.logs import start_screen

    start_screen(debug)
    status(save_dir, watch)
