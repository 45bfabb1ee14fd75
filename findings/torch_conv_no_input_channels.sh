#!/usr/bin/env bash
# A torch convolution without input channels returns no output channels, whatever number it was made with.
#
# Versions: torch 2.15.0 (CPU), numpy 2.3.3, Python 3.11 or newer.
# Expected: a sum over no inputs is 0, so that the output is the bias alone: nn.Linear(0, 4) gives [2, 4], the bias in
#           each row, and a convolution of one input channel and zero weights gives its 16 channels, each its bias.
# Happens:  nn.Conv2d(0, 16, 3, padding=1) has 16 biases and says out_channels=16, and its output has 0 channels, with
#           no error and no warning in the forward pass. The next layer, made for 16 channels, is where it raises.
# Seen:
#   torch 2.15.0
#   Linear(0, 4)                 4 biases  output [2, 4]  the bias everywhere: True
#   Conv2d(1, 16), zero weights  16 biases  output [2, 16, 8, 8]  the bias everywhere: True
#   Conv2d(0, 16)                16 biases  output [2, 0, 8, 8]  the bias everywhere: False
#   Conv2d(0, 16), Conv2d(16, 4): expected input[2, 0, 8, 8] to have 16 channels, but got 0 channels instead
# Run: ./findings/torch_conv_no_input_channels.sh   (installs torch into a temporary folder; a few GB; quicker with uv)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
if command -v uv > /dev/null; then
  uv pip install --quiet --python "$work/venv/bin/python" torch==2.15.0 numpy==2.3.3
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.3.3
fi
cat > "$work/channels.py" <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)
print("torch", torch.__version__.partition("+")[0])


def show(title, layer, inputs, shape):
    out = layer(inputs)
    same = out.shape[1] == len(layer.bias) and torch.equal(out, layer.bias.view(shape).expand_as(out))
    print(f"{title:<28} {len(layer.bias)} biases  output {list(out.shape)}  the bias everywhere: {same}")


show("Linear(0, 4)", nn.Linear(0, 4), torch.zeros(2, 0), (1, 4))
narrow = nn.Conv2d(1, 16, 3, padding=1)
nn.init.zeros_(narrow.weight)
show("Conv2d(1, 16), zero weights", narrow, torch.randn(2, 1, 8, 8), (1, 16, 1, 1))
empty = nn.Conv2d(0, 16, 3, padding=1)
show("Conv2d(0, 16)", empty, torch.zeros(2, 0, 8, 8), (1, 16, 1, 1))
try:
    nn.Sequential(empty, nn.Conv2d(16, 4, 1))(torch.zeros(2, 0, 8, 8))
except RuntimeError as error:
    print("Conv2d(0, 16), Conv2d(16, 4): expected", str(error).partition("expected ")[2])
PYTHON
(cd "$work" && venv/bin/python channels.py 2> /dev/null) | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
torch 2.15.0
Linear(0, 4)                 4 biases  output [2, 4]  the bias everywhere: True
Conv2d(1, 16), zero weights  16 biases  output [2, 16, 8, 8]  the bias everywhere: True
Conv2d(0, 16)                16 biases  output [2, 0, 8, 8]  the bias everywhere: False
Conv2d(0, 16), Conv2d(16, 4): expected input[2, 0, 8, 8] to have 16 channels, but got 0 channels instead
SEEN
echo "as described"
