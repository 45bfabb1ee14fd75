#!/usr/bin/env bash
# An int8 network of onnxruntime computes in float32 wherever a tensor is read twice, if its activations are signed.
#
# Versions: onnxruntime 1.31.1 (x86-64), onnx 1.23.2, numpy 2.3.3, Python 3.11 or newer.
# Expected: the documentation on quantisation calls signed activations with signed weights in QDQ format the default
#           and the first choice on CPUs. Each quantised convolution runs as QLinearConv and each sum as QLinearAdd, as
#           they do with unsigned activations.
# Happens:  a chain is all int8. In a residual block the convolution that reads the tensor which the shortcut reads too
#           keeps running in float32 as Conv, between added conversions, and the sum as Add; of a fork both convolutions
#           do. Loading turns signed tensors into unsigned ones, but only those with one reader. Nothing says so: it
#           takes the optimised graph that the session saves. The residual block with 32 channels of 16 x 16, on one
#           thread of a CPU with AVX2: 0.12 ms in float32, 0.15 ms with QInt8, 0.08 ms with QUInt8.
# Seen:
#   onnxruntime 1.31.1, onnx 1.23.2
#   chain           QInt8   0 Conv, 2 QLinearConv, 0 Add, 0 QLinearAdd
#   chain           QUInt8  0 Conv, 2 QLinearConv, 0 Add, 0 QLinearAdd
#   residual block  QInt8   1 Conv, 1 QLinearConv, 1 Add, 0 QLinearAdd
#   residual block  QUInt8  0 Conv, 2 QLinearConv, 0 Add, 1 QLinearAdd
#   fork            QInt8   2 Conv, 0 QLinearConv, 0 Add, 1 QLinearAdd
#   fork            QUInt8  0 Conv, 2 QLinearConv, 0 Add, 1 QLinearAdd
# Run: ./findings/onnxruntime_int8_forks_in_float.sh   (a few hundred MB in a temporary folder; quicker with uv)
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
from collections import Counter

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

SHAPE = [1, 8, 8, 8]
random = numpy.random.default_rng(0)


def convolution(source, target):
    return helper.make_node("Conv", [source, f"weight_{target}"], [target], pads=[1, 1, 1, 1])


def saved(path, nodes):
    weights = [
        numpy_helper.from_array(random.standard_normal((8, 8, 3, 3)).astype("float32"), node.input[1])
        for node in nodes
        if node.op_type == "Conv"
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "network", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


class Batches(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": random.standard_normal(SHAPE).astype("float32")} for _ in range(4)])

    def get_next(self):
        return next(self.batches, None)


networks = {
    "chain": [convolution("x", "a"), helper.make_node("Relu", ["a"], ["b"]), convolution("b", "y")],
    "residual block": [
        convolution("x", "a"),
        helper.make_node("Relu", ["a"], ["b"]),
        convolution("b", "c"),
        helper.make_node("Add", ["c", "x"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ],
    "fork": [convolution("x", "a"), convolution("x", "b"), helper.make_node("Add", ["a", "b"], ["y"])],
}
print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}")
for name, nodes in networks.items():
    saved("float.onnx", nodes)
    for activations in (QuantType.QInt8, QuantType.QUInt8):
        quantize_static(
            "float.onnx",
            "int8.onnx",
            Batches(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=activations,
            weight_type=QuantType.QInt8,
        )
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = "run.onnx"
        onnxruntime.InferenceSession("int8.onnx", options, providers=["CPUExecutionProvider"])
        kinds = Counter(node.op_type for node in onnx.load("run.onnx").graph.node)
        counts = ", ".join(f"{kinds[kind]} {kind}" for kind in ("Conv", "QLinearConv", "Add", "QLinearAdd"))
        print(f"{name:<15} {activations.name:<7} {counts}")
PYTHON
(cd "$work" && venv/bin/python quantize.py 2> /dev/null) | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
onnxruntime 1.31.1, onnx 1.23.2
chain           QInt8   0 Conv, 2 QLinearConv, 0 Add, 0 QLinearAdd
chain           QUInt8  0 Conv, 2 QLinearConv, 0 Add, 0 QLinearAdd
residual block  QInt8   1 Conv, 1 QLinearConv, 1 Add, 0 QLinearAdd
residual block  QUInt8  0 Conv, 2 QLinearConv, 0 Add, 1 QLinearAdd
fork            QInt8   2 Conv, 0 QLinearConv, 0 Add, 1 QLinearAdd
fork            QUInt8  0 Conv, 2 QLinearConv, 0 Add, 1 QLinearAdd
SEEN
echo "as described"
