"""What a network is given: shape and kind of its inputs, and fresh ones of that kind for whoever has to run it."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Inputs:
    """One input: its shape, and what it holds: whole numbers from 0 up and below `below` (tokens); None: numbers about
    0 +- 1, as normalised images are."""

    shape: tuple[int, ...]
    below: int | None = None

    def example(self, batch_size: int, generator: Generator) -> Tensor:
        """A random batch: normal noise, or int64 numbers drawn evenly."""
        if self.below is None:
            return torch.randn(batch_size, *self.shape, generator=generator)
        return torch.randint(self.below, (batch_size, *self.shape), generator=generator)

    def __str__(self) -> str:
        shape = "x".join(str(side) for side in self.shape)
        return shape if self.below is None else f"{shape} whole numbers below {self.below}"


def inputs_like(example: Tensor, count: int, generator: Generator, dtype: torch.dtype | None = None) -> Tensor:
    """`count` fresh inputs of the example's shape: normal noise (of `dtype`), or whole numbers that the example holds.

    Of an example with fractions only the shape counts: a network's own is often all zeros, which would show nothing.
    """
    shape = (count, *example.shape[1:])
    if example.is_floating_point():
        return torch.randn(*shape, generator=generator, dtype=dtype)
    held = example.detach().cpu().flatten()
    return held[torch.randint(len(held), shape, generator=generator)]


def plain_inputs(inputs: Tensor) -> Tensor:
    """On the CPU; fractions in float32, whole numbers as they are."""
    return inputs.detach().to("cpu", torch.float32 if inputs.is_floating_point() else inputs.dtype)
