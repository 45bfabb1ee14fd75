"""MagnitudePruner and IterativeMagnitudePruner: the engine with its masks remembered, for your own loop."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.masks import check_masks, zero_pruned
from pruning_bootcamp.pruning.targets import find_targets
from pruning_bootcamp.pruning.weights.schedules import Exponential
from pruning_bootcamp.pruning.weights.unstructured import UnstructuredResult, prune_unstructured


class PruningRound(TypedDict):
    """One round of an IterativeMagnitudePruner; sparsities are shares of the target layers' weights."""

    iteration: int
    """from 1"""
    target_sparsity: float
    sparsity: float
    weights: int
    weights_pruned: int
    compression_ratio: float
    layers: dict[str, float]
    """weight name -> its sparsity"""
    perplexity_pruned: NotRequired[float]
    """this and what follows: where an IterativePruningTrainer retrained"""
    train_loss: NotRequired[list[float]]
    """the mean of each epoch"""
    perplexity: NotRequired[float]


class PruningSummary(TypedDict):
    """How far an IterativeMagnitudePruner is."""

    iterations_done: int
    num_iterations: int
    current_sparsity: float
    final_sparsity: float
    history: list[PruningRound]


class MagnitudePruner:
    """Prunes each layer by magnitude and keeps its masks, to be applied again after every training step.

    What decides, in this order: the `sparsity` of the call, `target_sparsity`, `threshold` (|w| < threshold goes).
    """

    def __init__(self, threshold: float | None = None, target_sparsity: float | None = None) -> None:
        self.threshold = threshold
        self.target_sparsity = target_sparsity
        # By module, not by name: a layer pruned alone and again as part of its model is the same layer.
        self._masks: dict[nn.Module, dict[str, Tensor]] = {}

    def prune_layer(self, layer: nn.Module, sparsity: float | None = None) -> UnstructuredResult:
        """Prune one layer (or all layers inside it) in place."""
        return self._prune(layer, (), sparsity)

    def prune_model(
        self,
        model: nn.Module,
        layer_names: Sequence[str] | None = None,
        sparsity: float | None = None,
        verbose: bool = False,
    ) -> UnstructuredResult:
        """Prune every layer that one of `layer_names` matches (all when None) in place; `verbose` prints each."""
        result = self._prune(model, layer_names or (), sparsity)
        if verbose:
            for layer in result.layers:
                print(f"{layer.name}: {layer.sparsity:.2%} of {layer.size} weights")
            print(f"in total: {result.sparsity:.2%}")
        return result

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """The keep masks of the model's pruned layers, by weight name."""
        return {
            f"{path}.{attribute}".lstrip("."): keep
            for path, module in model.named_modules()
            for attribute, keep in self._masks.get(module, {}).items()
        }

    def set_masks(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Take masks that were found before (`masks(model)`, saved); the weights obey at once."""
        check_masks(model, masks)
        for name, keep in masks.items():
            path, _, attribute = name.rpartition(".")
            self._masks.setdefault(model.get_submodule(path), {})[attribute] = keep.clone()
        if masks:
            self.apply_masks(model)

    def apply_masks(self, model: nn.Module) -> None:
        """Set all pruned weights of the model to exact zeros again (after an optimiser step)."""
        found = [module for module in model.modules() if module in self._masks]
        if not found:
            raise BootcampError("this pruner has pruned no layer of this model (a copy is another model): no mask.")
        for module in found:
            for attribute, keep in self._masks[module].items():
                zero_pruned(getattr(module, attribute), keep)

    def get_model_sparsity(self, model: nn.Module) -> dict[str, float]:
        """Share of exact zeros by weight name, of every convolution and linear layer."""
        return {name: float((weight == 0).float().mean()) for name, weight in find_targets(model).items()}

    def _prune(self, model: nn.Module, include: Sequence[str], sparsity: float | None) -> UnstructuredResult:
        choice: dict[str, Any]
        if (asked := sparsity if sparsity is not None else self.target_sparsity) is not None:
            choice = {"sparsity": asked}
        elif self.threshold is not None:
            choice = {"sparsity": None, "pattern": "threshold", "pattern_args": {"value": self.threshold}}
        else:
            raise BootcampError("MagnitudePruner: give a sparsity, or make it with target_sparsity or threshold.")
        result = prune_unstructured(model, **choice, include=include, previous=self.masks(model))
        self.set_masks(model, result.masks)
        return result


class IterativeMagnitudePruner:
    """Prunes a little more in each of `num_iterations` rounds: s_0 * (s_f / s_0)^(t / T), first s_0, last s_f."""

    def __init__(
        self,
        initial_sparsity: float = 0.2,
        final_sparsity: float = 0.8,
        num_iterations: int = 5,
        prune_layers: Sequence[str] | None = None,
    ) -> None:
        if num_iterations < 1:
            raise BootcampError(f"IterativeMagnitudePruner: num_iterations {num_iterations} is not at least 1.")
        self.num_iterations = num_iterations
        self.prune_layers = prune_layers
        self.history: list[PruningRound] = []
        self._pruner = MagnitudePruner()
        # One round alone goes straight to the end; otherwise T is the number of steps between the rounds.
        self._schedule = Exponential(0, max(num_iterations - 1, 1), initial_sparsity, final_sparsity)

    def sparsity_at(self, iteration: int) -> float:
        """The sparsity asked for in a round, counted from 0."""
        return self._schedule.sparsity_at_step(iteration if self.num_iterations > 1 else 1)

    def prune_step(self, model: nn.Module, verbose: bool = False) -> PruningRound:
        """The next round of pruning, in place. The dictionary it adds to `history`."""
        iteration = len(self.history)
        if iteration >= self.num_iterations:
            raise BootcampError(f"all {self.num_iterations} rounds of pruning are done. Make a new pruner to go on.")
        asked = self.sparsity_at(iteration)
        result = self._pruner.prune_model(model, self.prune_layers, asked, verbose)
        size = sum(layer.size for layer in result.layers)
        zeros = sum(layer.zeros for layer in result.layers)
        self.history.append(
            {
                "iteration": iteration + 1,
                "target_sparsity": asked,
                "sparsity": result.sparsity,
                "weights": size,
                "weights_pruned": zeros,
                "compression_ratio": size / max(size - zeros, 1),
                "layers": {layer.name: layer.sparsity for layer in result.layers},
            }
        )
        return self.history[-1]

    def train_step_with_mask(self, model: nn.Module) -> None:
        """Call after each optimiser step: what was pruned is exactly zero again."""
        self._pruner.apply_masks(model)

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """The keep masks of the model's pruned layers, by weight name."""
        return self._pruner.masks(model)

    def go_on(self, model: nn.Module, history: Sequence[PruningRound], masks: Mapping[str, Tensor]) -> None:
        """Stand where another pruner stood when its `history` and `masks(model)` were saved."""
        self.history = [entry.copy() for entry in history]
        self._pruner.set_masks(model, masks)

    def get_pruning_summary(self) -> PruningSummary:
        """How far it is: rounds done and planned, the sparsity reached, and every round's metrics."""
        return {
            "iterations_done": len(self.history),
            "num_iterations": self.num_iterations,
            "current_sparsity": self.history[-1]["sparsity"] if self.history else 0.0,
            "final_sparsity": self._schedule.final_sparsity,
            "history": self.history,
        }
