"""Quantisation-aware training: the network learns with weights and inputs of 8 bits (Jacob et al., 2018)."""

import contextlib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pruning_bootcamp.checkpoints.stored import Stored, table, tensor
from pruning_bootcamp.errors import BootcampError, listed, unknown
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.masks import apply_masks
from pruning_bootcamp.pruning.targets import matches
from pruning_bootcamp.schema import coerce
from pruning_bootcamp.tools.modes import evaluation_mode
from pruning_bootcamp.training.hooks import Hook, StepState
from pruning_bootcamp.training.input_range import DECAY, InputRange
from pruning_bootcamp.training.rounding import fake_quantize_weight, round_in_place

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_EXCLUDED = "excluded by"
QuantizableLayer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


@contextlib.contextmanager
def quantization_aware(model: nn.Module, *, exclude: Sequence[str] = ()) -> Iterator["QuantizationAware"]:
    """Inside, every Conv1d/2d/3d and Linear computes with weight and input rounded to 8 bits; afterwards as before.

    Weights: per output channel, symmetric, -127..127 times max|w| / 127, so zeros stay exact zeros. Inputs: per layer,
    256 levels from the smallest to the largest value, both moving averages over the training batches, fixed in
    evaluation; 0 is one of the levels. Gradients pass the rounding as if it were not there (straight-through; Bengio et
    al., 2013), except for inputs outside the range. It is what onnxruntime's static quantisation with per-channel int8
    weights computes.

    Names, parameters, state_dict and classes stay as they are, so masks, hooks and checkpoints fit. Give what this
    yields to `fit(..., hooks=[quantized])`: a killed training then goes on with its ranges. Layers that are not
    quantised are in `.left_out` with the reason; `exclude` takes names as in `find_targets`. A copy made inside is
    quantised too, for good, and goes by the model's ranges until it is trained itself: copy a teacher before.
    """
    layers, left_out = choose_layers(model, exclude)
    quantized = QuantizationAware(model, layers, left_out)
    LOGGER.info("Quantisation-aware: weights and inputs of %d layers in 8 bits", len(layers))
    for name, reason in left_out.items():
        LOGGER.info("  left out %s: %s", name, reason)
    with _attached(layers, quantized._ranges):
        yield quantized


@contextlib.contextmanager
def quantized_evaluation(model: nn.Module, ranges: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the model is in eval mode and computes in 8 bits in the layers that `ranges` (layer -> [smallest,
    largest] input, as in `QuantizationAware.ranges`) names, as it did when they were taken."""
    layers, _ = choose_layers(model, ())
    if problems := [f"ranges: {unknown('layer', path, layers)}" for path in ranges if path not in layers]:
        raise BootcampError(*problems)
    quantized = QuantizationAware(model, {path: layers[path] for path in ranges}, {})
    quantized.load_ranges(ranges)
    with _attached(quantized.layers, quantized._ranges), evaluation_mode(model):
        yield


@torch.no_grad()
def round_weights(
    model: nn.Module, masks: Mapping[str, Tensor] | None = None, exclude: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Put the weights that `quantization_aware` would quantise on their int8 grid, in place; name -> channels' scales.

    Each weight is then exactly an integer in -127..127 times its channel's scale, which is the channel's max|w| / 127:
    quantising them again changes no bit. What `masks` (True where it stays) prune is zero first.
    """
    layers, _ = choose_layers(model, exclude)
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    problems, chosen = [], {}
    for path, layer in layers.items():
        name = parameters.get(id(layer.weight))
        if name is None:
            problems.append(f"{_weight_name(path)}: is computed from other parameters. Make it plain first.")
        elif layer.weight.dtype not in (torch.float32, torch.float64):
            problems.append(f"{name}: {layer.weight.dtype} can't hold int8 times a scale exactly. Use model.float().")
        elif not bool(layer.weight.isfinite().all()):
            problems.append(f"{name}: holds NaN or infinity.")
        else:
            chosen[name] = layer.weight
    if problems:
        raise BootcampError(*problems, where="round_weights")
    if masks:
        apply_masks(model, masks)
    return {name: round_in_place(weight) for name, weight in chosen.items()}


@dataclass(frozen=True)
class _Ranges:
    """Of layers' inputs, in one tensor: a file of hundreds of small ones is slow."""

    layers: list[str]
    values: Tensor
    """[layers, 2]"""
    batches: list[int]
    """how many each layer has seen"""


def _ranges_in(stored: Stored) -> _Ranges:
    kept = table(stored, "the ranges")
    layers, batches = coerce(kept["layers"], list[str]), coerce(kept["batches"], list[int])
    return _Ranges(layers, tensor(kept["values"], "the ranges' values"), batches)


class QuantizationAware(Hook):
    """The quantised layers of a network and the ranges of their inputs, kept over a kill and agreed on by processes."""

    def __init__(self, model: nn.Module, layers: Mapping[str, QuantizableLayer], left_out: Mapping[str, str]) -> None:
        self.model = model
        self.layers = dict(layers)
        """path -> layer"""
        self.left_out = dict(left_out)
        """every other weight of two dimensions or more -> reason"""
        self._ranges = {path: InputRange(path) for path in layers}
        self._epochs: dict[int, _Ranges] = {}

    @property
    def fall_backs(self) -> list[str]:
        """What stays in floating point though nobody asked for that, with the reason."""
        return [f"{n}: not quantised, {why}" for n, why in self.left_out.items() if not why.startswith(_EXCLUDED)]

    @property
    def weights(self) -> list[str]:
        """Names of the quantised weights, each once."""
        quantised = {id(layer.weight) for layer in self.layers.values()}
        return [name for name, parameter in self.model.named_parameters() if id(parameter) in quantised]

    @property
    def ranges(self) -> dict[str, Tensor]:
        """Layer -> [smallest, largest] of its input, of every layer that was trained; on the CPU, for `load_ranges`."""
        found = {path: range_.values for path, range_ in self._ranges.items()}
        known = {path: values.cpu().clone() for path, values in found.items() if values is not None}
        if problems := [f"{path}: has had no finite input." for path, v in known.items() if not v.isfinite().all()]:
            raise BootcampError(*problems, where="quantisation")
        return known

    def load_ranges(self, ranges: Mapping[str, Tensor]) -> None:
        """Go by these ranges. Training then moves them slowly, as ranges of many batches."""
        settled = round((10 * DECAY - 1) / (1 - DECAY))
        self._set(ranges, dict.fromkeys(ranges, settled))

    def calibrate(self, batches: Iterable[Any]) -> None:
        """Take the ranges from inputs (or tuples that begin with them), in eval mode, without training."""
        device = next(self.model.parameters()).device
        with self._observing(), evaluation_mode(self.model), torch.no_grad():
            for batch in batches:
                inputs = batch[0] if isinstance(batch, tuple | list) else batch
                self.model(inputs.to(device))

    def use_epoch(self, epoch: int) -> None:
        """Go by the ranges of that epoch's evaluation: `fit` ends with the weights of `FitResult.best_epoch`."""
        if epoch not in self._epochs:
            raise BootcampError(f"use_epoch: {unknown('epoch', epoch, map(str, self._epochs))}")
        self._go_by(self._epochs[epoch])

    def on_start(self, state: StepState) -> None:
        """Raises BootcampError where another network is trained, or the `with` block has ended."""
        if state.model is not self.model:
            raise BootcampError("hooks: this quantisation belongs to another network than the one to be trained.")
        if not all(_is_quantized(layer) for layer in self.layers.values()):
            raise BootcampError("hooks: quantization_aware has ended. Train inside its `with` block.")

    def on_step_end(self, state: StepState) -> None:
        """Several processes go by the mean of what each saw."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        device = next(self.model.parameters()).device
        none = torch.zeros(3, device=device)
        rows = []
        for range_ in self._ranges.values():
            values = range_.values
            rows.append(none if values is None else torch.cat([values.to(device), none.new_ones(1)]))
        sums = torch.stack(rows)
        dist.all_reduce(sums)
        for range_, values in zip(self._ranges.values(), sums, strict=True):
            if range_.values is not None:
                range_.set(values[:2] / values[2], range_.batches)

    def on_epoch_end(self, state: StepState) -> None:
        """Remembers the ranges that this epoch was judged with, for `use_epoch`."""
        self._epochs[state.epoch] = self._now()

    def state_dict(self) -> dict[str, Stored]:
        """The ranges of now, and of each epoch."""
        return {
            "now": vars(self._now()),
            "epochs": {epoch: vars(ranges) for epoch, ranges in self._epochs.items()},
        }

    def load_state_dict(self, saved: Mapping[str, Stored]) -> None:
        """Goes on with those ranges, and with the number of batches behind them."""
        self._go_by(_ranges_in(saved["now"]))
        epochs = table(saved["epochs"], "the epochs' ranges")
        self._epochs = {epoch: _ranges_in(ranges) for epoch, ranges in epochs.items()}

    def _go_by(self, ranges: _Ranges) -> None:
        self._set(
            dict(zip(ranges.layers, ranges.values, strict=True)),
            dict(zip(ranges.layers, ranges.batches, strict=True)),
        )

    def _set(self, ranges: Mapping[str, Tensor], batches: Mapping[str, int]) -> None:
        problems = []
        for path, values in ranges.items():
            if path not in self._ranges:
                problems.append(f"ranges: {unknown('layer', path, self._ranges)}")
            elif values.shape != (2,) or not bool(values.isfinite().all()) or values[0] > values[1]:
                problems.append(f"ranges: {path}: {values.tolist()} is not [smallest, largest].")
        if problems:
            raise BootcampError(*problems)
        for path, values in ranges.items():
            self._ranges[path].set(values.detach().float().clone(), batches[path])

    def _now(self) -> _Ranges:
        ranges = self.ranges
        values = torch.stack(list(ranges.values())) if ranges else torch.empty(0, 2)
        return _Ranges(list(ranges), values, [self._ranges[path].batches for path in ranges])

    @contextlib.contextmanager
    def _observing(self) -> Iterator[None]:
        for range_ in self._ranges.values():
            range_.observing = True
        try:
            yield
        finally:
            for range_ in self._ranges.values():
                range_.observing = None


def _weight_name(path: str) -> str:
    return f"{path}.weight".lstrip(".")


@contextlib.contextmanager
def _attached(layers: Mapping[str, QuantizableLayer], ranges: Mapping[str, InputRange]) -> Iterator[None]:
    """The layers compute in 8 bits. Nothing else of them changes, and a deep copy computes with its own weights."""
    if again := [path or "the model" for path, layer in layers.items() if _is_quantized(layer)]:
        raise BootcampError(f"quantisation: {listed(again, 3)}: quantised already, or copied from a model that is.")
    handles = [layer.register_forward_pre_hook(ranges[path], with_kwargs=True) for path, layer in layers.items()]
    for layer in layers.values():
        layer.forward = types.MethodType(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers.values():
            vars(layer).pop("forward", None)
        for handle in handles:
            handle.remove()


def _forward(self: Any, input: Tensor) -> Tensor:  # noqa: A002  # as torch's layers call it
    weight = fake_quantize_weight(self.weight)
    if isinstance(self, nn.Linear):
        return F.linear(input, weight, self.bias)
    convolved: Tensor = self._conv_forward(input, weight, self.bias)
    return convolved


def choose_layers(model: nn.Module, exclude: Sequence[str]) -> tuple[dict[str, QuantizableLayer], dict[str, str]]:
    """The layers to quantise by path, and every other weight of two dimensions or more with the reason."""
    if hasattr(model, "_orig_mod"):
        raise BootcampError("quantisation: give the network itself, and compile it (if at all) inside.")
    layers: dict[str, QuantizableLayer] = {}
    left_out: dict[str, str] = {}
    attention = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    read_by_others = {part for module in attention for part in module.children()}
    for path, module in model.named_modules():
        if isinstance(module, _LAYERS):
            if is_lazy(module.weight):
                raise BootcampError(f"{path}: a lazy layer has no weight yet. Run one batch through the model first.")
            if module in read_by_others:
                left_out[_weight_name(path)] = "MultiheadAttention reads its weight itself"
            elif reason := _own_way(module):
                left_out[_weight_name(path)] = reason
            else:
                layers[path] = module
            continue
        for name, weight in module.named_parameters(path, recurse=False):
            if is_lazy(weight) or weight.ndim > 1:
                left_out[name] = f"{type(module).__name__}: only Conv1d, Conv2d, Conv3d and Linear are quantised"
    names = {path: _weight_name(path) for path in layers}
    everything = [*names.values(), *left_out]
    problems = [
        f"exclude: {unknown('layer', pattern, [name.removesuffix('.weight') for name in everything])}"
        for pattern in exclude
        if not any(matches(name, pattern) for name in everything)
    ]
    if problems:
        raise BootcampError(*problems, where="quantisation")
    for path, name in names.items():
        pattern = next((pattern for pattern in exclude if matches(name, pattern)), None)
        if pattern is not None:
            left_out[name] = f"{_EXCLUDED} '{pattern}'"
            del layers[path]
    if not layers:
        raise BootcampError("quantisation: the model has no Conv1d, Conv2d, Conv3d or Linear layer to quantise.")
    return layers, left_out


def _own_way(layer: QuantizableLayer) -> str | None:
    """Why what the layer computes can't be told from its type."""
    kind, base = type(layer), next(base for base in _LAYERS if isinstance(layer, base))
    if "forward" in vars(layer) and not _is_quantized(layer):
        return "its forward pass was replaced"
    if any(getattr(kind, name, None) is not getattr(base, name, None) for name in ("forward", "_conv_forward")):
        return f"{kind.__name__} computes in a way of its own"
    return None


def _is_quantized(layer: nn.Module) -> bool:
    return any(isinstance(hook, InputRange) for hook in layer._forward_pre_hooks.values())
