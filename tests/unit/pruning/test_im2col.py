"""A layer as a matrix product: columns times rows are the layer's own outputs, whatever its padding and groups."""

import copy
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.layers.im2col import (
    POSITIONS,
    draw_positions,
    groups_of,
    im2col,
    is_product,
    output_rows,
    product_layers,
    weight_rows,
)

SETTINGS: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"stride": 2, "padding": 1},
    {"padding": 2, "dilation": 2},
    {"stride": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"padding": "same"},
    {"padding": "same", "dilation": 3, "groups": 4},
    {"padding": "valid", "groups": 4},
    {"padding": 1, "groups": 4, "out": 4},
    {"padding": 1, "groups": 4, "out": 8, "stride": 2},
    *[{"padding": 2, "padding_mode": mode, "stride": 2} for mode in ("reflect", "replicate", "circular")],
    {"padding": "same", "padding_mode": "reflect"},
    {"padding": "same", "padding_mode": "circular", "kernel": 4},
    {"kernel": 1, "bias": False},
]
SPACES = {1: (11,), 2: (9, 8), 3: (7, 6, 8)}


def convolution(dimensions: int, settings: dict[str, Any]) -> nn.Module:
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    rest = {key: value for key, value in settings.items() if key not in ("out", "kernel")}
    torch.manual_seed(0)
    return kind(4, settings.get("out", 12), settings.get("kernel", 3), **rest)


def product(layer: nn.Module, x: Tensor, y: Tensor, positions: Tensor | None) -> Tensor:
    """What the columns say the layer gives: [groups, samples, out / groups]."""
    rows = weight_rows(layer, layer.weight.detach()).float()
    made = im2col(layer, x, y, positions) @ rows.transpose(1, 2)
    return made if layer.bias is None else made + layer.bias.detach().float().reshape(groups_of(layer), 1, -1)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_columns_times_weight_are_the_outputs_of_a_convolution(dimensions: int, settings: dict[str, Any]) -> None:
    layer = convolution(dimensions, settings)
    x = torch.randn(3, 4, *SPACES[dimensions])
    y = layer(x).detach()
    everywhere = y.flatten(2).shape[2]
    for positions in (None, torch.arange(everywhere)[1::3], torch.tensor([everywhere - 1])):
        wanted = output_rows(layer, y, positions)
        count = everywhere if positions is None else len(positions)
        assert wanted.shape == (layer.groups, 3 * count, layer.out_channels // layer.groups)
        assert torch.allclose(product(layer, x, y, positions), wanted, atol=1e-5)


def test_different_kernels_and_strides_in_each_dimension() -> None:
    layer = nn.Conv2d(6, 9, (2, 5), stride=(3, 1), padding=(1, 4), dilation=(2, 3), groups=3)
    x = torch.randn(2, 6, 13, 14)
    y = layer(x).detach()
    assert torch.allclose(product(layer, x, y, None), output_rows(layer, y), atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 6), (3, 7, 6), (2, 3, 4, 6)])
def test_columns_times_weight_are_the_outputs_of_a_linear_layer(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(6, 4)
    x = torch.randn(shape)
    y = layer(x).detach()
    assert torch.allclose(product(layer, x, y, None), y.reshape(1, -1, 4), atol=1e-6)
    if len(shape) > 2:
        positions = torch.tensor([0, 2])
        assert torch.allclose(product(layer, x, y, positions), output_rows(layer, y, positions), atol=1e-6)
        chosen = y.reshape(shape[0], -1, 4)[:, [0, 2]].reshape(1, -1, 4)
        assert torch.equal(output_rows(layer, y, positions), chosen)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "make", [lambda: nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"), lambda: nn.Linear(6, 5)]
)
def test_half_precision_columns_are_exact_in_single(dtype: torch.dtype, make: Any) -> None:
    layer = make().to(dtype)
    x = torch.randn((2, 4, 6, 6) if isinstance(layer, nn.Conv2d) else (7, 6)).to(dtype)
    single = copy.deepcopy(layer).float()
    y = single(x.float()).detach()
    columns = im2col(layer, x, y)
    assert columns.dtype == torch.float32
    assert torch.equal(columns, im2col(single, x.float(), y))
    assert torch.allclose(product(layer, x, y, None), output_rows(layer, y), atol=1e-5)


def test_positions_are_drawn_only_where_there_are_many_and_as_the_generator_says() -> None:
    layer = nn.Conv2d(1, 1, 1)
    assert draw_positions(layer, torch.zeros(2, 1, 8, POSITIONS // 8), Generator()) is None
    assert draw_positions(nn.Linear(2, 2), torch.zeros(4, 2), Generator()) is None
    many = torch.zeros(2, 1, 20, 20)
    state = torch.get_rng_state()
    first, again = (draw_positions(layer, many, Generator().manual_seed(3)) for _ in range(2))
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    assert len(first) == len(first.unique()) == POSITIONS
    assert 0 <= int(first.min()) < int(first.max()) < 400
    assert torch.equal(first, first.sort().values)
    assert torch.equal(state, torch.get_rng_state())


def test_a_layer_that_pads_by_itself_is_an_error_and_no_wrong_columns() -> None:
    class Padding(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return super().forward(nn.functional.pad(input, (1, 1, 1, 1)))

    layer = Padding(2, 3, 3)
    x = torch.randn(2, 2, 5, 5)
    with pytest.raises(BootcampError, match=r"Padding\(2, 3.*\(5, 5\) positions.*make \(3, 3\).*pad by itself"):
        im2col(layer, x, layer(x))


def test_what_is_no_matrix_product_is_named_all_at_once() -> None:
    net = nn.ModuleDict(
        {
            "a": nn.ConvTranspose2d(2, 2, 2),
            "b": nn.Linear(2, 2),
            "c": nn.MultiheadAttention(4, 2),
            "d": nn.Conv1d(1, 1, 1),
        }
    )
    assert [is_product(layer) for layer in net.values()] == [False, True, False, True]
    assert list(product_layers(net, ["b.weight", "d.weight"], "it")) == ["b.weight", "d.weight"]
    with pytest.raises(BootcampError) as caught:
        product_layers(net, ["a.weight", "b.weight", "c.in_proj_weight"], "a solver")
    assert [str(problem).partition(":")[0] for problem in caught.value.problems] == ["a.weight", "c.in_proj_weight"]
    assert "a solver" in str(caught.value.problems[0])
    assert "ConvTranspose2d" in str(caught.value.problems[0])
