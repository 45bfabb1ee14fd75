"""What may happen between the steps of a training: masks that hold, penalties, and whatever a method adds."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.optimizer import Optimizer

from pruning_bootcamp.checkpoints.stored import Stored, table, tensors_in
from pruning_bootcamp.errors import BootcampError, unknown
from pruning_bootcamp.pruning.masks import zero_pruned
from pruning_bootcamp.training.records import Epoch


@dataclass
class StepState:
    """Where the training stands, for hooks. Under torchrun every process calls them, with the same weights."""

    model: nn.Module  # the network itself, neither compiled nor wrapped
    optimizer: Optimizer
    total_steps: int
    steps_per_epoch: int
    replace_masks: Callable[[Mapping[str, Tensor]], None]
    step: int = 0  # optimiser steps done
    epoch: int = 0  # epochs done
    masks: dict[str, Tensor] = field(default_factory=dict)  # True where a weight stays; change them by `set_masks`
    metrics: Epoch | None = None  # the last epoch's entry of the history

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """From here on these weights stay and all others of the named tensors are zero.

        A best epoch found with other masks belongs to another sparsity and no longer counts.
        """
        self.replace_masks(masks)


class Hook:
    """Override what is needed. `state_dict` holds tensors and plain values that an exact resume needs."""

    shows_progress = False
    """it tells the user how far the training is, so no bar is drawn"""

    def on_start(self, state: StepState) -> None:
        """Before the first step of this process; after `load_state_dict` when a training goes on."""

    def on_gradients(self, state: StepState) -> None:
        """The gradients are complete (unscaled, summed over the processes); before clipping and the optimiser."""

    def on_step_end(self, state: StepState) -> None:
        """The weights of step `state.step` are there."""

    def on_epoch_end(self, state: StepState) -> None:
        """The epoch was evaluated: `state.metrics`."""

    def state_dict(self) -> dict[str, Stored]:
        """What an exact resume needs: tensors and plain values, written with the training's state."""
        return {}

    def load_state_dict(self, saved: Mapping[str, Stored]) -> None:
        """What `state_dict` gave before the kill; called before `on_start`."""


class MaskHook(Hook):
    """Pruned weights are exactly zero after every step, whatever momentum, weight decay or mixed precision did."""

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], gradients_too: bool = False) -> None:
        """`gradients_too`: pruned weights count for nothing in the gradient norm either (needed for clipping)."""
        self.model = model
        self.gradients_too = gradients_too
        self.masks: dict[str, Tensor] = {}
        self._weights: list[Tensor] = []
        self._factors: list[Tensor] = []
        self.replace(masks)

    def replace(self, masks: Mapping[str, Tensor]) -> None:
        """Other masks from here on; the weights obey at once."""
        parameters = dict(self.model.named_parameters())
        problems = []
        for name, mask in masks.items():
            if name not in parameters:
                problems.append(f"masks: {unknown('parameter', name, parameters)}")
            elif mask.shape != parameters[name].shape:
                shapes = f"{tuple(mask.shape)}, and the weight is {tuple(parameters[name].shape)}"
                problems.append(f"masks: the mask of {name} is {shapes}.")
        if problems:
            raise BootcampError(*problems)
        self._weights = [parameters[name] for name in masks]
        self.masks = {name: mask.detach().bool().cpu().clone() for name, mask in masks.items()}
        # factors of the weights' own type and memory format: one kernel for all of them
        self._factors = [
            torch.empty_like(weight, requires_grad=False).copy_(mask)
            for weight, mask in zip(self._weights, self.masks.values(), strict=True)
        ]
        apply_masks_exactly(self.model, self.masks)

    def on_gradients(self, state: StepState) -> None:
        """With `gradients_too`, pruned weights' gradients are zero: the norm that clips sees the others alone."""
        if self.gradients_too and self._weights:
            pairs = [(w.grad, f) for w, f in zip(self._weights, self._factors, strict=True) if w.grad is not None]
            _multiply([gradient for gradient, _ in pairs], [factor for _, factor in pairs])

    @torch.no_grad()
    def on_step_end(self, state: StepState) -> None:
        """Pruned weights are put back to zero."""
        if self._weights:
            _multiply(self._weights, self._factors)

    def state_dict(self) -> dict[str, Stored]:
        """The keep masks of now."""
        return {"masks": self.masks}

    def load_state_dict(self, saved: Mapping[str, Stored]) -> None:
        """Takes over the masks, and zeroes by them."""
        self.replace(tensors_in(table(saved["masks"], "masks")))


def same_masks(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether both name the same tensors and keep the same weights, on whatever devices."""
    return one.keys() == other.keys() and all(torch.equal(one[name].bool().cpu(), other[name].cpu()) for name in one)


def _multiply(tensors: list[Tensor], factors: list[Tensor]) -> None:
    torch._foreach_mul_(tensors, factors)  # type: ignore[arg-type]  # the stub knows only numbers


def apply_masks_exactly(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Pruned weights become +0.0 (a product would keep the sign of a negative weight, and NaN)."""
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        zero_pruned(parameters[name], mask)


class ScaleSparsity(Hook):
    """L1 penalty on the batch-norm scales, as a subgradient (Network Slimming; Liu et al., 2017, eq. 1)."""

    def __init__(self, model: nn.Module, strength: float) -> None:
        self.strength = strength
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self._scales = [norm.weight for norm in norms if norm.weight is not None and norm.weight.requires_grad]
        if not self._scales:
            raise BootcampError("bn_l1: the network has no batch-norm scale to train. Set bn_l1=0.")

    def on_gradients(self, state: StepState) -> None:
        """Adds strength * sign(scale) to the gradients; a scale of 0 is left alone."""
        trained = [scale for scale in self._scales if scale.grad is not None]
        gradients = [scale.grad for scale in trained]
        torch._foreach_add_(gradients, torch._foreach_sign([s.detach() for s in trained]), alpha=self.strength)  # type: ignore[arg-type]


# Share of a training after which a penalty whose step is left to us has grown to its ceiling; then weights settle.
_GROWN_AFTER = 0.75


@dataclass(frozen=True)
class PenaltyGrowth:
    """How a penalty grows: by `step` each `every` optimiser steps, from the first one on, up to `ceiling`.

    `step` None: what reaches the ceiling in three quarters of the training.
    """

    step: float | None = None
    every: int = 10
    ceiling: float = 1.0

    def at(self, done: int, total: int) -> float:
        """The penalty when `done` of a training's `total` steps are done."""
        step = self.step
        if step is None:
            step = self.ceiling / max(1, math.ceil(_GROWN_AFTER * total / self.every))
        return min(self.ceiling, step * (done // self.every + 1))


class GrowingPenalty(Hook):
    """L2 penalty on some numbers of the weights, growing while it trains, as a gradient (GReg-1; Wang et al., 2021)."""

    def __init__(self, numbers: Mapping[str, Tensor], growth: PenaltyGrowth) -> None:
        """`numbers`: parameter -> True where it is penalised."""
        self.numbers, self.growth = numbers, growth
        self._weights: list[Tensor] = []
        self._factors: list[Tensor] = []

    def on_start(self, state: StepState) -> None:
        """Finds the weights, where they are now."""
        self._weights = [state.model.get_parameter(name) for name in self.numbers]
        # factors of the weights' own type and memory format, as masks have them
        self._factors = [
            torch.empty_like(weight, requires_grad=False).copy_(where)
            for weight, where in zip(self._weights, self.numbers.values(), strict=True)
        ]

    def on_gradients(self, state: StepState) -> None:
        """Adds penalty * weight to the gradients of those numbers."""
        pairs = zip(self._weights, self._factors, strict=True)
        trained = [(weight.detach(), factor, weight.grad) for weight, factor in pairs if weight.grad is not None]
        if trained:
            weights, factors, gradients = map(list, zip(*trained, strict=True))
            penalty = self.growth.at(state.step, state.total_steps)
            torch._foreach_add_(gradients, torch._foreach_mul(weights, factors), alpha=penalty)  # type: ignore[arg-type]
