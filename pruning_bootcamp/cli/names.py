"""list, validate."""

from pathlib import Path
from typing import Annotated

import typer

from pruning_bootcamp.cli.base import app, examples, load_checked
from pruning_bootcamp.cli.options import ConfigFile, Debug, Overrides
from pruning_bootcamp.errors import BootcampError, unknown


@app.command("list", epilog=examples("list", "list models", "list scores -c cfgs/digits.yaml"))
def list_names(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: datasets, models, scores, ...")] = None,
    config: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """Every dataset, model, method, pattern, schedule, format and backend with its first docstring line.

    Those of installed packages too, and functions of your own that a config names.
    """
    from pruning_bootcamp.config import load
    from pruning_bootcamp.listing import show

    show(kind, load(config) if config is not None else None)


@app.command(
    epilog=examples("validate cfgs/cifar10_resnet20.yaml data.root=data/cifar10", "validate week1 --results results")
)
def validate(
    what: Annotated[str, typer.Argument(help="A config to check before anything runs; or week1, week2, week3, final.")],
    overrides: Overrides = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", metavar="DIR", help="Where the course's results are.  [default: by --dataset]"),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset", envvar="DATASET", metavar="NAME", help="Of a week: digits, or cifar10 (results-cifar10/)."
        ),
    ] = "digits",
    debug: Debug = False,
) -> None:
    """Check a config without running anything, all problems at once; or what a week of the course must have made."""
    from pruning_bootcamp.course.validation import STAGES, check_results_folder, validate_course

    if what in STAGES:
        from pruning_bootcamp.course.dataset import FOLDERS, check_dataset

        folder = FOLDERS[check_dataset(dataset)]
        check_results_folder(what, results, overrides)
        if not validate_course(what, results or Path(folder)):
            raise typer.Exit(3)
        return
    if results is not None:
        raise BootcampError(f"validate: --results goes with {', '.join(STAGES)}, and '{what}' is taken for a config.")
    if not Path(what).exists() and Path(what).suffix == "":
        raise BootcampError(
            f"validate: {unknown('week', what, STAGES)} Or give a config, for instance cfgs/digits.yaml."
        )
    load_checked("validate", Path(what), overrides, {})
    typer.echo(f"{what}: valid")
