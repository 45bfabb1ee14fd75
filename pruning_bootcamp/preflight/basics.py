"""What every command needs: data, model, device, a file to start from, a folder to write to."""

import os
from pathlib import Path

from pruning_bootcamp.checkpoints.files import read_file
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.models import check_model
from pruning_bootcamp.runs import siblings
from pruning_bootcamp.runtime import choose_device
from pruning_bootcamp.tasks import check_task
from pruning_bootcamp.tools.datasets import check_dataset


def data(cfg: Config) -> list[Problem]:
    """Problems with the data set: its name, settings and folder; no image is read."""
    return check_dataset(cfg.data.name, root=cfg.data.root, args=cfg.data.args, where="data")


def task(cfg: Config) -> list[Problem]:
    """Problems with the task's name and settings."""
    return check_task(cfg.task.name, cfg.task.args, where="task")


def by_accuracy(cfg: Config) -> list[Problem]:
    """A scan and a search weigh points of accuracy."""
    if task(cfg) or (metric := task_of(cfg).metric).name == "accuracy":  # what is wrong with a task is said by `task`
        return []
    return [
        Problem("task", f"{cfg.task.name} is judged by {metric.title}, and this command weighs accuracy. Leave it out.")
    ]


def model(cfg: Config) -> list[Problem]:
    """Problems with the network's name and settings; it is not built."""
    return check_model(cfg.model.name, cfg.model.args, where="model")


def device(cfg: Config) -> list[Problem]:
    """A device that is not there, or is no device."""
    try:
        choose_device(cfg.device)
    except BootcampError as error:
        return error.problems
    return []


def checkpoint(cfg: Config) -> list[Problem]:
    """A checkpoint, where one is named, that is missing or can't be opened; it is read whole."""
    if cfg.checkpoint is None:
        return []
    path = Path(cfg.checkpoint)
    if path.is_file():
        try:
            read_file(path)
        except BootcampError as error:
            return [Problem("checkpoint", str(problem)) for problem in str(error).splitlines()]
        return []
    if path.is_dir():
        return [Problem("checkpoint", f"{path} is a folder, not a checkpoint. {siblings(path / 'best_model.pth')}")]
    return [Problem("checkpoint", f"there is no file {path}. {siblings(path)}")]


def save_dir(cfg: Config) -> list[Problem]:
    """The nearest existing folder above save_dir must let us write."""
    folder = Path(cfg.save_dir) if cfg.save_dir else Path("results")
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return [Problem("save_dir", f"{folder} is a file, not a folder. Choose another with --save-dir DIR.")]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [
            Problem("save_dir", f"no permission to write in {folder.resolve()}. Choose another with --save-dir DIR.")
        ]
    return []


def reads_test(cfg: Config) -> list[Problem]:
    """`goal.evaluate_test=false` for a command that is there to read the test images."""
    if cfg.goal.evaluate_test:
        return []
    return [
        Problem("goal.evaluate_test", "false is for train, prune-structured and prune-unstructured. Leave it out here.")
    ]
