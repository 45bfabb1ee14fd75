"""Second moments against columns unfolded one by one, for every kind of convolution."""

import pytest
import torch
from torch import nn

from pruning_bootcamp.pruning.layers.im2col import im2col, output_rows
from pruning_bootcamp.pruning.layers.moments import Product, cross, gram, seen

CASES = [
    (nn.Conv2d(4, 6, 3, padding=1), (4, 7, 5)),
    (nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(2, 0), dilation=(2, 1)), (4, 9, 6)),
    (nn.Conv2d(4, 6, 2, groups=2), (4, 6, 6)),
    (nn.Conv2d(4, 8, 3, padding=1, groups=4), (4, 5, 5)),
    (nn.Conv1d(3, 5, 3, padding=1), (3, 8)),
    (nn.Conv3d(2, 3, 2), (2, 3, 4, 3)),
    (nn.Linear(5, 3), (5,)),
    (nn.Linear(5, 3), (7, 5)),
]


def product_of(layer: nn.Module) -> Product:
    if isinstance(layer, nn.Linear):
        return Product()
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    padding = [int(side) for side in layer.padding]
    sides = tuple((side, side) for side in padding)
    return Product(layer.groups, layer.kernel_size, layer.stride, sides, layer.dilation)


@pytest.mark.parametrize(("layer", "shape"), CASES)
@pytest.mark.parametrize("some", [False, True])
def test_as_columns_unfolded_one_by_one(layer: nn.Module, shape: tuple[int, ...], some: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, *shape, generator=generator)
    output = layer(x).detach()
    product = product_of(layer)
    space = output[0, 0].numel() if product.kernel else output[0, ..., 0].numel()
    positions = torch.arange(0, space, 2) if some else None
    columns = im2col(layer, x, output, positions).double()
    columns = torch.cat([columns, torch.ones(*columns.shape[:2], 1).double()], 2)
    rows = output_rows(layer, output, positions).double()
    torch.testing.assert_close(gram(product, x, positions), columns.mT @ columns, rtol=1e-5, atol=1e-4)
    found = cross(product, x, output, layer.get_parameter("weight"), positions)
    torch.testing.assert_close(found, columns.mT @ rows, rtol=1e-5, atol=1e-4)
    assert torch.allclose(seen(product, output, positions).double().square().sum(), rows.square().sum())


@pytest.mark.parametrize(("layer", "shape"), CASES)
def test_a_product_applies_its_rows_as_the_layer_does(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(2, *shape), layer.get_parameter("weight")
    product = product_of(layer)
    again = product.weight(product.rows(weight), weight)
    assert torch.equal(again, weight)
    assert torch.equal(product.apply(x, again, layer.get_parameter("bias")), layer(x))


def test_uneven_padding_is_padded_before() -> None:
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 2, 2)
    product = Product(1, (2, 2), (1, 1), ((0, 1), (0, 1)), (1, 1))
    torch.testing.assert_close(product.apply(x, weight, None), nn.functional.conv2d(x, weight, padding="same"))
    total = gram(product, x)
    columns = nn.functional.unfold(nn.functional.pad(x, (0, 1, 0, 1)), 2).transpose(1, 2).reshape(-1, 12).double()
    torch.testing.assert_close(total[0, :-1, :-1], columns.T @ columns, rtol=1e-5, atol=1e-4)
