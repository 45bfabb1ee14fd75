"""sweep, sweep show."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pruning_bootcamp.cli.base import app, examples, load_checked
from pruning_bootcamp.cli.options import Checkpoint, ConfigFile, Debug, Device, Resume, SaveDir, Seed, given, setting
from pruning_bootcamp.plain import Plain


@app.command(
    epilog=examples(
        "sweep -c cfgs/sweep/digits.yaml --sampler tpe --trials 12 --workers 2",
        "sweep show --save-dir results/sweep/digits",
    )
)
def sweep(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[show | KEY=VALUE...]",
            help="show: the trials of --save-dir, also while they run. Else settings to override, e.g. train.epochs=3.",
        ),
    ] = None,
    config: ConfigFile = None,
    checkpoint: Checkpoint = None,
    sampler: Annotated[str | None, setting("sweep.sampler", "--sampler")] = None,
    trials: Annotated[int | None, setting("sweep.trials", "--trials")] = None,
    workers: Annotated[int | None, setting("sweep.workers", "--workers")] = None,
    executor: Annotated[str | None, setting("sweep.executor", "--executor")] = None,
    storage: Annotated[str | None, setting("sweep.storage", "--storage", metavar="URL")] = None,
    resume: Resume = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Search settings for the best trade of accuracy against cost: trials, their Pareto front, and the one to take.

    Every trial is judged on validation images; the test images are never read.
    """
    if words and words[0] == "show":
        from pruning_bootcamp.errors import BootcampError
        from pruning_bootcamp.logs import start_screen

        if save_dir is None or len(words) > 1:
            raise BootcampError("sweep show: takes --save-dir DIR, the folder of the sweep, and no settings.")
        start_screen(debug)
        from pruning_bootcamp.sweep.showing import show

        show(Path(save_dir))
        return
    options = given(sweep, locals())
    if resume is not False and _is_finished(config, words, options):
        return
    cfg = load_checked("sweep", config, words, options)
    from pruning_bootcamp.sweep.commands import run

    run(cfg, resume=resume)


def _is_finished(config: Path | None, words: list[str] | None, options: Mapping[str, Plain]) -> bool:
    """Whether this very sweep is over, and shown: before the checks, which need torch and seconds."""
    from pruning_bootcamp.config import load
    from pruning_bootcamp.logs import LOGGER, start_screen
    from pruning_bootcamp.sweep.known import already_finished, folder_of
    from pruning_bootcamp.sweep.showing import say

    cfg = load(config, words or (), options)
    done = already_finished(cfg)
    if done is None:
        return False
    start_screen(debug="--debug" in sys.argv)
    LOGGER.info("%s is already finished (same config, same inputs); --no-resume does it again\n", folder_of(cfg))
    say(folder_of(cfg), done)
    return True
