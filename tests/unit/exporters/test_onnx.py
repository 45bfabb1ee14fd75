"""ONNX: what stands in the file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning_bootcamp.backends.onnx_runtime import open_onnx
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.exporters import EXPORTERS, deployable_copy, export_model


def network() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(1), nn.Linear(8 * 36, 4)
    )
    nn.init.uniform_(model[1].weight, 0.5, 2.0)  # type: ignore[arg-type]
    return model


def exported(model: nn.Module, folder: Path, **args: int) -> onnx.ModelProto:
    report = export_model(model, torch.zeros(1, 3, 8, 8), folder, format="onnx", verify=False, args=args)
    return onnx.load(report.path)


def test_pruned_weights_are_exact_zeros_in_the_file_though_batch_norm_is_folded_in(tmp_path: Path) -> None:
    model = network()
    prune.l1_unstructured(model[0], "weight", 0.75)
    prune.l1_unstructured(model[4], "weight", 0.5)
    proto = exported(model, tmp_path)
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    weights = [onnx.numpy_helper.to_array(weight) for weight in proto.graph.initializer]
    zeros = {weight.size: int(np.sum(weight == 0)) for weight in weights}
    assert zeros[8 * 3 * 9] == 162
    assert zeros[4 * 8 * 36] == 576


def test_the_batch_is_free_and_the_image_is_not(tmp_path: Path) -> None:
    graph = exported(network(), tmp_path).graph
    shape = graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param == "batch"
    assert [side.dim_value for side in shape[1:]] == [3, 8, 8]
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("opset", [18, 21])
def test_the_operator_set_is_the_one_asked_for(opset: int, tmp_path: Path) -> None:
    assert exported(network(), tmp_path, opset=opset).opset_import[0].version == opset


def test_an_operator_set_that_cannot_be_reached_is_an_error_not_a_surprise(tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match=r"--opset: 40 can't be reached for this network, only 18"):
        exported(network(), tmp_path, opset=40)
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_one_batch_size_is_refused(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, -1)

    with pytest.raises(BootcampError, match=r"can't be written as ONNX: .*batch") as caught:
        exported(Fixed(), tmp_path)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exported(network(), tmp_path)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_onnx_runtime_uses_torchs_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    seen = []

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, path: str, options: onnxruntime.SessionOptions, **rest: object) -> None:
            seen.append(options.intra_op_num_threads)
            super().__init__(path, options, **rest)

    EXPORTERS["onnx"](deployable_copy(network()), torch.zeros(2, 3, 8, 8), tmp_path / "m.onnx")
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    runner = open_onnx(tmp_path / "m.onnx")
    assert seen == [torch.get_num_threads()]
    assert runner.backend == "onnxruntime"
