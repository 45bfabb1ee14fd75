"""Second moments of a layer's im2col inputs, with each other and with wanted outputs: all that least squares needs."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Columns are unfolded so many numbers at a time: a batch of large images is not copied as many times as a kernel has
# weights.
_NUMBERS_AT_ONCE = 2**24
# Neighbouring positions say nearly the same: with so many rows in all, a draw of each image's positions stands for all.
_ROWS = 2**19
_FEWEST, MOST_POSITIONS = 64, 1024


@dataclass(frozen=True)
class Product:
    """How a convolution or linear layer multiplies: what its operation is called with. A linear layer has no kernel."""

    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    """before and behind, for each dimension"""
    dilation: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        """The dimension of its inputs and outputs along which the channels lie."""
        return 1 if self.kernel else -1

    def padded(self, x: Tensor) -> Tensor:
        """The inputs with the layer's padding of zeros."""
        sides = [length for sides in reversed(self.padding) for length in sides]
        return F.pad(x, sides) if any(sides) else x

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's outputs with these weights."""
        if not self.kernel:
            return F.linear(x, weight, bias)
        symmetric = all(before == behind for before, behind in self.padding)
        x = x if symmetric else self.padded(x)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.kernel) - 1]
        padding = tuple(before for before, _ in self.padding) if symmetric else 0
        return convolve(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def rows(self, weight: Tensor) -> Tensor:
        """[groups, columns, out / groups]: the weight as what a row of inputs is multiplied by."""
        return weight.reshape(self.groups, len(weight) // self.groups, -1).mT

    def weight(self, rows: Tensor, like: Tensor) -> Tensor:
        """The inverse of `rows`, in the shape, type and place of `like`."""
        return rows.mT.reshape(like.shape).to(like)


@dataclass
class Moments:
    """Sums over all that were added: inputs [groups, d, d], inputs with targets [groups, d, out / groups].

    d counts the columns, and one more that is always 1: a bias is a weight like the others. float64.
    """

    gram: Tensor
    cross: Tensor

    @property
    def count(self) -> float:
        """How many positions the sums are of."""
        return float(self.gram[0, -1, -1])


def positions_of(images: int) -> int:
    """How many output positions of each of so many images are enough for their second moments."""
    return min(MOST_POSITIONS, max(_FEWEST, _ROWS // max(images, 1)))


def sampled(product: Product, output: Tensor, positions: int, seed: int, batch: int = 0) -> Tensor | None:
    """Flat indices of the output positions of a batch that stand for all; None: all of them do."""
    space = math.prod(output.shape[2:]) if product.kernel else math.prod(output.shape[1:-1])
    if space <= positions:
        return None
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {batch}".encode()))
    return torch.randperm(space, generator=generator)[:positions].sort().values


def seen(product: Product, output: Tensor, positions: Tensor | None) -> Tensor:
    """The outputs at these positions, zero elsewhere."""
    if positions is None:
        return output
    space = output.shape[2:] if product.kernel else output.shape[1:-1]
    mask = output.new_zeros(math.prod(space))
    mask[positions.to(output.device)] = 1
    return output * mask.view(*space, *([] if product.kernel else [1]))


def picked(product: Product, output: Tensor, positions: Tensor | None) -> Tensor:
    """[rows, channels]: the outputs at these positions, image after image; None: all of them."""
    found = output.flatten(2).mT if product.kernel else output.reshape(len(output), -1, output.shape[-1])
    found = found if positions is None else found[:, positions.to(output.device)]
    return found.flatten(0, 1)


def gram(product: Product, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """[groups, d, d] float64: products of all columns of one batch with each other, and with 1."""
    found = [_with_ones(columns) for columns in columns_of(product, x, positions)]
    total = sum(found[1:], found[0])
    last = total.shape[-1] - 1
    order = torch.cat([in_order(product, last), torch.tensor([last])]).to(total.device)
    return total[:, order[:, None], order[None, :]]


def in_order(product: Product, columns: int) -> Tensor:
    """Where each column of a weight is among those of `columns_of`."""
    size = math.prod(product.kernel)
    return torch.arange(columns).view(size, columns // size).T.flatten()


def columns_of(product: Product, x: Tensor, positions: Tensor | None = None) -> Iterator[Tensor]:
    """[groups, rows, columns], some images at a time: what each output is a sum over, without the bias.

    Of a convolution kernel first, then channel, which is quicker than the order of its weights (`in_order`).
    """
    x = x.detach().float()
    if not product.kernel:
        x = x.reshape(len(x), -1, x.shape[-1])
        x = x if positions is None else x[:, positions.to(x.device)]
        yield x.reshape(1, -1, x.shape[-1])
        return
    channels = x.shape[1] // product.groups
    size = math.prod(product.kernel)
    x = product.padded(x).movedim(1, -1).contiguous()
    _, *lengths, width = x.shape
    space = [
        (length - (kernel - 1) * dilation - 1) // stride + 1
        for length, kernel, stride, dilation in zip(
            lengths, product.kernel, product.stride, product.dilation, strict=True
        )
    ]
    steps = x.stride()[1:-1]
    shape = [*space, *product.kernel, width]
    strides = [
        *(step * stride for step, stride in zip(steps, product.stride, strict=True)),
        *(step * dilation for step, dilation in zip(steps, product.dilation, strict=True)),
        1,
    ]
    per_image = (math.prod(space) if positions is None else len(positions)) * size * width
    for some in x.split(max(1, _NUMBERS_AT_ONCE // per_image)):
        windows = some.as_strided((len(some), *shape), (some.stride(0), *strides), some.storage_offset())
        if positions is not None:
            where = torch.unravel_index(positions.to(x.device), tuple(space))
            windows = windows[(slice(None), *where)]
        columns = windows.reshape(-1, size, product.groups, channels).permute(2, 0, 1, 3)
        yield columns.reshape(product.groups, -1, size * channels)


def _with_ones(columns: Tensor) -> Tensor:
    groups, count, width = columns.shape
    total = columns.new_zeros(groups, width + 1, width + 1, dtype=torch.double)
    total[:, :width, :width] = columns.mT @ columns
    total[:, :width, width] = total[:, width, :width] = columns.sum(1)
    total[:, width, width] = count
    return total


def cross(product: Product, x: Tensor, target: Tensor, weight: Tensor, positions: Tensor | None = None) -> Tensor:
    """[groups, d, out / groups] float64: products of all columns of one batch, and of 1, with the targets.

    A convolution's is the gradient of its weight, so that nothing is unfolded. `weight` says the shape.
    """
    x, target = x.detach().float(), target.detach().float()
    if not product.kernel:
        x, target = x.flatten(0, -2), seen(product, target, positions).flatten(0, -2)
        return torch.cat([(x.T @ target).double(), target.sum(0, keepdim=True).double()])[None]
    target = seen(product, target, positions)
    x = product.padded(x)
    gradient = torch.ops.aten.convolution_backward(
        target,
        x,
        weight.detach().float(),
        None,
        list(product.stride),
        [0] * len(product.kernel),
        list(product.dilation),
        False,
        [0] * len(product.kernel),
        product.groups,
        [False, True, False],
    )[1]
    sums = target.movedim(1, -1).flatten(0, -2).sum(0).view(product.groups, 1, -1)
    return torch.cat([product.rows(gradient).double(), sums.double()], 1)
