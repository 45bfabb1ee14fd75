"""curriculum: the 21 days, one day, the comparison of what was pruned."""

from pathlib import Path
from typing import Annotated

import typer

from pruning_bootcamp.cli.base import app, examples
from pruning_bootcamp.cli.options import Debug

curriculum = typer.Typer(
    name="curriculum",
    help="The 21 days: what each teaches, what to run, what was done.",
    epilog=examples("curriculum", "curriculum day 5"),
    invoke_without_command=True,
    rich_markup_mode=None,
)
app.add_typer(curriculum)

Results = Annotated[
    Path | None,
    typer.Option("--results", metavar="DIR", help="Where the course's results are.  [default: by --dataset]"),
]
Dataset = Annotated[
    str,
    typer.Option("--dataset", envvar="DATASET", metavar="NAME", help="digits, or cifar10 (results-cifar10/)."),
]


def results_folder(results: Path | None, dataset: str) -> Path:
    """The folder of the course's results; a BootcampError for a dataset that the course doesn't run on."""
    from pruning_bootcamp.course.dataset import FOLDERS, check_dataset

    folder = FOLDERS[check_dataset(dataset)]
    return results or Path(folder)


@curriculum.callback()
def show_all(
    context: typer.Context, results: Results = None, dataset: Dataset = "digits", debug: Debug = False
) -> None:
    """The 21 days by week, with a mark at each that was done."""
    if context.invoked_subcommand is None:
        from pruning_bootcamp.course.view import show_course

        show_course(results_folder(results, dataset), dataset)


@curriculum.command("day", epilog=examples("curriculum day 5", "curriculum day 5 --figures"))
def day(
    number: Annotated[int, typer.Argument(metavar="N", help="1 to 21.")],
    figures: Annotated[bool, typer.Option("--figures", help="Only the course's metrics beside yours.")] = False,
    results: Results = None,
    dataset: Dataset = "digits",
    debug: Debug = False,
) -> None:
    """One day: what you learn, why, the idea, the commands, what you should see, questions with answers."""
    from pruning_bootcamp.course.view import day_number, show_day, show_figures

    found, folder = day_number(number), results_folder(results, dataset)
    if figures:
        show_figures(found, folder, dataset)
    else:
        show_day(found, folder, dataset)


@curriculum.command("compare", epilog=examples("curriculum compare", "curriculum compare --results results"))
def compare(results: Results = None, dataset: Dataset = "digits", debug: Debug = False) -> None:
    """Every pruning run in one table, written to final_comparison.csv."""
    from pruning_bootcamp.course.view import compare as run

    run(results_folder(results, dataset))
