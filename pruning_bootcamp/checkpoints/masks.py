"""Masks in a checkpoint: one bit a weight, and the promise that what they prune is zero."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pruning_bootcamp.checkpoints.stored import Stored
from pruning_bootcamp.errors import BootcampError, unknown


def pack(masks: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor | list[int]]]:
    """Keep masks (True where a weight stays) as bits."""
    return {
        name: {"bits": torch.from_numpy(np.packbits(mask.detach().cpu().numpy().reshape(-1))), "shape": [*mask.shape]}
        for name, mask in masks.items()
    }


def unpack(packed: Mapping[str, Stored]) -> dict[str, Tensor]:
    """The masks that `pack` packed, bit for bit. BootcampError when they can't be."""
    masks = {}
    for name, entry in packed.items():
        try:
            if not isinstance(entry, Mapping):
                raise TypeError(f"{type(entry).__name__} is no table")
            shape, bits = entry["shape"], entry["bits"]
            if not isinstance(shape, list | tuple) or not isinstance(bits, Tensor):
                raise TypeError("its shape or its bits are none")
            if not all(type(side) is int and 0 <= side < 2**31 for side in shape):
                raise ValueError("its shape is none")
            size = math.prod(shape)
            if bits.dtype != torch.uint8 or bits.numel() != (size + 7) // 8:
                raise ValueError(f"{bits.numel()} bytes are not {size} bits")
            masks[name] = torch.from_numpy(np.unpackbits(bits.numpy(), count=size).astype(bool)).reshape(shape)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise BootcampError(f"mask {name} is damaged ({type(error).__name__}: {error}).") from error
    return masks


def check(masks: Mapping[str, Tensor], model: nn.Module) -> None:
    """Each mask belongs to a parameter and has its shape, and the weights it prunes are exactly zero; BootcampError."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    problems = []
    for name, mask in masks.items():
        if name not in parameters:
            problems.append(f"mask {name}: {unknown('parameter', name, parameters)}")
        elif mask.dtype != torch.bool:
            problems.append(f"mask {name}: is {mask.dtype}, not torch.bool.")
        elif mask.shape != parameters[name].shape:
            problems.append(f"mask {name}: has shape {tuple(mask.shape)}, not {tuple(parameters[name].shape)}.")
        elif alive := int((parameters[name].detach().cpu()[~mask.cpu()] != 0).sum()):
            problems.append(f"mask {name}: {alive} weights that it prunes are not zero. Apply the masks first.")
    if problems:
        raise BootcampError(*problems)
