#!/usr/bin/env bash
# torch-pruning's FPGMImportance takes distances between squared weights, so that opposite filters count as equal.
#
# Versions: torch-pruning 1.6.1, torch 2.15.0, numpy 2.3.3, Python 3.11 or newer.
# Expected: a filter's sum of Euclidean distances to the other filters of its layer (He et al., 2019, geometric median).
#           By hand, for four filters of one weight each, 3, -3, 1 and 1.5: 9.5, 14.5, 6.5, 6.5. The filter -3 is the
#           farthest from the rest.
# Happens:  weights lose their sign and are raised to the power p (2 unless told otherwise) before the distances are
#           taken: 3 and -3 are at distance 0 and get the same value. With p=1 the sign is lost as well.
# Seen:
#   torch-pruning 1.6.1, torch 2.15.0
#   by hand      [9.5, 14.5, 6.5, 6.5]
#   default      [14.75, 14.75, 17.25, 14.75]
#   p=1          [3.5, 3.5, 4.5, 3.5]
# Run: ./findings/torch_pruning_fpgm_signs.sh   (installs torch into a temporary folder; a few GB; quicker with uv)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
if command -v uv > /dev/null; then
  uv pip install --quiet --python "$work/venv/bin/python" torch-pruning==1.6.1 torch==2.15.0 numpy==2.3.3
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch-pruning==1.6.1 torch==2.15.0 numpy==2.3.3
fi
cat > "$work/fpgm.py" <<'PYTHON'
from importlib.metadata import version

import torch
import torch_pruning
from torch import nn

filters = [3.0, -3.0, 1.0, 1.5]
network = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False))
with torch.no_grad():
    network[0].weight.copy_(torch.tensor(filters).view(4, 1, 1, 1))
graph = torch_pruning.DependencyGraph().build_dependency(network, torch.zeros(1, 1, 2, 2))
group = graph.get_pruning_group(network[0], torch_pruning.prune_conv_out_channels, list(range(4)))
print(f"torch-pruning {version('torch-pruning')}, torch {torch.__version__.partition('+')[0]}")
print(f"{'by hand':<12}", [sum(abs(one - other) for other in filters) for one in filters])
for name, settings in (("default", {}), ("p=1", {"p": 1})):
    importance = torch_pruning.importance.FPGMImportance(normalizer=None, **settings)
    print(f"{name:<12}", [round(value, 2) for value in importance(group).tolist()])
PYTHON
"$work/venv/bin/python" "$work/fpgm.py" 2> /dev/null | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
torch-pruning 1.6.1, torch 2.15.0
by hand      [9.5, 14.5, 6.5, 6.5]
default      [14.75, 14.75, 17.25, 14.75]
p=1          [3.5, 3.5, 4.5, 3.5]
SEEN
echo "as described"
