"""What it costs to take each weight away when the others of its output are fitted again: second order, both factors."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.layers.bias_correction import BiasCorrection, find_bias_corrections
from pruning_bootcamp.pruning.layers.im2col import (
    draw_positions,
    im2col,
    output_rows,
    product_layers,
    unknown_product,
    weight_rows,
)
from pruning_bootcamp.pruning.layers.least_squares import removal_costs
from pruning_bootcamp.pruning.stats.base import (
    STATISTICS,
    Batches,
    check_totals,
    device_of,
    images_in,
)
from pruning_bootcamp.pruning.stats.gradients import all_trainable
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Task

_DAMPING = 1e-3
# Shares of a layer's weights that are gone after each round; the next round's costs are of what is left.
_ROUNDS = (0.0, 0.15, 0.3, 0.42, 0.52, 0.6, 0.68, 0.75, 0.8, 0.85, 0.89, 0.92, 0.95, 0.97, 0.985)
# Multiply-accumulates of the factorisations of one layer and round. Longer rows are cut into blocks of columns.
_WORK = 3e11


@STATISTICS.register("removal_cost", labels=False, task=True, unknown=unknown_product)
def removal_cost(
    model: nn.Module, targets: Mapping[str, nn.Parameter], batches: Batches, task: Task = IMAGE_CLASSIFICATION
) -> dict[str, Tensor]:
    """How much the loss rises when the weight goes, taken away in an order in which each next one is the cheapest.

    The Hessian of a layer is taken as the Kronecker product of its inputs' covariance and its outputs' Fisher
    information (Martens & Grosse, 2015; of the latter the diagonal), labels drawn from the model's own predictions.
    Weights go in rounds, those with the lowest w_q^2 / (2 [H_S^-1]_qq) first (Hassibi & Stork, 1993), and after each
    round the rest of each row is fitted again (as Frantar & Alistarh, 2022, do one by one). The value is the highest
    cost seen until the weight went: taking the lowest values of one layer, or of all, follows that order.
    """
    factors = _Factors(product_layers(model, targets, "the removal cost"))
    device, weights = device_of(targets), list(targets.values())
    images_seen = 0
    with all_trainable(weights), torch.enable_grad():
        for images in images_in(batches, device):
            if not images_seen:
                factors.corrections = find_bias_corrections(model, factors.layers, images[:2])
            with factors.watching():
                scores = task.class_scores(task.outputs(model(images))).flatten(0, 1).float()
            check_totals(model, images, {next(iter(targets)): scores.detach()}, "outputs")
            labels = torch.multinomial(scores.detach().softmax(1).cpu(), 1)[:, 0].to(device)
            # a sum, so that each image's gradient is its own
            torch.autograd.grad(F.cross_entropy(scores, labels, reduction="sum"), weights, allow_unused=True)
            check_totals(model, images, factors.products, "products of inputs")
            check_totals(model, images, factors.fisher, "squared gradients")
            images_seen += len(images)
    if missing := [name for name in targets if name not in factors.products]:
        raise BootcampError(
            *(f"{name}: the layer never ran on the calibration images. Exclude it." for name in missing)
        )
    return {name: factors.costs(name, images_seen) for name in targets}


class _Factors:
    """Sums over the images: products of each layer's input columns, and squared gradients of its outputs."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.layers = layers
        self.corrections: Mapping[str, BiasCorrection] = {}
        self.fisher: dict[str, Tensor] = {}  # [groups, out / groups]
        self.products: dict[str, Tensor] = {}  # [groups, columns, columns]
        self._sums: dict[str, Tensor] = {}
        self._samples: dict[str, int] = {}
        self._generator = Generator().manual_seed(0)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, what the model runs on and the gradients that come back are taken in."""

        def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
            def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
                if not output.requires_grad:
                    raise BootcampError(
                        f"{name}: the layer runs without gradients (in torch.no_grad?), so its removal costs can't be "
                        "measured. Exclude it, or choose another score."
                    )
                self._add_inputs(name, args[0] if args else kwargs["input"], output.detach())
                # a hook of the tensor, which also holds when an activation overwrites it
                output.register_hook(functools.partial(self._add_gradient, name))

            return layer.register_forward_hook(hook, with_kwargs=True)

        handles = [watch(name, layer) for name, layer in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def _add_inputs(self, name: str, x: Tensor, y: Tensor) -> None:
        layer = self.layers[name]
        columns = im2col(layer, x, y, draw_positions(layer, y, self._generator))
        products, sums = columns.transpose(1, 2) @ columns, columns.sum(1)
        if name in self.products:
            products, sums = products + self.products[name], sums + self._sums[name]
        self.products[name], self._sums[name] = products, sums
        self._samples[name] = self._samples.get(name, 0) + columns.shape[1]

    def _add_gradient(self, name: str, gradient: Tensor) -> None:
        squares = output_rows(self.layers[name], gradient).square().sum(1)
        self.fisher[name] = self.fisher[name] + squares if name in self.fisher else squares

    @torch.no_grad()
    def costs(self, name: str, images: int) -> Tensor:
        """Of one layer, in its weight's shape; the layer's sums are given up."""
        layer, samples = self.layers[name], self._samples[name]
        grams = self.products.pop(name) / samples
        if name in self.corrections:  # what the inputs' mean does to the outputs is taken up: only their spread counts
            mean = self._sums[name] / samples
            grams -= mean[:, :, None] * mean[:, None, :]
        assert isinstance(layer.weight, Tensor)
        rows = weight_rows(layer, layer.weight.detach()).float()
        # of a layer whose outputs reach nothing no weight costs anything
        fisher = self.fisher.get(name, torch.zeros_like(rows[..., 0])) / images
        return torch.stack([_eliminate(*parts) for parts in zip(rows, grams, fisher, strict=True)]).reshape(
            layer.weight.shape
        )


def _eliminate(rows: Tensor, gram: Tensor, fisher: Tensor) -> Tensor:
    """[r, n]: the cost at which each weight of these rows goes, when the cheapest go first."""
    size = _block_size(rows)
    blocks = [slice(start, start + size) for start in range(0, rows.shape[1], size)]
    keep = torch.ones_like(rows, dtype=torch.bool)
    values, level = torch.zeros_like(rows), rows.new_zeros(())
    costs = torch.empty_like(rows)
    for gone in (*_ROUNDS[1:], 1.0):
        for block in blocks:
            costs[:, block] = removal_costs(gram[block, block], rows[:, block], keep[:, block], _DAMPING)[0]
        current = (costs * fisher[:, None]).masked_fill(~keep, -1.0)
        count = round(gone * rows.numel())
        lowest = current.flatten().argsort(stable=True)[:count]
        leaving = torch.zeros_like(keep).flatten().index_fill_(0, lowest, True).reshape(keep.shape) & keep
        if bool(leaving.any()):
            # what goes now is worth more than all that went before, were it by the next number there is
            above = torch.nextafter(level, level + 1) if level > 0 else level
            values[leaving] = current[leaving].clamp_min(above)
            level = values[leaving].max()
            keep &= ~leaving
    return values


def _block_size(rows: Tensor) -> int:
    """Columns that are treated together: all, unless factorising every row's matrix would take too long."""
    count, columns = rows.shape
    most = int((_WORK / (count * columns)) ** 0.5)  # r rows * (n / b) blocks * b^3
    return columns if columns <= most else max(16, most)
