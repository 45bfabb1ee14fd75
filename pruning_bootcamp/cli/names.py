"""list, validate."""

from pathlib import Path
from typing import Annotated

import typer

from pruning_bootcamp.cli.base import app, examples, load_checked
from pruning_bootcamp.cli.options import Debug, Overrides


@app.command("list", epilog=examples("list", "list models"))
def list_names(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: datasets, models, scores, ...")] = None,
    debug: Debug = False,
) -> None:
    """Every dataset, model, method, pattern, schedule and format with its first docstring line."""
    from pruning_bootcamp.listing import show

    show(kind)


@app.command(epilog=examples("validate cfgs/digits.yaml", "validate cfgs/cifar10_resnet20.yaml data.root=data/cifar10"))
def validate(
    what: Annotated[str, typer.Argument(help="A config to check before anything runs.")],
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Check a config without running anything: names, settings, types, ranges, files; all problems at once."""
    load_checked("validate", Path(what), overrides, {})
    typer.echo(f"{what}: valid")
