#!/usr/bin/env bash
# OpenVINO refuses a quantised network that pads the channels of a shortened tensor, as ResNets' plain shortcuts do.
#
# Versions: openvino 2026.4.1 (x86-64), onnxruntime 1.31.1, onnx 1.23.2, numpy 2.3.3, Python 3.11 or newer.
# Expected: a valid network (onnx.checker agrees, onnxruntime runs it, and each step is exact in int8) is compiled.
#           Every second row of a tensor of 2 channels, then one channel of 0 before and one behind; quantised and
#           dequantised after each step, as onnxruntime's quantize_static writes it.
# Happens:  compile_model raises once the zero point is not 0. Its message names a subtraction of [1, 4, 1, 1], the zero
#           points of the padded tensor's 4 channels, from [1, 2, 2, 4], the tensor before the padding. A ReLU or a
#           convolution in the slice's place does the same. read_model takes the file, and the network without the
#           quantisation is compiled.
# Seen:
#   openvino 2026.4.1, onnxruntime 1.31.1
#   float32                onnxruntime exact; OpenVINO compiled, exact: True
#   uint8, zero point 0    onnxruntime exact; OpenVINO compiled, exact: True
#   uint8, zero point 128  onnxruntime exact; OpenVINO RuntimeError: Argument shapes are inconsistent.
#   int8, zero point -64   onnxruntime exact; OpenVINO RuntimeError: Argument shapes are inconsistent.
# Run: ./findings/openvino_int8_pad_refused.sh   (a few hundred MB in a temporary folder; quicker with uv)
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
cat > "$work/shortcut.py" <<'PYTHON'
import numpy
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper


def saved(path, zero_point):
    constants = {
        "first": numpy.array([0]),
        "end": numpy.array([4]),
        "rows": numpy.array([2]),
        "step": numpy.array([2]),
        "pads": numpy.array([0, 1, 0, 0, 0, 1, 0, 0]),
        "value": numpy.float32(0),
    }
    nodes = []
    tensor = "x"

    def quantised():
        nonlocal tensor
        if zero_point is not None:
            parameters = ["scale", "zero_point"]
            nodes.append(helper.make_node("QuantizeLinear", [tensor, *parameters], [f"{tensor}_quantised"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}_quantised", *parameters], [f"{tensor}_back"]))
            tensor += "_back"

    def applied(kind, *others):
        nonlocal tensor
        nodes.append(helper.make_node(kind, [tensor, *others], [kind.lower()]))
        tensor = kind.lower()
        quantised()

    quantised()
    applied("Slice", "first", "end", "rows", "step")
    applied("Pad", "pads", "value")
    if zero_point is not None:
        constants |= {"scale": numpy.float32(1 / 64), "zero_point": zero_point}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [1, 4, 2, 4])],
        [numpy_helper.from_array(numpy.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


print(f"openvino {openvino.__version__.partition('-')[0]}, onnxruntime {onnxruntime.__version__}")
inputs = (numpy.arange(32).reshape(1, 2, 4, 4) / 64).astype("float32")
expected = numpy.zeros((1, 4, 2, 4), "float32")
expected[:, 1:3] = inputs[:, :, ::2]
core = openvino.Core()
for title, zero_point in (
    ("float32", None),
    ("uint8, zero point 0", numpy.uint8(0)),
    ("uint8, zero point 128", numpy.uint8(128)),
    ("int8, zero point -64", numpy.int8(-64)),
):
    saved("shortcut.onnx", zero_point)
    assert numpy.array_equal(onnxruntime.InferenceSession("shortcut.onnx").run(None, {"x": inputs})[0], expected)
    network = core.read_model("shortcut.onnx")
    try:
        exact = numpy.array_equal(core.compile_model(network, "CPU")({"x": inputs})[0], expected)
        outcome = f"compiled, exact: {exact}"
    except RuntimeError as error:
        outcome = f"RuntimeError: {str(error).strip().splitlines()[-1]}"
    print(f"{title:<22} onnxruntime exact; OpenVINO {outcome}")
PYTHON
(cd "$work" && venv/bin/python shortcut.py 2> /dev/null) | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
openvino 2026.4.1, onnxruntime 1.31.1
float32                onnxruntime exact; OpenVINO compiled, exact: True
uint8, zero point 0    onnxruntime exact; OpenVINO compiled, exact: True
uint8, zero point 128  onnxruntime exact; OpenVINO RuntimeError: Argument shapes are inconsistent.
int8, zero point -64   onnxruntime exact; OpenVINO RuntimeError: Argument shapes are inconsistent.
SEEN
echo "as described"
