#!/usr/bin/env bash
# ./scripts/day13_export.sh        about 50 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: Every file is verified: the ONNX file within 1e-5 of the network, TorchScript too, int8 by how often
# it chooses the same class; a file that fails is not left there.
# Written from pruning_bootcamp/course/days/day13.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 13 'Export: the file that ships is the file that is tested'
needs_file results/structured/bn_scale_flops0.5/pruned_model.pth 10
needs_file results/unstructured/global_global_sp0.97/pruned_model.pth 6
step 'ONNX and TorchScript of day 10'"'"'s network, each run again here and in a new process.' \
  pruning-bootcamp export -c cfgs/digits.yaml --checkpoint \
  results/structured/bn_scale_flops0.5/pruned_model.pth --format both --verify
step '8-bit integers, calibrated on training images.' \
  pruning-bootcamp export -c cfgs/digits.yaml --checkpoint \
  results/structured/bn_scale_flops0.5/pruned_model.pth --format int8 --verify
step 'Day 6'"'"'s network with 97% zeros, as a sparse file.' \
  pruning-bootcamp export -c cfgs/digits.yaml --checkpoint \
  results/unstructured/global_global_sp0.97/pruned_model.pth --format sparse --verify
end_day 13
