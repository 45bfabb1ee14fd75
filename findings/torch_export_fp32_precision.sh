#!/usr/bin/env bash
# torch.export fails for every network once cuDNN's convolutions are told to use full float32 by the newer setting.
#
# Versions: torch 2.15.0, numpy 2.3.3, Python 3.11 or newer; no GPU is needed.
# Expected: `torch.backends.cudnn.conv.fp32_precision = "ieee"` says how a GPU multiplies; following a network's code
#           has nothing to do with it. The older `torch.backends.cudnn.allow_tf32 = False` has no such effect.
# Happens:  torch.export reads the older setting on its way, and that reading raises RuntimeError when the newer one was
#           set, for convolutions alone or for recurrent layers too. The message names a mix of both settings and
#           suggests the newer one alone, which is what was used.
# Seen:
#   torch 2.15.0
#   untouched                          exported
#   conv ieee                          RuntimeError
#   conv and rnn ieee                  RuntimeError
#   allow_tf32 = False (older)         exported
# Run: ./findings/torch_export_fp32_precision.sh   (installs torch into a temporary folder; a few GB; quicker with uv)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
if command -v uv > /dev/null; then
  uv pip install --quiet --python "$work/venv/bin/python" torch==2.15.0 numpy==2.3.3
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.3.3
fi
cat > "$work/export.py" <<'PYTHON'
import sys

import torch
from torch import nn


def outcome():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    try:
        torch.export.export(network, (torch.randn(2, 3, 8, 8),), strict=False)
    except RuntimeError as error:
        assert "We suggest only using the new API" in str(error)
        return "RuntimeError"
    return "exported"


case = sys.argv[1]
cudnn = torch.backends.cudnn
if case.startswith("conv"):
    cudnn.conv.fp32_precision = "ieee"
if case == "conv and rnn ieee":
    cudnn.rnn.fp32_precision = "ieee"
if case.startswith("allow_tf32"):
    cudnn.allow_tf32 = False
if case == "untouched":
    print("torch", torch.__version__.partition("+")[0])
print(f"{case:<34} {outcome()}")
PYTHON
for case in "untouched" "conv ieee" "conv and rnn ieee" "allow_tf32 = False (older)"; do
  "$work/venv/bin/python" "$work/export.py" "$case" 2> /dev/null
done | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
torch 2.15.0
untouched                          exported
conv ieee                          RuntimeError
conv and rnn ieee                  RuntimeError
allow_tf32 = False (older)         exported
SEEN
echo "as described"
