"""What a task says: which of a network's outputs count, what they are compared with, and which way is better."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.results import Metric
from pruning_bootcamp.tools.inputs import Inputs
from pruning_bootcamp.tools.modes import evaluation_mode


class Task(abc.ABC):
    """What is asked of a network. A batch is (inputs, targets), a tensor each with a row a sample.

    A sample counts as one, however many pixels or tokens it has. Nothing here keeps anything between two calls.
    """

    metric: Metric
    noun = "samples"
    """what the samples are called where people read of them"""
    hub_type = "other"
    """the task's name on the Hugging Face Hub, for model cards"""

    def inputs(self, shape: tuple[int, ...], dtype: torch.dtype, classes: int) -> Inputs:
        """What one input looks like, of data of this shape and type; whole numbers are tokens, of `classes` kinds."""
        return Inputs(shape, None if dtype.is_floating_point else classes)

    def outputs(self, given: Any) -> Tensor:
        """The tensor that counts, of whatever the network gives. Raises BootcampError where there is none."""
        return main_tensor(given)

    def misfit(self, outputs: Tensor, classes: int) -> str | None:
        """Why such outputs can't be judged on data of so many classes; None where they can."""
        return None

    def mismatch(self, outputs: Tensor, targets: Tensor) -> str | None:
        """Why these targets can't be compared with these outputs, by their shapes and values; None where they can."""
        return None

    def describe(self, classes: Sequence[str]) -> str:
        """What an output is, as a model card says it."""
        return f"as {type(self).__name__} reads it"

    @abc.abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """[n]: what training makes small, for each sample."""

    @abc.abstractmethod
    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """[k]: what the score is made of, as sums that add up over batches and processes."""

    @abc.abstractmethod
    def score(self, sums: Sequence[float], samples: int) -> float:
        """The metric of the added-up `measure`s of so many samples."""

    @abc.abstractmethod
    def distance(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """How far the outputs are from a teacher's, with gradient, summed over the samples."""

    @abc.abstractmethod
    def decisions(self, outputs: Tensor) -> Tensor:
        """What the outputs decide, in the shape and type of targets: targets for a network without labels."""

    def class_scores(self, outputs: Tensor) -> Tensor:
        """[n, places, classes]: logarithms of class probabilities but for a constant, for the Fisher information."""
        raise BootcampError(
            f"{type(self).__name__} gives no class probabilities, so a Fisher information can't be had."
        )

    @abc.abstractmethod
    def agreement(self, outputs: Tensor, wanted: Tensor) -> tuple[float, float]:
        """Samples decided as `wanted` (outputs of another network) decides them, and the divergence from it: two sums.

        Of a sample with many places the share that is decided alike, and the mean divergence. What is no number agrees
        with nothing.
        """


class _OneOutput(nn.Module):
    """Of a network that gives several outputs, the one that counts."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, inputs: Tensor) -> Tensor:
        return self.task.outputs(self.network(inputs))


def with_one_output(model: nn.Module, sample: Tensor, task: Task) -> nn.Module:
    """The model itself where it gives a tensor, else with the one output that the task looks at.

    It runs on the sample once. BootcampError when there is no such output.
    """
    with evaluation_mode(model), torch.inference_mode():
        output = model(sample)
    if isinstance(output, Tensor):
        return model
    task.outputs(output)  # raises where there is none
    return _OneOutput(model, task).eval()


def main_tensor(given: Any) -> Tensor:
    """The network's main output: itself, its `logits`, the entry `logits` or `out` of a table, the first of several."""
    found = getattr(given, "logits", given)
    if isinstance(found, Mapping):
        name = next((name for name in ("logits", "out") if name in found), next(iter(found), None))
        found = found.get(name)
    elif isinstance(found, tuple | list) and found:
        found = found[0]
    if isinstance(found, Tensor):
        return found
    inner = f" of {listed(map(str, given))}" if isinstance(given, Mapping) else ""
    raise BootcampError(f"model: gives {type(given).__name__}{inner}, and the task finds no tensor in it to judge.")
