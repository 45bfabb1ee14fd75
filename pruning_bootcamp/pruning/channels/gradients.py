"""How the loss moves with whole channels: with the weights that make them, and with gates where they are read."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.pruning.graph import Group, Member, filters
from pruning_bootcamp.pruning.stats import Batches, batch_gradients, losses_of, recurrent_gradients
from pruning_bootcamp.pruning.stats.base import check_totals, pairs_in
from pruning_bootcamp.runtime import preserved_rng
from pruning_bootcamp.tasks import Task
from pruning_bootcamp.tools.modes import device_of_model, evaluation_mode

Measure = Callable[[nn.Module, Sequence[Group], Batches, Task], dict[str, Tensor]]


def filter_gradients(model: nn.Module, groups: Sequence[Group], batches: Batches, task: Task) -> dict[str, Tensor]:
    """Group -> [units]: (sum of w * d loss / d w)^2 over weights and biases that make the unit, mean over the batches.

    The loss is the batch's mean; a batch counts by its samples.
    """
    targets = {
        f"{member.path}.{name}": member.module.get_parameter(name)
        for group in groups
        for member in group.members
        if member.writes
        for name in _own(member)
    }
    sums = {group.name: torch.zeros(group.width, dtype=torch.double) for group in groups}
    seen = 0
    with _measuring(model):
        for images, labels in pairs_in(batches, device_of_model(model)):
            found = batch_gradients(model, targets, images, labels, task)
            check_totals(model, images, found, "gradients")
            for group in groups:
                sums[group.name] += len(images) * _along_filters(group, found).square()
            seen += len(images)
    return {name: total / seen for name, total in sums.items()}


def _own(member: Member) -> list[str]:
    return ["weight"] if member.module.bias is None else ["weight", "bias"]


def _along_filters(group: Group, gradients: Mapping[str, Tensor]) -> Tensor:
    """[units]: the sum of weight times gradient over all that makes a unit."""
    total = torch.zeros(group.width, dtype=torch.double)
    for member in group.members:
        if not member.writes:
            continue
        for name in _own(member):
            moved = member.module.get_parameter(name).detach() * gradients[f"{member.path}.{name}"]
            each = (filters(member, moved).sum(1) if name == "weight" else moved).cpu().double()
            total.index_add_(0, member.unit, each[member.index])
    return total


def gate_gradients(model: nn.Module, groups: Sequence[Group], batches: Batches, task: Task) -> dict[str, Tensor]:
    """Group -> [units]: (d loss / d gate)^2, mean over the samples; the gate scales the unit wherever it is read.

    Left out are groups with a reader that does not run as a layer, or whose inputs do not come sample by sample.
    """
    gates = _Gates([group for group in groups if group.of_kind("input")])
    sums = {group.name: torch.zeros(group.width, dtype=torch.double) for group in gates.groups}
    seen = 0
    with _measuring(model), torch.enable_grad(), gates.watching(model):
        for images, labels in pairs_in(batches, device_of_model(model)):
            opened = gates.open(len(images), images.device)
            losses = losses_of(model, images, labels, task)
            moved = torch.autograd.grad(losses.sum(), opened, allow_unused=True, materialize_grads=True)
            squares = dict(zip(sums, (each.square().sum(0).cpu().double() for each in moved), strict=True))
            check_totals(model, images, squares, "gradients")
            for name, square in squares.items():
                sums[name] += square
            seen += len(images)
    return {name: total / seen for name, total in sums.items() if name not in gates.unknown()}


class _Gates:
    """One gate a sample and unit, all open, on whatever a group's readers are given."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self._readers: dict[str, list[tuple[str, Member]]] = {}
        for group in groups:
            for member in group.of_kind("input"):
                self._readers.setdefault(member.path, []).append((group.name, member))
        self._gates: dict[str, Tensor] = {}
        self._samples = 0
        self._ran: set[str] = set()
        self._otherwise: set[str] = set()

    def open(self, samples: int, device: torch.device) -> list[Tensor]:
        """New gates for a batch, [samples, units], in the order of the groups."""
        self._samples = samples
        self._gates = {
            group.name: torch.ones(samples, group.width, device=device, requires_grad=True) for group in self.groups
        }
        return list(self._gates.values())

    def unknown(self) -> set[str]:
        """Groups with a reader that was not gated."""
        bad = self._otherwise | (self._readers.keys() - self._ran)
        return {group for path in bad for group, _ in self._readers[path]}

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Inside, the readers' inputs go through the gates."""

        def watch(path: str) -> torch.utils.hooks.RemovableHandle:
            def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
                x = args[0] if args else kwargs["input"]
                gated = x * self._factor(path, layer, x) if self._fits(path, layer, x) else x
                return ((gated, *args[1:]), kwargs) if args else (args, kwargs | {"input": gated})

            return model.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True)

        handles = [watch(path) for path in self._readers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _fits(self, path: str, layer: nn.Module, x: Tensor) -> bool:
        size = self._readers[path][0][1].size
        fits = x.ndim > 1 and len(x) == self._samples and x.shape[_channels(layer)] == size
        (self._ran if fits else self._otherwise).add(path)
        return fits

    def _factor(self, path: str, layer: nn.Module, x: Tensor) -> Tensor:
        """[samples, ..., channels, ...]: each channel's gate, in the shape that goes with the inputs."""
        factor = x.new_ones(self._samples, x.shape[_channels(layer)])
        for group, member in self._readers[path]:
            gate = self._gates[group][:, member.unit.to(x.device)].to(x.dtype)
            factor = factor.index_copy(1, member.index.to(x.device), gate)
        shape = [1] * x.ndim
        shape[0], shape[_channels(layer)] = factor.shape
        return factor.view(shape)


def _channels(layer: nn.Module) -> int:
    return -1 if isinstance(layer, nn.Linear) else 1


@contextlib.contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    with evaluation_mode(model), preserved_rng(), recurrent_gradients(model):
        yield


GRADIENTS: dict[str, Measure] = {"filter_gradient": filter_gradients, "gate_gradient": gate_gradients}
"""What a channel score can need of the loss: its name, and how it is measured on (images, labels)"""
