"""A layer as a matrix product: its inputs as columns, its outputs and its weight as rows, for each group."""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from pruning_bootcamp.errors import BootcampError

# Neighbouring positions of an image say nearly the same, so so many of them, drawn at random, stand for all.
POSITIONS = 128


def is_product(layer: nn.Module) -> bool:
    """Whether outputs are a matrix product of columns: linear layers and convolutions that are not transposed."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd))


def unknown_product(layer: nn.Module, attribute: str) -> str | None:
    """Why a weight's inputs and outputs can't be seen as columns and rows while the network runs; None if they can."""
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        return "attention reads its output projection without running it"
    if attribute == "weight" and is_product(layer):
        return None
    return f"it knows linear layers and convolutions, not the {attribute} of {type(layer).__name__}"


def groups_of(layer: nn.Module) -> int:
    """Into how many blocks a grouped convolution splits its channels; 1 for any other layer."""
    return layer.groups if isinstance(layer, _ConvNd) else 1


def weight_rows(layer: nn.Module, weight: Tensor) -> Tensor:
    """[groups, out / groups, columns]: a weight of the layer (or a mask of it), each row making one output."""
    return weight.reshape(groups_of(layer), weight.shape[0] // groups_of(layer), -1)


def draw_positions(layer: nn.Module, output: Tensor, generator: Generator) -> Tensor | None:
    """At most POSITIONS of one image's output positions in order, as flat indices; None stands for all."""
    count = math.prod(_space(layer, output))
    return None if count <= POSITIONS else torch.randperm(count, generator=generator)[:POSITIONS].sort().values


def im2col(layer: nn.Module, x: Tensor, output: Tensor, positions: Tensor | None = None) -> Tensor:
    """[groups, samples, columns] float32: what each output position multiplies, in the order of weight_rows.

    `x` and `output` are the layer's own, with a batch dimension. Stride, padding (every mode), dilation and groups are
    as the layer has them. Only the positions asked for are unfolded.
    """
    x = x.detach().float()
    if isinstance(layer, nn.Linear):
        x = x.reshape(len(x), -1, x.shape[-1])
        return (x if positions is None else x[:, positions.to(x.device)]).reshape(1, -1, x.shape[-1])
    assert isinstance(layer, _ConvNd)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    windows = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    space = _space(layer, output)
    for dim, (kernel, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), start=2
    ):
        windows = windows.unfold(dim, (kernel - 1) * dilation + 1, stride)[..., ::dilation]  # a view
    found = tuple(windows.shape[2 : 2 + len(layer.kernel_size)])
    if found != tuple(space):
        raise BootcampError(
            f"{layer}: its output has {tuple(space)} positions, its padding and stride make {found} (does it pad by "
            "itself, or run without a batch dimension?). Exclude it, or choose another score or solver."
        )
    # [batch, in, *space, *kernel] -> [in, *kernel, batch, positions]: a view until the chosen positions are copied
    order = [*range(2, 2 + len(space)), 0, 1, *range(2 + len(space), windows.ndim)]
    by_position = windows.permute(order)
    if positions is None:
        chosen = by_position.reshape(-1, *by_position.shape[len(space) :])
    else:
        chosen = by_position[tuple(torch.unravel_index(positions.to(x.device), tuple(space)))]
    # [positions, batch, in, *kernel]
    columns = chosen.reshape(chosen.shape[0] * chosen.shape[1], layer.groups, -1)
    return columns.movedim(1, 0)


def output_rows(layer: nn.Module, output: Tensor, positions: Tensor | None = None) -> Tensor:
    """[groups, samples, out / groups] float32, the samples as im2col has them."""
    y = output.detach().float()
    if isinstance(layer, nn.Linear):
        y = y.reshape(len(y), -1, y.shape[-1])
        return (y if positions is None else y[:, positions.to(y.device)]).reshape(1, -1, y.shape[-1])
    y = y.flatten(2)
    y = y if positions is None else y[:, :, positions.to(y.device)]
    rows = y.permute(2, 0, 1).reshape(-1, groups_of(layer), y.shape[1] // groups_of(layer))
    return rows.movedim(1, 0)


def _space(layer: nn.Module, output: Tensor) -> Sequence[int]:
    return output.shape[1:-1] if isinstance(layer, nn.Linear) else output.shape[2:]


def product_layers(model: nn.Module, names: Iterable[str], what: str) -> dict[str, nn.Module]:
    """Weight name -> its layer; a BootcampError that names those which are no matrix products."""
    layers, unfit = {}, []
    for name in names:
        path, _, attribute = name.rpartition(".")
        layer = model.get_submodule(path)
        if attribute == "weight" and is_product(layer):
            layers[name] = layer
        else:
            unfit.append(
                f"{name}: {what} knows linear layers and convolutions, not the {attribute} of "
                f"{type(layer).__name__}. Exclude it, or choose another."
            )
    if unfit:
        raise BootcampError(*unfit)
    return layers
