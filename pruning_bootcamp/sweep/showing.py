"""sweep show, and the last words of a sweep: the trials, the front, and what to do with the best."""

from dataclasses import replace
from pathlib import Path

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.locks import owner_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.results import Study, Trial
from pruning_bootcamp.runs import CONFIG, read_results, siblings
from pruning_bootcamp.sweep import outputs

# the network that each command leaves in its folder
NETWORKS = {
    "prune-structured": "pruned_model.pth",
    "prune-unstructured": "pruned_model.pth",
    "train": "best_model.pth",
}


def show(folder: Path) -> Study:
    """Print the trials and the front of a sweep, finished or not, from any terminal."""
    path = folder / outputs.SWEEP
    if not path.exists():
        raise BootcampError(f"sweep show: {folder} holds no sweep. {siblings(path)}")
    try:
        study = read_results(Study, path)
        if study.status == "running" and owner_of(folder) is None:
            study = replace(study, status="interrupted")
        LOGGER.info("Sweep %s: %s, sampler %s, %s", folder, study.command, study.sampler, study.status)
        say(folder, study)
    except (BootcampError, KeyError, StopIteration) as error:
        raise BootcampError(f"{path}: is damaged ({error}). The sweep's own command writes it anew.") from error
    return study


def say(folder: Path, study: Study) -> None:
    """The table, the front, and what to do with the best."""
    LOGGER.info("%s", outputs.table(study))
    if study.chosen is None:
        LOGGER.info("\nNo trial to take: %s.", study.chosen_because)
        return
    trial = next(entry for entry in study.trials if entry.number == study.chosen)
    where = folder / trial.folder
    LOGGER.info(
        "\n%s:\n  pruning-bootcamp eval -c %s --checkpoint %s",
        _chosen(trial, study),
        where / CONFIG,
        where / NETWORKS[study.command],
    )


def _chosen(trial: Trial, study: Study) -> str:
    """The trial to take and why; where all lose more than was allowed none is, and which came nearest is said."""
    unread = "The test images have not been read. Read them once, for"
    if study.chosen_keeps_accuracy is not False or study.dense is None:
        return f"Trial {trial.number}: {study.chosen_because}, on validation images. {unread} the trial that you take"
    accuracy, dense, most = trial.values["accuracy"], study.dense.accuracy, study.max_drop
    lost = dense - accuracy
    return (
        f"No trial to take: each loses more than the {most:g} points that goal.accuracy_drop allows. Nearest is trial "
        f"{trial.number}, which loses {lost:.2f} ({accuracy:.2f}%, dense {dense:.2f}%), {lost - most:.2f} too many; "
        "all on validation images. Prune less, train longer afterwards, or allow more. "
        f"{unread} a trial that you take all the same"
    )
