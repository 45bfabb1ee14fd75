"""What happens to the weights that stay, once it is decided how many go in each layer."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.layers.bias_correction import find_bias_corrections
from pruning_bootcamp.pruning.layers.im2col import draw_positions, im2col, output_rows, product_layers, weight_rows
from pruning_bootcamp.pruning.layers.layerwise import Visit, calibrate_layerwise
from pruning_bootcamp.pruning.layers.least_squares import fit_rows
from pruning_bootcamp.pruning.masks import Masks, apply_masks
from pruning_bootcamp.pruning.selection import keep_highest
from pruning_bootcamp.pruning.solvers.sweep import ColumnBlock, kernel_major, parts_of, sweep
from pruning_bootcamp.registry import Registry


@dataclass(frozen=True)
class LayerwiseProblem:
    """The layer-wise problem that a solver is given. It changes `model` in place."""

    model: nn.Module
    """with the weights as they were; the engine writes the zeros afterwards"""
    masks: Mapping[str, Tensor]
    """name -> keep mask: what goes by the scores"""
    images: Sequence[Tensor] = ()
    """calibration batches, without labels; empty for a solver that needs none"""
    reference: nn.Module | None = None
    """the network whose outputs are to be followed: the dense one"""
    choose: Callable[[Tensor, int, Tensor | None], Tensor] = lambda score, count, earlier: keep_highest(score, count)
    """(score [out, in, *kernel], count, mask from before) -> keep mask in the pattern, with earlier zeros kept"""
    fits: Callable[[tuple[int, ...]], bool] = lambda shape: True
    """whether the pattern fits a part of a layer of this shape [out, in, *kernel]"""
    unit: int = 1
    """how many weights go together"""
    gone: Callable[[Tensor], int] = lambda keep: keep.numel() - int(torch.count_nonzero(keep))
    """how many zeros of a mask [out, in, *kernel] are in units of which nothing is left"""
    earlier: Mapping[str, Tensor] = field(default_factory=dict)
    """keep masks from before: what they prune stays pruned"""
    notes: list[str] = field(default_factory=list)
    """what a user should know, such as a damping that had to be raised"""


@contextlib.contextmanager
def put_back_on_error(layerwise: LayerwiseProblem) -> Iterator[None]:
    """Inside, a solver may change weights, biases and running means; when it fails they are as in the reference."""
    try:
        yield
    except BaseException:
        if layerwise.reference is not None:
            now = [*layerwise.model.parameters(), *layerwise.model.buffers()]
            before = [*layerwise.reference.parameters(), *layerwise.reference.buffers()]
            with torch.no_grad():
                for changed, unchanged in zip(now, before, strict=True):
                    changed.copy_(unchanged)
        raise


def _not_masks(masks: Any, layerwise: LayerwiseProblem) -> str | None:
    promised = "a solver gives a torch.bool mask for each of layerwise.masks, with as many zeros"
    if not isinstance(masks, Mapping) or masks.keys() != layerwise.masks.keys():
        return f"{type(masks).__name__} of other names, and {promised}"
    for name, keep in masks.items():
        asked = layerwise.masks[name]
        if not isinstance(keep, Tensor) or keep.dtype is not torch.bool or keep.shape != asked.shape:
            return f"no mask for {name}, and {promised}"
        if (zeros := keep.numel() - int(keep.sum())) != asked.numel() - int(asked.sum()):
            return f"{zeros} zeros in {name}, not {asked.numel() - int(asked.sum())}, and {promised}"
        if not layerwise.model.get_parameter(name).isfinite().all():
            return f"{name} values that are NaN or Inf"
    return None


# f(layerwise, *, ...) -> masks with as many zeros in each layer as layerwise.masks, in the pattern. The engine writes
# the zeros.
# Facts:
#   images=True    it needs calibration images, and changes weights: on an error the engine puts the model back
#   chooses=True   which weights go it decides itself; of the scores only each layer's count matters
SOLVERS: Registry = Registry("solver", plural="solvers", takes=("layerwise",), contract=_not_masks)


def _invalid(*, damping: float = 0.0, block: int = 1, refit: bool = False) -> str | None:
    if not 0 <= damping < float("inf"):
        return f"a damping of {damping} is no share of the mean diagonal: 0 or more, such as 0.01."
    return None if block >= 1 else f"a block of {block} columns has no weights in it."


@SOLVERS.register("none")
def none(layerwise: LayerwiseProblem) -> Masks:
    """The surviving weights stay as they are."""
    return dict(layerwise.masks)


@SOLVERS.register("reconstruct", images=True, invalid=_invalid)
def reconstruct(layerwise: LayerwiseProblem, *, damping: float = 1e-3) -> Masks:
    """Least squares, layer after layer: outputs as in the dense network, from the inputs of the pruned one.

    The weights that stay solve their row's normal equations (He et al., 2017, eq. 5, for weights instead of channels);
    a constant that is left over goes into the bias, or the mean of the batch norm behind. Earlier layers are pruned and
    fitted by then, so later ones make up for what those could not.
    """
    walk = _Walk(layerwise)
    apply_masks(layerwise.model, layerwise.masks)
    walk.run(lambda name, moments: walk.fit(name, moments, layerwise.masks[name], damping))
    return dict(layerwise.masks)


@SOLVERS.register("sparsegpt", images=True, chooses=True, invalid=_invalid)
def sparsegpt(layerwise: LayerwiseProblem, *, damping: float = 0.01, block: int = 128, refit: bool = False) -> Masks:
    """Column by column with optimal-brain-surgeon updates, weights chosen block by block (Frantar & Alistarh, 2023).

    Each layer loses as many weights as allocated; which ones, is decided from the inputs that the pruned layers before
    give, in blocks of about `block` columns (their algorithm 1). `refit` then solves for what stays once more, exactly
    and against the dense network's outputs, as `reconstruct` does.
    """
    walk, masks = _Walk(layerwise), dict(layerwise.masks)

    def prune(name: str, moments: _Moments) -> None:
        masks[name] = walk.sweep(name, moments, damping, block)
        if refit:
            walk.fit(name, moments, masks[name], damping=1e-3)

    walk.run(prune)
    return masks


@dataclass
class _Moments:
    """Means over all samples, for each group of a layer: of its inputs x (columns) and the wanted outputs y (rows)."""

    xx: Tensor
    yx: Tensor
    x: Tensor
    y: Tensor

    @staticmethod
    def of(layer: nn.Module, visits: Sequence[Visit], generator: Generator) -> "_Moments":
        sums: tuple[Tensor, ...] = ()
        samples = 0
        for visit in visits:
            positions = draw_positions(layer, visit.wanted, generator)
            x = im2col(layer, visit.inputs, visit.wanted, positions)
            y = output_rows(layer, visit.wanted, positions)
            parts = x.transpose(1, 2) @ x, y.transpose(1, 2) @ x, x.sum(1), y.sum(1)
            sums = tuple(a + b for a, b in zip(sums, parts, strict=True)) if sums else parts
            samples += x.shape[1]
        xx, yx, x, y = (total / samples for total in sums)
        return _Moments(xx, yx, x, y)


class _Walk:
    """From layer to layer, each with the moments of its inputs and of the dense network's outputs."""

    def __init__(self, layerwise: LayerwiseProblem) -> None:
        assert layerwise.reference is not None
        assert layerwise.images
        self.layerwise, self.reference = layerwise, layerwise.reference
        self.layers = product_layers(layerwise.model, layerwise.masks, "a solver")
        self.corrections = find_bias_corrections(layerwise.model, self.layers, layerwise.images[0][:2])
        self.generator = Generator().manual_seed(0)

    def run(self, change: Callable[[str, _Moments], None]) -> None:
        # the reference of a compiled network is a copy of the one inside it
        names = {name.rpartition(".")[0].removeprefix("_orig_mod."): name for name in self.layers}
        model = getattr(self.layerwise.model, "_orig_mod", self.layerwise.model)

        def visit(path: str, visits: list[Visit]) -> None:
            moments = _Moments.of(self.layers[names[path]], visits, self.generator)
            if not all(bool(torch.isfinite(part).all()) for part in (moments.xx, moments.yx)):
                raise BootcampError(f"{names[path]}: its inputs or outputs on the calibration images are NaN or Inf.")
            if not bool(moments.xx.any()):
                self.layerwise.notes.append(f"{names[path]}: its inputs are all zero on the calibration images")
            change(names[path], moments)

        never = calibrate_layerwise(model, self.reference, list(names), self.layerwise.images, visit)
        if never:
            raise BootcampError(
                *(f"{names[path]}: the layer never ran on the calibration images. Exclude it." for path in never)
            )

    def fit(self, name: str, moments: _Moments, keep: Tensor, damping: float) -> None:
        """The layer's weights on `keep`, and what takes up a constant, fitted to the wanted outputs."""
        weight = self._weight(name)
        rows, kept = weight_rows(self.layers[name], weight).float(), self._rows(name, keep)
        fitted, constants, used = torch.zeros_like(rows), torch.zeros_like(rows[..., 0]), damping
        for group in range(len(rows)):
            xx, yx, x, y = moments.xx[group], moments.yx[group], moments.x[group], moments.y[group]
            if name in self.corrections:  # the constant, eliminated: covariances in place of mean products
                xx, yx = xx - torch.outer(x, x), yx - torch.outer(y, x)
            fitted[group], needed = fit_rows(xx, yx, kept[group], damping, rows[group] * kept[group])
            constants[group], used = y - fitted[group] @ x, max(used, needed)
        weight.copy_(fitted.reshape(weight.shape))
        if name in self.corrections:
            self.corrections[name].set(constants.flatten())
        self._say_damping(name, damping, used)

    def sweep(self, name: str, moments: _Moments, damping: float, block: int) -> Tensor:
        """SparseGPT on one layer, group by group; the mask that it came to."""
        weight, layerwise = self._weight(name), self.layerwise
        rows, kept = weight_rows(self.layers[name], weight).float(), self._rows(name, layerwise.masks[name]).clone()
        before = self._rows(name, layerwise.earlier[name]) if name in layerwise.earlier else None
        channels, positions = weight.shape[1], weight[0, 0].numel()
        order = kernel_major(channels, positions).to(weight.device)
        parts = parts_of(channels, positions, block, lambda some: layerwise.fits((rows.shape[1], some, positions)))
        used, as_scored = damping, False
        for group in range(len(rows)):
            matrix, gram = rows[group][:, order], moments.xx[group][order][:, order]
            earlier = None if before is None else before[group][:, order]
            chooser = _Chooser(layerwise, parts, kept[group][:, order], earlier)
            as_scored |= chooser.as_scored
            chosen, needed = sweep(matrix, gram, damping, parts, chooser)
            rows[group][:, order], kept[group][:, order] = matrix, chosen
            used = max(used, needed)
        weight.copy_(rows.reshape(weight.shape))
        self._say_damping(name, damping, used)
        if as_scored:
            layerwise.notes.append(
                f"{name}: the pattern does not fit one group of it, so the mask stays as it was scored"
            )
        return kept.reshape(weight.shape)

    def _weight(self, name: str) -> Tensor:
        weight = self.layers[name].weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    def _rows(self, name: str, mask: Tensor) -> Tensor:
        return weight_rows(self.layers[name], mask).to(self._weight(name).device)

    def _say_damping(self, name: str, asked: float, used: float) -> None:
        if used > asked:
            self.layerwise.notes.append(
                f"{name}: damping raised from {asked:g} to {used:g}, its inputs depend on each other"
            )


class _Chooser:
    """Which weights of each part go: of all that must, as near as can be to the part's share."""

    def __init__(
        self, layerwise: LayerwiseProblem, parts: Sequence[ColumnBlock], keep: Tensor, earlier: Tensor | None
    ) -> None:
        self.layerwise, self.keep, self.earlier = layerwise, keep, earlier
        self.as_scored = not all(layerwise.fits((len(keep), part.channels, part.positions)) for part in parts)
        if self.as_scored:
            return
        self._sizes = {part.columns.start: len(keep) * part.channels * part.positions for part in parts}
        self._gone = {part.columns.start: self._gone_in(part, earlier) for part in parts}
        self._left = sum(self._gone_in(part, keep) for part in parts)

    def __call__(self, part: ColumnBlock, score: Tensor) -> Tensor:
        if self.as_scored:
            return self.keep[:, part.columns]
        start, unit = part.columns.start, self.layerwise.unit
        size, gone = self._sizes.pop(start), self._gone.pop(start)
        later, gone_later = sum(self._sizes.values()), sum(self._gone.values())
        # at least what went before, here and in later parts, and never more than there is
        count = unit * round(self._left * size / (size + later) / unit)
        count = max(gone, self._left - later, min(count, size, self._left - gone_later))
        earlier = None if self.earlier is None else part.as_weight(self.earlier[:, part.columns])
        kept = part.as_columns(self.layerwise.choose(part.as_weight(score), count, earlier))
        self._left -= count
        return kept

    def _gone_in(self, part: ColumnBlock, keep: Tensor | None) -> int:
        return 0 if keep is None else self.layerwise.gone(part.as_weight(keep[:, part.columns]))
