"""sweep show, and the last words of a sweep: the trials, the front, and what to do with the best."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.locks import owner_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.runs import CONFIG, read_yaml, siblings
from pruning_bootcamp.sweep import outputs

# the network that each command leaves in its folder
NETWORKS = {
    "prune-structured": "pruned_model.pth",
    "prune-unstructured": "pruned_model.pth",
    "train": "best_model.pth",
}


def show(folder: Path) -> dict[str, Any]:
    """Print the trials and the front of a sweep, finished or not, from any terminal."""
    if not (folder / outputs.SWEEP).exists():
        raise BootcampError(f"sweep show: {folder} holds no sweep. {siblings(folder / outputs.SWEEP)}")
    content = read_yaml(folder / outputs.SWEEP)
    if content.get("status") == "running" and owner_of(folder) is None:
        content["status"] = "interrupted"
    try:
        LOGGER.info("Sweep %s: %s, sampler %s, %s", folder, content["command"], content["sampler"], content["status"])
        say(folder, content)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise BootcampError(
            f"{folder / outputs.SWEEP}: is damaged ({type(error).__name__}). The sweep's own command writes it anew."
        ) from error
    return content


def say(folder: Path, content: Mapping[str, Any]) -> None:
    """The table, the front, and what to do with the best."""
    LOGGER.info("%s", outputs.table(content))
    number = content.get("chosen")
    if number is None:
        LOGGER.info("\nNo trial to take: %s.", content["chosen_because"])
        return
    trial = next(entry for entry in content["trials"] if entry["number"] == number)
    where = folder / trial["folder"]
    LOGGER.info(
        "\n%s:\n  pruning-bootcamp eval -c %s --checkpoint %s",
        _chosen(trial, content),
        where / CONFIG,
        where / NETWORKS[content["command"]],
    )


def _chosen(trial: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """The trial to take and why; where all lose more than was allowed none is, and which came nearest is said."""
    unread = "The test images have not been read. Read them once, for"
    if content.get("chosen_keeps_accuracy", True):
        because = f"{content['chosen_because']}, on validation images"
        return f"Trial {trial['number']}: {because}. {unread} the trial that you take"
    accuracy, dense, most = trial["values"]["accuracy"], content["dense"]["accuracy"], content["max_drop"]
    lost = dense - accuracy
    return (
        f"No trial to take: each loses more than the {most:g} points that goal.accuracy_drop allows. Nearest is trial "
        f"{trial['number']}, which loses {lost:.2f} ({accuracy:.2f}%, dense {dense:.2f}%), {lost - most:.2f} too many; "
        "all on validation images. Prune less, train longer afterwards, or allow more. "
        f"{unread} a trial that you take all the same"
    )
