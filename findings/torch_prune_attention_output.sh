#!/usr/bin/env bash
# A mask of torch.nn.utils.prune on the output projection of nn.MultiheadAttention freezes the weight it masks.
#
# Versions: torch 2.15.0 (CPU), numpy 2.3.3, Python 3.11 or newer.
# Expected: as on any nn.Linear: each forward uses weight_orig * weight_mask of that moment, so training moves the
#           weights that stay.
# Happens:  MultiheadAttention reads out_proj.weight without calling out_proj, so the hook that multiplies anew before
#           each forward never runs. The optimiser changes weight_orig, the forward goes on with the weight of the moment
#           of pruning, and the second backward raises, since it goes through the first one's graph. An nn.Linear beside
#           it does what is expected.
# Seen:
#   torch 2.15.0
#   Linear:                      weight_orig moved True, weight in use moved True, second backward ok
#   MultiheadAttention.out_proj: weight_orig moved True, weight in use moved False, second backward RuntimeError
# Run: ./findings/torch_prune_attention_output.sh   (installs torch into a temporary folder; a few GB; quicker with uv)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
if command -v uv > /dev/null; then
  uv pip install --quiet --python "$work/venv/bin/python" torch==2.15.0 numpy==2.3.3
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.3.3
fi
cat > "$work/prune.py" <<'PYTHON'
import torch
from torch import nn
from torch.nn.utils import prune


def two_steps(title, network, pruned, inputs):
    prune.l1_unstructured(pruned, "weight", 0.5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

    def loss():
        out = network(*inputs)
        return (out[0] if isinstance(out, tuple) else out).square().sum()

    loss().backward()
    before = pruned.weight_orig.detach().clone(), pruned.weight.detach().clone()
    optimizer.step()
    optimizer.zero_grad()
    second = loss()
    moved = [not torch.equal(old, new.detach()) for old, new in zip(before, (pruned.weight_orig, pruned.weight))]
    try:
        second.backward()
        ending = "ok"
    except RuntimeError as error:
        ending = type(error).__name__
    print(f"{title:<28} weight_orig moved {moved[0]}, weight in use moved {moved[1]}, second backward {ending}")


torch.manual_seed(0)
print("torch", torch.__version__.partition("+")[0])
tokens = torch.randn(2, 10, 32)
linear = nn.Linear(32, 32)
two_steps("Linear:", linear, linear, (tokens,))
attention = nn.MultiheadAttention(32, 4, batch_first=True)
two_steps("MultiheadAttention.out_proj:", attention, attention.out_proj, (tokens, tokens, tokens))
PYTHON
"$work/venv/bin/python" "$work/prune.py" 2>/dev/null | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
torch 2.15.0
Linear:                      weight_orig moved True, weight in use moved True, second backward ok
MultiheadAttention.out_proj: weight_orig moved True, weight in use moved False, second backward RuntimeError
SEEN
echo "as described"
