"""The options that several commands share, each with its one line of help."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE", help="YAML of the run.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to override, e.g. train.epochs=3.")
]
SaveDir = Annotated[str | None, typer.Option("--save-dir", metavar="DIR", help="Where the results go.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Everything random starts from here.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show more, and a traceback with every error.")]
Checkpoint = Annotated[str | None, typer.Option("--checkpoint", metavar="FILE", help="The network to start from.")]
Resume = Annotated[
    bool | None,
    typer.Option("--resume/--no-resume", help="Go on with an unfinished run (the default), or begin again."),
]
FineTune = Annotated[bool | None, typer.Option("--fine-tune/--no-fine-tune", help="Train after pruning.")]
