"""Weights that are too small to be worth their time: found and zeroed, in networks and as a runtime folds them."""

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.tools.programs import onnx_file
from pruning_bootcamp.tools.tiny import SMALLEST, may_fold_to_tiny, tiny_text, tiny_weights, zero_tiny

EXAMPLE = torch.zeros(2, 3, 8, 8)


class Scaled(nn.Module):
    """onnxruntime, and not torch's exporter, folds the scale into the convolution."""

    def __init__(self, twice: bool = False) -> None:
        super().__init__()
        self.conv, self.twice = nn.Conv2d(3, 4, 3, bias=False), twice
        self.scale = nn.Parameter(torch.tensor([1.0, 1e-37, 1.0, 1e-37]).view(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.scale + x if self.twice else x * self.scale


def folding(kind: str) -> nn.Module:
    """Ordinary weights, whose third and fourth filters are subnormal once batch norm is folded."""
    layer = nn.ConvTranspose2d(3, 4, 3) if kind == "transposed" else nn.Conv2d(3, 4, 3, bias=False)
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight[2:] = 1e-37
    return nn.Sequential(layer, norm, nn.ReLU()).eval()


def smallest(content: bytes) -> float:
    """The smallest number in the file's tensors that is not zero."""
    arrays = [onnx.numpy_helper.to_array(one) for one in onnx.load_from_string(content).graph.initializer]
    return min(float(np.abs(array[array != 0]).min()) for array in arrays if array.dtype == np.float32)


def test_what_is_smaller_goes_and_what_is_not_stays() -> None:
    layer = nn.Linear(4, 1)
    values = torch.tensor([[0.0, 1.01e-30, -0.99e-30, 1e-40]])
    with torch.no_grad():
        layer.weight.copy_(values)
        layer.bias.fill_(-1e-35)
    assert tiny_weights(layer) == {"weight": 2, "bias": 1}
    assert zero_tiny(layer) == {"weight": 2, "bias": 1}
    assert torch.equal(layer.weight, values * torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert layer.bias.item() == 0
    assert tiny_weights(layer) == {}


@pytest.mark.parametrize("kind", ["convolution", "transposed"])
def test_no_folded_weight_in_an_onnx_file_is_subnormal(kind: str) -> None:
    model = folding(kind)
    assert tiny_weights(model) == {"1.weight": 2}
    assert may_fold_to_tiny(model)
    file = onnx_file(model, EXAMPLE)
    assert dict(file.zeroed) == {"0.weight": 2 * 27} | ({"0.bias": 2} if kind == "transposed" else {})
    assert smallest(file.content) >= SMALLEST


def test_a_factor_that_onnxruntime_folds_at_load_counts() -> None:
    file = onnx_file(Scaled().eval(), EXAMPLE)
    assert file.zeroed["conv.weight"] == 2 * 27
    assert smallest(file.content) >= SMALLEST


def test_a_convolution_with_another_reader_is_left_alone() -> None:
    file = onnx_file(Scaled(twice=True).eval(), EXAMPLE)
    assert "conv.weight" not in file.zeroed


def test_ordinary_networks_are_written_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    assert not may_fold_to_tiny(model)
    assert not onnx_file(model, EXAMPLE).zeroed


def test_a_single_number_is_the_codes_own() -> None:
    class Guarded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x.abs() + 1e-37)

    assert not onnx_file(Guarded(), EXAMPLE).zeroed


def test_the_text_names_the_largest() -> None:
    counts = {"a": 1, "b": 4000, "c": 2, "d": 3}
    assert tiny_text(counts) == "4,006 weights below 1e-30 (b 4,000, d 3, c 2, 1 more tensors)"
    assert tiny_text({"a": 1}) == "1 weight below 1e-30 (a 1)"
