"""The range of a layer's input in 8 bits, learnt from the batches that it was trained on."""

from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.training.rounding import fake_quantize_input

# The range forgets like a moving average of this decay, faster at first: batch n counts 9 / (10 + n), later 1%.
DECAY = 0.99


class InputRange:
    """Smallest and largest input of one layer, each a moving average over the batches that it was trained on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.batches = 0
        self.observing: bool | None = None
        """None: when the layer is in training mode"""
        self._values: Tensor | None = None
        self._followed: InputRange | None = None

    @property
    def values(self) -> Tensor | None:
        """[smallest, largest]; None when no batch was seen."""
        return self._values if self._followed is None else self._followed.values

    def set(self, values: Tensor, batches: int) -> None:
        """Go by [smallest, largest] = `values`, as if `batches` had been seen, and no longer by another's range."""
        self._values, self.batches, self._followed = values, batches, None

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Tensor]) -> Any:
        """As a forward pre-hook: it is copied with the layer, and keeps torch's fused transformer layers, which would
        not call the layer at all, from being used."""
        if inputs:
            return (self.quantize(inputs[0], layer.training), *inputs[1:]), named
        return inputs, {**named, "input": self.quantize(named["input"], layer.training)}

    def quantize(self, values: Tensor, training: bool) -> Tensor:
        """The values rounded to 8 bits in the range; in training the range first moves towards these values.

        Raises BootcampError where no batch was seen, so that there is no range.
        """
        if (training if self.observing is None else self.observing) and values.numel():
            self._observe(values.detach())
        range_ = self.values
        if range_ is None:
            raise BootcampError(
                f"{self.name or 'the model'}: was not trained yet, so the range of its input is not known. Train "
                "first, or call calibrate(batches) or load_ranges(ranges)."
            )
        return fake_quantize_input(values, range_.to(values.device))

    def _observe(self, values: Tensor) -> None:
        with torch.inference_mode(False):  # a range is for training too
            found = torch.stack(torch.aminmax(values)).float()
        # elsewhere than on the CPU the look would wait for the device: what is not finite is left out there
        if found.device.type == "cpu" and not bool(found.isfinite().all()):
            raise BootcampError(
                f"{self.name or 'the model'}: its input holds NaN or infinity, which has no range to quantise by. "
                "Lower the learning rate, or look at the data."
            )
        before = self.values
        if self._followed is not None:
            self.batches = self._followed.batches
        if before is None:
            self.set(found, 1)
            return
        decay = min(DECAY, (1 + self.batches) / (10 + self.batches))
        before = before.to(found.device)
        self.set(torch.where(found.isfinite().all(), before.lerp(found, 1 - decay), before), self.batches + 1)

    def __deepcopy__(self, memo: dict[int, Any]) -> "InputRange":
        """A copied network (a moving average of the weights) goes by this one's range until it is trained itself."""
        copied = InputRange(self.name)
        copied._followed = self
        return copied
