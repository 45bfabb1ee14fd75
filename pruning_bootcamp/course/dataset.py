"""DATASET=cifar10: the course's commands with that config, in a folder of results of its own.

python -m pruning_bootcamp.course.dataset cifar10 COMMAND...      the words to run, one a line (scripts/lib.sh)
"""

import sys

from pruning_bootcamp.course.day import CourseStep
from pruning_bootcamp.course.reading import days
from pruning_bootcamp.errors import BootcampError, unknown

DATASETS = ("digits", "cifar10")
ROOT = "data/cifar10"
# Never results/: a network of the digits would be taken for one of CIFAR-10, and a report would mix both.
FOLDERS = {"digits": "results", "cifar10": "results-cifar10"}
_CONFIGS = {
    "cfgs/digits.yaml": ("cfgs/cifar10_resnet18.yaml", f"data.root={ROOT}"),
    "cfgs/sweep/digits.yaml": (
        "cfgs/sweep/digits.yaml",
        "data.name=cifar10",
        f"data.root={ROOT}",
        "model.name=cifar_resnet18",
    ),
}
# These prune or score results/baseline/best_model.pth when no --checkpoint is named.
_FROM_BASELINE = ("prune-unstructured", "prune-structured", "sensitivity", "benchmarks/importance_impact.py")


def check_dataset(name: str) -> str:
    """The name, if the course runs on it; a BootcampError that says which there are."""
    if name not in DATASETS:
        raise BootcampError(unknown("DATASET", name, DATASETS))
    return name


def command_for(step: CourseStep, dataset: str) -> str:
    """What to type for a step with this dataset."""
    if dataset == "digits":
        return step.command
    folder = FOLDERS[dataset]
    words = step.command.split()
    what = words[1]
    for config, other in _CONFIGS.items():
        if config in words:
            place = words.index(config)
            words[place : place + 1] = other
    if what in _FROM_BASELINE and "--checkpoint" not in words:
        words += ["--checkpoint", "results/baseline/best_model.pth"]
    if step.saves is not None:
        words += ["--out" if words[0] == "python" else "--save-dir", step.saves]
    if what == "validate" or words[1:3] == ["curriculum", "compare"]:
        words += ["--results", "results"]
    return " ".join(_moved(word, folder) for word in words)


def path_for(path: str, dataset: str) -> str:
    """Where a file of the course, results/..., is with this dataset."""
    return _moved(path, FOLDERS[dataset])


def _moved(word: str, folder: str) -> str:
    """A word of a command that may be a path, or a setting that is one, with `folder` for results."""
    setting, equals, value = word.rpartition("=")
    moved = folder + value.removeprefix("results") if value == "results" or value.startswith("results/") else value
    return f"{setting}{equals}{moved}"


def main(dataset: str, *words: str) -> None:
    """Print, a word a line, what a script is to run for the words of a command with this dataset.

    Raises BootcampError for a dataset that the course doesn't run on.
    """
    command = " ".join(words)
    steps = [step for day in days() for step in day.steps if step.command == command]
    # a command that is no day's own is taken as it is typed
    for word in command_for(steps[0] if steps else CourseStep(why="", command=command), check_dataset(dataset)).split():
        print(word)


if __name__ == "__main__":
    main(*sys.argv[1:])
