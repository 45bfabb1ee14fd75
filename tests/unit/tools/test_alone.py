"""A layer alone: on every backend it computes what torch computes, at its own and at other widths."""

import pytest
import torch
from torch import nn

from pruning_bootcamp.backends import BACKENDS, lacking, prepare
from pruning_bootcamp.tools.alone import LayerAlone, LayerShape, shape_of

SHAPES = {
    "3x3": LayerShape(6, 10, (7, 5), (3, 3), (1, 1), (1, 1), (1, 1), bias=False),
    "strided": LayerShape(6, 10, (8, 8), (5, 3), (2, 1), (2, 0), (1, 2)),
    "same": LayerShape(6, 10, (8, 8), (3, 4), (1, 1), "same", (2, 1)),
    "valid": LayerShape(6, 10, (8, 8), (3, 3), (1, 1), "valid", (1, 1)),
    "grouped": LayerShape(6, 9, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), groups=3),
    "depthwise": LayerShape(6, 12, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), groups=6),
    "1d": LayerShape(6, 10, (9,), (3,), (2,), (1,), (1,)),
    "linear": LayerShape(6, 10, ()),
    "tokens": LayerShape(6, 10, (5,), bias=False),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("copies", [1, 3])
def test_a_layer_alone_runs_on_the_backends(name: str, copies: int) -> None:
    torch.manual_seed(0)
    net = LayerAlone(SHAPES[name], copies).eval()
    batch = net.example(2)
    with torch.inference_mode():
        wanted = net(batch)
    assert wanted.shape[0] == 2
    assert float(wanted.max()) > 0
    for backend in ("torch", "channels_last", "onnxruntime"):
        if not lacking(BACKENDS[backend]):
            assert torch.allclose(prepare(backend, net, batch, 1)(batch), wanted, atol=1e-5), backend


@pytest.mark.parametrize("name", SHAPES)
def test_its_shape_is_read_off_the_layer(name: str) -> None:
    shape = SHAPES[name]
    net = LayerAlone(shape)
    assert shape_of(net.layers[0], net.example(3)) == shape


def test_other_layers_do_not_stand_alone() -> None:
    assert shape_of(nn.ConvTranspose2d(3, 4, 2), torch.zeros(1, 3, 4, 4)) is None


def test_at_other_widths() -> None:
    assert SHAPES["3x3"].at(4, 7) == LayerShape(4, 7, (7, 5), (3, 3), (1, 1), (1, 1), (1, 1), bias=False)
    deep = SHAPES["depthwise"].at(4, 99)
    assert (deep.inputs, deep.outputs, deep.groups) == (4, 8, 4)
    assert LayerAlone(deep).layers[0].weight.shape == (8, 1, 3, 3)
