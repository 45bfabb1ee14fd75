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
        return
    where = folder / next(entry["folder"] for entry in content["trials"] if entry["number"] == number)
    LOGGER.info(
        "\nTrial %d: %s, on validation images. The test images have not been read. Read them once, for the trial that "
        "you take:\n  pruning-bootcamp eval -c %s --checkpoint %s",
        number,
        content["chosen_because"],
        where / CONFIG,
        where / NETWORKS[content["command"]],
    )
