"""report."""

from pathlib import Path
from typing import Annotated

import typer

from pruning_bootcamp.cli.base import app, examples
from pruning_bootcamp.cli.options import Debug


@app.command(
    epilog=examples(
        "report --results results --format md",
        "report --results results --format html --save-dir reports",
    )
)
def report(
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Every run below it is reported.")] = Path(
        "results"
    ),
    format: Annotated[str, typer.Option("--format", help="md or html.")] = "md",  # noqa: A002 - the name is fixed
    save_dir: Annotated[
        Path | None, typer.Option("--save-dir", metavar="DIR", help="Where it goes; left out: into the results.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Tables, plots, fairness card and recommendations from results: summary.md or summary.html, and summary.csv."""
    from pruning_bootcamp.logs import start_screen

    start_screen(debug)
    from pruning_bootcamp.reporting.command import report as run

    run(results, format, save_dir)
