#!/usr/bin/env bash
# OpenVINO pads a quantised tensor with scale * zero point where the network says 0.
#
# Versions: openvino 2026.4.1 (x86-64), onnxruntime 1.31.1, onnx 1.23.2, numpy 2.3.3, Python 3.11 or newer.
# Expected: QuantizeLinear, DequantizeLinear, Pad by 0 along the channels, QuantizeLinear, DequantizeLinear: the added
#           channels are 0, which each of these zero points represents exactly. The scale is 1/64 and the input a
#           multiple of it, so that nothing is rounded. onnxruntime gives 0.
# Happens:  with a zero point other than 0 the added channels have the value scale * zero point: 128 / 64 = 2. The
#           other values are right. No error and no warning.
# Seen:
#   openvino 2026.4.1, onnxruntime 1.31.1
#   uint8 zero point   0  onnxruntime added channels [0.0]
#   uint8 zero point   0  OpenVINO    added channels [0.0]
#   uint8 zero point 128  onnxruntime added channels [0.0]
#   uint8 zero point 128  OpenVINO    added channels [2.0]
#   int8  zero point   0  onnxruntime added channels [0.0]
#   int8  zero point   0  OpenVINO    added channels [0.0]
#   int8  zero point -64  onnxruntime added channels [0.0]
#   int8  zero point -64  OpenVINO    added channels [-1.0]
# Run: ./findings/openvino_int8_pad_value.sh   (a few hundred MB in a temporary folder; quicker with uv)
set -euo pipefail
packages=(openvino==2026.4.1 onnxruntime==1.31.1 onnx==1.23.2 numpy==2.3.3)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
if command -v uv > /dev/null; then
  uv pip install --quiet --python "$work/venv/bin/python" "${packages[@]}"
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi
cat > "$work/pad.py" <<'PYTHON'
import numpy
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper


def saved(path, zero_point):
    constants = {
        "scale": numpy.float32(1 / 64),
        "zero_point": zero_point,
        "pads": numpy.array([0, 1, 0, 0, 0, 1, 0, 0]),
        "value": numpy.float32(0),
    }
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero_point"], ["quantised"]),
            helper.make_node("DequantizeLinear", ["quantised", "scale", "zero_point"], ["tensor"]),
            helper.make_node("Pad", ["tensor", "pads", "value"], ["padded"]),
            helper.make_node("QuantizeLinear", ["padded", "scale", "zero_point"], ["padded_quantised"]),
            helper.make_node("DequantizeLinear", ["padded_quantised", "scale", "zero_point"], ["y"]),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])],
        [numpy_helper.from_array(numpy.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


print(f"openvino {openvino.__version__.partition('-')[0]}, onnxruntime {onnxruntime.__version__}")
inputs = (numpy.arange(32).reshape(1, 2, 4, 4) / 64).astype("float32")
for zero_point in (numpy.uint8(0), numpy.uint8(128), numpy.int8(0), numpy.int8(-64)):
    saved("pad.onnx", zero_point)
    outputs = {
        "onnxruntime": onnxruntime.InferenceSession("pad.onnx").run(None, {"x": inputs})[0],
        "OpenVINO": openvino.Core().compile_model("pad.onnx", "CPU")({"x": inputs})[0],
    }
    for name, output in outputs.items():
        assert numpy.array_equal(output[:, 1:3], inputs)
        added = sorted({float(value) for value in output[:, [0, 3]].ravel()})
        print(f"{zero_point.dtype.name:<5} zero point {zero_point:>3}  {name:<11} added channels {added}")
PYTHON
(cd "$work" && venv/bin/python pad.py 2> /dev/null) | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
openvino 2026.4.1, onnxruntime 1.31.1
uint8 zero point   0  onnxruntime added channels [0.0]
uint8 zero point   0  OpenVINO    added channels [0.0]
uint8 zero point 128  onnxruntime added channels [0.0]
uint8 zero point 128  OpenVINO    added channels [2.0]
int8  zero point   0  onnxruntime added channels [0.0]
int8  zero point   0  OpenVINO    added channels [0.0]
int8  zero point -64  onnxruntime added channels [0.0]
int8  zero point -64  OpenVINO    added channels [-1.0]
SEEN
echo "as described"
