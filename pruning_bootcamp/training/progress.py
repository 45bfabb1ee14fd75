"""What can be seen of a training while it runs: a bar, a line for each epoch, TensorBoard curves."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.runs import disk_error
from pruning_bootcamp.tasks import Task
from pruning_bootcamp.training.records import Epoch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TrainingProgress:
    """`active` is False in all processes but the leader; `visible` False keeps the screen quiet, not the curves.

    Without `bar` the lines stay, and something else shows how far it is.
    """

    def __init__(
        self,
        *,
        logs: Path | None,
        label: str,
        total_steps: int,
        epochs: int,
        first_step: int,
        task: Task,
        active: bool,
        visible: bool,
        bar: bool = True,
    ) -> None:
        self.epochs = epochs
        self._metric, self._noun = task.metric, task.noun
        self._short = task.metric.short or task.metric.title
        self.active = active
        self._level = logging.INFO if visible else logging.DEBUG
        # disable=None: no bar where there is no terminal
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            desc=label,
            unit="step",
            dynamic_ncols=True,
            leave=False,
            disable=None if active and visible and bar else True,
        )
        self._writer = open_curves(logs, first_step) if active and logs is not None else None

    def say(self, text: str, *values: Any) -> None:
        """A line on the screen and in log.txt, from the leading process alone."""
        if self.active:
            LOGGER.log(self._level, text, *values)

    def steps(self, last_step: int, losses: list[float], rates: list[float]) -> None:
        """The losses and learning rates of the steps that end with `last_step` (counted from 1)."""
        if self._writer is not None:
            first = last_step - len(losses) + 1
            for step, (loss, rate) in enumerate(zip(losses, rates, strict=True), start=first):
                self._writer.add_scalar("train/loss", loss, step)
                self._writer.add_scalar("lr", rate, step)
        self._bar.update(len(losses))

    def now(self, epoch: int, loss: float, score: float) -> None:
        """Behind the bar: means over the running epoch so far."""
        if not self._bar.disable:
            text = f"epoch {epoch}/{self.epochs}, loss {loss:.3f}, {self._short} {self._metric.text(score)}"
            self._bar.set_postfix_str(text, refresh=False)

    def epoch(self, entry: Epoch, images_per_second: float) -> None:
        """One line and one point of each curve, from an entry of the history."""
        self.say(
            "Epoch %d/%d: train loss %.3f, train %s %s, val loss %.3f, val %s %s (%.1f s, %.0f %s/s)",
            entry.epoch,
            self.epochs,
            entry.train_loss,
            self._short,
            self._metric.text(entry.train_accuracy),
            entry.val_loss,
            self._short,
            self._metric.text(entry.val_accuracy),
            entry.seconds,
            images_per_second,
            self._noun,
        )
        if self._writer is not None:
            # against steps, as all curves are: what a killed run wrote too much is then purged from all of them
            self._writer.add_scalar(f"train/{self._metric.name}", entry.train_accuracy, entry.steps)
            self._writer.add_scalar("val/loss", entry.val_loss, entry.steps)
            self._writer.add_scalar(f"val/{self._metric.name}", entry.val_accuracy, entry.steps)

    def flush(self) -> None:
        """All points reach the disk: before a training state that builds on them."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """The bar goes, and the curves are written out."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()


def open_curves(folder: Path, first_step: int) -> "SummaryWriter":
    """TensorBoard's writer. Points of later steps than `first_step`, left by a killed run, are hidden from now on."""
    from torch.utils.tensorboard import SummaryWriter

    try:
        writer = SummaryWriter(str(folder), purge_step=first_step + 1, max_queue=1000, flush_secs=10)
        writer.flush()
    except OSError as error:
        raise disk_error(error, folder) from error
    return writer
