#!/usr/bin/env bash
# torch's FlopCounterMode counts 0 for attention blocks in evaluation under no_grad, and for nn.LSTM always.
#
# Versions: torch 2.15.0 (CPU), numpy 2.3.3, Python 3.11 or newer.
# Expected: the same module on the same input costs the same, with gradients enabled or not; a recurrent layer costs
#           its matrix products. By hand, for 20 tokens of width 32 (4 heads of 8, feed-forward 64; a product of m x k
#           by k x n is 2mkn): MultiheadAttention 122880 (q, k, v) + 25600 (both attention products) + 40960 (output)
#           = 189440; the encoder layer another 2 * 81920 = 353280. LSTM, 20 steps, 16 -> 32: 20 * 2 * 128 * (16 + 32)
#           = 245760.
# Happens:  without gradients both attention modules take one fused operator that the counter has no rule for, and no
#           warning is given: 0. The LSTM is 0 in both.
# Seen:
#   torch 2.15.0
#   TransformerEncoderLayer  gradients 353280  no_grad 0
#   MultiheadAttention       gradients 189440  no_grad 0
#   LSTM                     gradients 0  no_grad 0
# Run: ./findings/torch_flop_counter_no_grad.sh   (installs torch into a temporary folder; a few GB; quicker with uv)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
if command -v uv > /dev/null; then
  uv pip install --quiet --python "$work/venv/bin/python" torch==2.15.0 numpy==2.3.3
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.3.3
fi
cat > "$work/count.py" <<'PYTHON'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def counted(module, inputs, gradients):
    with torch.set_grad_enabled(gradients), FlopCounterMode(display=False) as counter:
        module.eval()(*inputs)
    return counter.get_total_flops()


print("torch", torch.__version__.partition("+")[0])
tokens = torch.randn(2, 10, 32)
cases = {
    "TransformerEncoderLayer": (nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), (tokens,)),
    "MultiheadAttention": (nn.MultiheadAttention(32, 4, batch_first=True), (tokens, tokens, tokens)),
    "LSTM": (nn.LSTM(16, 32, batch_first=True), (torch.randn(2, 10, 16),)),
}
for name, (module, inputs) in cases.items():
    print(f"{name:<24} gradients {counted(module, inputs, True)}  no_grad {counted(module, inputs, False)}")
PYTHON
"$work/venv/bin/python" "$work/count.py" 2>/dev/null | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
torch 2.15.0
TransformerEncoderLayer  gradients 353280  no_grad 0
MultiheadAttention       gradients 189440  no_grad 0
LSTM                     gradients 0  no_grad 0
SEEN
echo "as described"
