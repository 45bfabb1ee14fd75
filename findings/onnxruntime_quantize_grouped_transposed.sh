#!/usr/bin/env bash
# onnxruntime's quantize_static with per_channel=True raises on a transposed convolution with groups and a bias.
#
# Versions: onnxruntime 1.31.1, onnx 1.23.2, numpy 2.3.3, Python 3.11 or newer.
# Expected: a network that ONNX and onnxruntime accept is quantised, as the same one is without groups, without the
#           bias or with per_channel=False.
# Happens:  the weight of a transposed convolution is [inputs, outputs / groups, height, width], and one scale is taken
#           for each entry of its second axis: outputs / groups scales, by which the bias of all outputs is divided.
#           ValueError from numpy, with no word of the layer.
# Seen:
#   onnxruntime 1.31.1, onnx 1.23.2
#   groups 1, bias, per_channel=True: quantised and run
#   groups 2, bias, per_channel=True: ValueError: operands could not be broadcast together with shapes (8,) (4,)
#   groups 2, no bias, per_channel=True: quantised and run
#   groups 2, bias, per_channel=False: quantised and run
# Run: ./findings/onnxruntime_quantize_grouped_transposed.sh   (a few hundred MB in a temporary folder; quicker with uv)
set -euo pipefail
packages=(onnxruntime==1.31.1 onnx==1.23.2 numpy==2.3.3)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
if command -v uv > /dev/null; then
  uv pip install --quiet --python "$work/venv/bin/python" "${packages[@]}"
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi
cat > "$work/quantize.py" <<'PYTHON'
import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

random = numpy.random.default_rng(0)


def saved(path, groups, bias):
    shapes = {"weight": (8, 8 // groups, 3, 3)} | ({"bias": (8,)} if bias else {})
    node = helper.make_node("ConvTranspose", ["x", *shapes], ["y"], group=groups)
    graph = helper.make_graph(
        [node],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 8, 8])],
        [
            numpy_helper.from_array(random.standard_normal(shape).astype("float32"), name)
            for name, shape in shapes.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


class Batches(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": random.standard_normal((1, 8, 6, 6)).astype("float32")} for _ in range(4)])

    def get_next(self):
        return next(self.batches, None)


print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}")
for groups, bias, per_channel in ((1, True, True), (2, True, True), (2, False, True), (2, True, False)):
    saved("float.onnx", groups, bias)
    onnxruntime.InferenceSession("float.onnx").run(None, Batches().get_next())
    try:
        quantize_static(
            "float.onnx",
            "int8.onnx",
            Batches(),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        onnxruntime.InferenceSession("int8.onnx").run(None, Batches().get_next())
        outcome = "quantised and run"
    except ValueError as error:
        outcome = f"ValueError: {str(error).strip()}"
    print(f"groups {groups}, {'bias' if bias else 'no bias'}, per_channel={per_channel}: {outcome}")
PYTHON
(cd "$work" && venv/bin/python quantize.py 2> /dev/null) | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
onnxruntime 1.31.1, onnx 1.23.2
groups 1, bias, per_channel=True: quantised and run
groups 2, bias, per_channel=True: ValueError: operands could not be broadcast together with shapes (8,) (4,)
groups 2, no bias, per_channel=True: quantised and run
groups 2, bias, per_channel=False: quantised and run
SEEN
echo "as described"
