"""int8 ONNX: what stands in the file, what it is calibrated on, and what it leaves behind."""

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning_bootcamp.backends.onnx_runtime import open_onnx
from pruning_bootcamp.errors import BootcampError, GoalNotMet
from pruning_bootcamp.exporters import EXPORTERS, ExportReport, deployable_copy, export_model
from pruning_bootcamp.exporters.int8 import emptied_filters
from pruning_bootcamp.tools.int8 import QuantizedWeight, quantized_weights

EXAMPLE = torch.zeros(1, 3, 8, 8)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


def network() -> nn.Module:
    """Its classes are clear: each sums the pixels of another part of the image."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(1), nn.Linear(8 * 64, 4)
    ).eval()
    nn.init.uniform_(model[1].weight, 0.5, 2.0)  # type: ignore[arg-type]
    return model


def images(count: int = 64) -> Tensor:
    return torch.randn(count, 3, 8, 8)


def exported(model: nn.Module, folder: Path, **args: int) -> onnx.ModelProto:
    report = export_model(model, EXAMPLE, folder, format="int8", verify=False, calibration=images(), args=args)
    return onnx.load(report.path)


def arrays(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def weight_quantizers(proto: onnx.ModelProto) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """(integers, scales, zero points, axis) of each int8 weight."""
    known = arrays(proto)
    found = []
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and known.get(node.input[0], np.empty(0)).dtype == np.int8:
            axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
            found.append((known[node.input[0]], known[node.input[1]], known[node.input[2]], axis))
    return found


def test_weights_are_int8_symmetric_and_per_channel(tmp_path: Path) -> None:
    model = network()
    quantizers = weight_quantizers(exported(model, tmp_path, reduce_range=False))
    assert {integers.shape for integers, *_ in quantizers} == {(8, 3, 3, 3), (4, 512)}
    for integers, scales, zero_points, axis in quantizers:
        assert axis == 0
        assert scales.shape == (integers.shape[0],)
        assert not zero_points.any()
        assert np.abs(integers.astype(int)).max() == 127


def test_pruned_weights_are_zero_in_the_file_and_only_those_are_far_off(tmp_path: Path) -> None:
    model = network()
    prune.l1_unstructured(model[0], "weight", 0.75)
    prune.l1_unstructured(model[4], "weight", 0.5)
    integers = {array.size: array for array, *_ in weight_quantizers(exported(model, tmp_path, reduce_range=False))}
    assert int((integers[8 * 27] == 0).sum()) >= 162
    assert int((integers[4 * 512] == 0).sum()) >= 1024
    weight = model[4].weight.detach().numpy()
    scale = np.abs(weight).max(axis=1, keepdims=True) / 127
    assert np.abs(integers[4 * 512] * scale - weight).max() <= 0.51 * scale.max()


def test_inputs_and_scores_stay_float32_and_the_batch_free(tmp_path: Path) -> None:
    proto = exported(network(), tmp_path)
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    last = next(node for node in proto.graph.node if proto.graph.output[0].name in node.output)
    assert last.op_type == "Gemm", "the scores are not rounded to 256 levels"


def test_nothing_of_this_machine_and_no_strange_operators_are_in_the_file(tmp_path: Path) -> None:
    proto = exported(network(), tmp_path)
    assert str(Path(__file__).resolve().parents[3]).encode() not in proto.SerializeToString()
    assert {entry.domain for entry in proto.opset_import} == {""}
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}


def test_activations_are_calibrated_on_the_images_given(tmp_path: Path) -> None:
    def input_scale(factor: float) -> float:
        report = export_model(
            network(), EXAMPLE, tmp_path, format="int8", verify=False, calibration=factor * images(100)
        )  # 64 and 36: the range is that of both batches
        return float(arrays(onnx.load(report.path))["input_scale"])

    torch.manual_seed(3)
    one = input_scale(1)
    torch.manual_seed(3)
    assert input_scale(10) == pytest.approx(10 * one, rel=1e-3)


def test_unless_asked_otherwise_weights_have_seven_bits_and_every_product_runs_in_int8(tmp_path: Path) -> None:
    proto = exported(network(), tmp_path)
    open_onnx(tmp_path / "model_int8.onnx", optimized=tmp_path / "runs.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "runs.onnx").graph.node}
    assert {"QLinearConv", "QGemm"} <= kinds
    assert not kinds & {"Conv", "FusedConv", "Gemm", "MatMul"}
    for integers, *_ in weight_quantizers(proto):
        assert 60 < np.abs(integers.astype(int)).max() <= 64


def test_the_report_says_agreement_size_and_ratio(tmp_path: Path) -> None:
    model = network()
    some = {"calibration": images(), "examples": images(200)}
    report = export_model(model, EXAMPLE, tmp_path, format="int8", **some)
    assert report.verified
    assert report.agreement is not None
    assert 0.97 <= report.agreement <= 1
    assert report.images == 200
    assert report.size_mb == (tmp_path / "model_int8.onnx").stat().st_size / 1e6
    assert report.dense_mb is not None
    assert report.dense_mb == pytest.approx((8 * 27 + 8 * 4 + 4 * 513) * 4 / 1e6, rel=0.1)
    text = str(report)
    assert f"Same top-1 class as PyTorch for {report.agreement:.2%} of 200 real images" in text
    assert f"{report.dense_mb / report.size_mb:.2f} times as much" in text
    assert "without pruning_bootcamp" in text


def test_too_little_agreement_is_a_goal_not_met_and_no_file_stays(tmp_path: Path) -> None:
    (tmp_path / "model_int8.onnx").write_text("an older export")
    some = {"calibration": 1e-3 * images(), "examples": images(300)}  # nearly black: everything else is clipped
    for reduce_range in (False, True):
        with pytest.raises(
            GoalNotMet, match=r"decide alike in \d+\.\d\d% of 300 real inputs; they must in at least 97"
        ) as no:
            export_model(network(), EXAMPLE, tmp_path, format="int8", args={"reduce_range": reduce_range}, **some)
        assert ("export.int8_reduce_range=true" in str(no.value)) is not reduce_range
        assert list(tmp_path.iterdir()) == []


def test_a_network_that_always_chooses_one_class_is_no_proof(tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model[4].bias[2] += 100
    report = export_model(model, EXAMPLE, tmp_path, format="int8", calibration=images(), examples=images())
    assert "could hardly fail" in str(report)


@pytest.mark.parametrize(
    ("calibration", "says"),
    [
        (None, r"needs some hundred real images to calibrate on.*-c FILE.*calibration="),
        (torch.empty(0, 3, 8, 8), "at least one"),
        (torch.zeros(4, 1, 8, 8), r"\(4, 1, 8, 8\), and the network takes \(3, 8, 8\)"),
        (torch.full((4, 3, 8, 8), float("nan")), "not finite"),
    ],
)
def test_calibration_images_that_will_not_do_are_said(calibration: Tensor | None, says: str, tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match=says) as caught:
        export_model(network(), EXAMPLE, tmp_path, format="int8", verify=False, calibration=calibration)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_real_images_to_judge_by_are_asked_for_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match=r"verified on real images.*examples="):
        export_model(network(), EXAMPLE, tmp_path, format="int8", calibration=images())
    assert list(tmp_path.iterdir()) == []


def test_an_operator_set_without_scales_per_channel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match="--opset: 12 is too old for int8, which needs 13 or up"):
        exported(network(), tmp_path, opset=12)


def test_nothing_to_quantize_is_said(tmp_path: Path) -> None:
    with pytest.raises(BootcampError, match=r"no weight that ONNX Runtime can quantize"):
        exported(nn.Sequential(nn.AvgPool2d(8), nn.Flatten()), tmp_path)


def test_nothing_is_printed_and_nothing_left_in_any_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, temporary, out = tmp_path / "here", tmp_path / "temporary", tmp_path / "out"
    for folder in (here, temporary, out):
        folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with contextlib.chdir(here):
        exported(network(), out)
    assert [path.name for path in out.iterdir()] == ["model_int8.onnx"]
    assert list(here.iterdir()) == []
    assert list(temporary.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_model_is_left_alone_and_settings_of_the_engine_are_not_the_users(tmp_path: Path) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exported(model, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert set(EXPORTERS["int8"].settings) == {"opset", "reduce_range"}
    with pytest.raises(BootcampError, match="unknown setting 'calibration'"):
        export_model(model, EXAMPLE, tmp_path, format="int8", args={"calibration": images()})


def test_it_runs_on_batches_it_was_not_calibrated_with(tmp_path: Path) -> None:
    model = deployable_copy(network())
    runner = EXPORTERS["int8"](model, EXAMPLE.expand(2, 3, 8, 8), tmp_path / "m.onnx", calibration=images())
    for size in (1, 5, 33):
        assert runner(images(size)).shape == (size, 4)


class Tokens(nn.Module):
    """Linear layers on more than two dimensions, which ONNX multiplies by transposed weights of other names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6, bias=False), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).mean(1)


class Normalised(nn.Module):
    """Its norm is what ONNX Runtime's symbolic shape inference raises at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.normalize(self.conv(x).relu().mean((2, 3))))


def written(model: nn.Module, example: Tensor, folder: Path) -> ExportReport:
    some = {"calibration": torch.randn(32, *example.shape[1:])}
    return export_model(model.eval(), example, folder, format="int8", verify=False, **some)


def small_filters(weight: Tensor, bias: Tensor) -> None:
    """The first two: so small beside their bias that they are nothing in int8. The third was nothing before."""
    with torch.no_grad():
        weight[:2] *= 1e-9
        weight[2] = 0
        bias.fill_(1)


LAYERS = {
    "convolution": nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)),
    "groups": nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten()),
    "transposed": nn.Sequential(nn.ConvTranspose2d(4, 8, 3), nn.Flatten(), nn.Linear(8 * 100, 4)),
    "one dimension": nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 8, 3), nn.Flatten(), nn.Linear(8 * 62, 4)),
    "tokens": nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), Tokens()),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_output_of_every_layer_has_its_own_scale(kind: str, tmp_path: Path) -> None:
    report = written(LAYERS[kind], torch.zeros(1, 4, 8, 8), tmp_path)
    weights = quantized_weights(onnx.load(report.path))
    assert len(weights) == sum(isinstance(one, (*CONVOLUTIONS, nn.Linear)) for one in LAYERS[kind].modules())
    assert all(weight.per_channel and len(set(weight.scales.tolist())) > 1 for weight in weights)
    assert report.notes == ()


def test_filters_that_rounding_empties_are_counted_by_layer(tmp_path: Path) -> None:
    model = network()
    small_filters(model[0].weight, model[1].bias)  # type: ignore[arg-type, union-attr]
    report = written(model, EXAMPLE, tmp_path)
    assert report.emptied == {"0": 2}
    assert "! filters that rounding makes all zeros: 2 (0 2)" in str(report)
    (conv,) = (one for one in quantized_weights(onnx.load(report.path)) if one.name == "0.weight")
    assert conv.filled(conv.integers).tolist() == [False] * 3 + [True] * 5


def test_a_weight_that_onnx_transposes_is_named_as_its_layer() -> None:
    model = Tokens()
    values = model.first.weight.detach().numpy().T
    quantized = QuantizedWeight("val_0", np.zeros((8, 6), np.int8), np.ones(6, np.float32), 1)
    assert emptied_filters([quantized], {"val_0": values}, model) == {"first": 6}


def test_shapes_that_cannot_be_inferred_are_no_hindrance_and_said(tmp_path: Path) -> None:
    report = written(Normalised(), EXAMPLE, tmp_path)
    assert len(quantized_weights(onnx.load(report.path))) == 2
    assert "without ONNX Runtime's symbolic shape inference, which fails here (TypeError" in report.notes[0]


def test_a_transposed_convolution_with_groups_stays_float32_and_is_said(tmp_path: Path) -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 100, 4))
    report = written(model, torch.zeros(1, 4, 8, 8), tmp_path)
    assert [one.name for one in quantized_weights(onnx.load(report.path))] == ["2.weight"]
    assert "1 transposed convolution with groups stays float32" in report.notes[0]
