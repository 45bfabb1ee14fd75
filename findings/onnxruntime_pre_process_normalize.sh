#!/usr/bin/env bash
# onnxruntime's quant_pre_process raises TypeError on a network with F.normalize that torch's exporter wrote.
#
# Versions: onnxruntime 1.31.1, onnx 1.23.2, torch 2.15.0 (CPU), onnxscript 0.7.2, numpy 2.3.3, Python 3.11 or newer.
# Expected: the step that onnxruntime recommends before quantisation takes a network that onnxruntime runs.
# Happens:  its symbolic shape inference has no rule for ReduceL2, leaves that shape unknown, and takes the length of
#           None at the Expand that follows. It does so with a fixed shape too, where the exporter wrote all shapes into
#           the file. With skip_symbolic_shape=True it works.
# Seen:
#   onnxruntime 1.31.1, onnx 1.23.2, torch 2.15.0
#   nodes: Gemm ReduceL2 Clip Expand Div
#   runs: (2, 4)
#   skip_symbolic_shape=False: TypeError: object of type 'NoneType' has no len()
#   skip_symbolic_shape=True: prepared
# Run: ./findings/onnxruntime_pre_process_normalize.sh   (installs into a temporary folder; a few GB; quicker with uv)
set -euo pipefail
packages=(onnxruntime==1.31.1 onnx==1.23.2 torch==2.15.0 onnxscript==0.7.2 numpy==2.3.3)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
if command -v uv > /dev/null; then
  uv pip install --quiet --python "$work/venv/bin/python" "${packages[@]}"
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi
cat > "$work/prepare.py" <<'PYTHON'
import onnx
import onnxruntime
import torch
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn


class Normalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, inputs):
        return nn.functional.normalize(self.linear(inputs))


inputs = torch.randn(2, 8)
torch.onnx.export(Normalized().eval(), (inputs,), "network.onnx", input_names=["x"], dynamo=True, verbose=False)
model = onnx.load("network.onnx")
onnx.checker.check_model(model, full_check=True)
print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, torch {torch.__version__.partition('+')[0]}")
print("nodes:", *[node.op_type for node in model.graph.node])
print("runs:", onnxruntime.InferenceSession("network.onnx").run(None, {"x": inputs.numpy()})[0].shape)
for skipped in (False, True):
    try:
        quant_pre_process("network.onnx", "prepared.onnx", skip_symbolic_shape=skipped)
        outcome = "prepared"
    except TypeError as error:
        outcome = f"TypeError: {error}"
    print(f"skip_symbolic_shape={skipped}: {outcome}")
PYTHON
(cd "$work" && venv/bin/python prepare.py 2> /dev/null) | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
onnxruntime 1.31.1, onnx 1.23.2, torch 2.15.0
nodes: Gemm ReduceL2 Clip Expand Div
runs: (2, 4)
skip_symbolic_shape=False: TypeError: object of type 'NoneType' has no len()
skip_symbolic_shape=True: prepared
SEEN
echo "as described"
