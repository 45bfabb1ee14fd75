#!/usr/bin/env bash
# F.linear with a sparse weight raises in torch's inference mode, and works under no_grad.
#
# Versions: torch 2.15.0 (CPU), numpy 2.3.3, Python 3.11 or newer.
# Expected: torch.inference_mode computes what torch.no_grad does; no tensor here needs a gradient or is written to.
# Happens:  with a COO, CSR, CSC or BSR weight F.linear (so a layer with such a weight) raises RuntimeError, "Cannot set
#           version_counter for inference tensor"; the same product as weight @ x.T does not. (torch.matmul with a CSR
#           matrix and a batch of matrices does so too: pytorch/pytorch#98004.)
# Seen:
#   torch 2.15.0
#   strided  no_grad         weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
#   strided  inference_mode  weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
#   COO      no_grad         weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
#   COO      inference_mode  weight @ x.T [[7.0, 6.0]]  linear RuntimeError: Cannot set version_counter for inference tensor
#   CSR      no_grad         weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
#   CSR      inference_mode  weight @ x.T [[7.0, 6.0]]  linear RuntimeError: Cannot set version_counter for inference tensor
#   CSC      no_grad         weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
#   CSC      inference_mode  weight @ x.T [[7.0, 6.0]]  linear RuntimeError: Cannot set version_counter for inference tensor
#   BSR      no_grad         weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
#   BSR      inference_mode  weight @ x.T [[7.0, 6.0]]  linear RuntimeError: Cannot set version_counter for inference tensor
# Run: ./findings/torch_linear_sparse_inference_mode.sh   (installs torch into a temporary folder; a few GB; quicker with uv)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
if command -v uv > /dev/null; then
  uv pip install --quiet --python "$work/venv/bin/python" torch==2.15.0 numpy==2.3.3
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.3.3
fi
cat > "$work/linear.py" <<'PYTHON'
import torch
from torch.nn.functional import linear

print("torch", torch.__version__.partition("+")[0])
dense = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
inputs = torch.tensor([[1.0, 2.0, 3.0]])
weights = {
    "strided": dense,
    "COO": dense.to_sparse(),
    "CSR": dense.to_sparse_csr(),
    "CSC": dense.to_sparse_csc(),
    "BSR": dense.to_sparse_bsr((1, 1)),
}
for layout, weight in weights.items():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            product = (weight @ inputs.T).T.tolist()
            try:
                outcome = linear(inputs, weight).tolist()
            except RuntimeError as error:
                outcome = f"RuntimeError: {error}"
        print(f"{layout:<7}  {mode.__name__:<14}  weight @ x.T {product}  linear {outcome}")
PYTHON
(cd "$work" && venv/bin/python linear.py 2> /dev/null) | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
torch 2.15.0
strided  no_grad         weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
strided  inference_mode  weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
COO      no_grad         weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
COO      inference_mode  weight @ x.T [[7.0, 6.0]]  linear RuntimeError: Cannot set version_counter for inference tensor
CSR      no_grad         weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
CSR      inference_mode  weight @ x.T [[7.0, 6.0]]  linear RuntimeError: Cannot set version_counter for inference tensor
CSC      no_grad         weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
CSC      inference_mode  weight @ x.T [[7.0, 6.0]]  linear RuntimeError: Cannot set version_counter for inference tensor
BSR      no_grad         weight @ x.T [[7.0, 6.0]]  linear [[7.0, 6.0]]
BSR      inference_mode  weight @ x.T [[7.0, 6.0]]  linear RuntimeError: Cannot set version_counter for inference tensor
SEEN
echo "as described"
