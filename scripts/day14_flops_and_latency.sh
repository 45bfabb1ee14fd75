#!/usr/bin/env bash
# ./scripts/day14_flops_and_latency.sh        about 85 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: Three times the same 'half the FLOPs', and three shares of the time.
# Written from pruning_bootcamp/course/days/day14.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 14 'FLOPs are not latency'
needs_file results/baseline/best_model.pth 1
needs_file results/structured/bn_scale_flops0.5/pruned_model.pth 10
needs_file results/course/bn_scale_flops0.5_round8/pruned_model.pth 12
needs_file results/structured/bn_scale_flops0.5/model.onnx 13
step 'Half the FLOPs in torch, one image at a time: layer by layer, interleaved.' \
  pruning-bootcamp profile -c cfgs/digits.yaml --baseline results/baseline/best_model.pth \
  --pruned results/structured/bn_scale_flops0.5/pruned_model.pth --measure-latency \
  --save-results results/week2_validation.yaml
step 'The same pair in ONNX Runtime.' \
  pruning-bootcamp profile -c cfgs/digits.yaml --baseline results/baseline/best_model.pth \
  --pruned results/structured/bn_scale_flops0.5/pruned_model.pth --backend onnxruntime \
  --save-results results/course/profile_onnxruntime.yaml
step 'Day 12'"'"'s widths in multiples of 8, in ONNX Runtime: the same share of FLOPs.' \
  pruning-bootcamp profile -c cfgs/digits.yaml --baseline results/baseline/best_model.pth \
  --pruned results/course/bn_scale_flops0.5_round8/pruned_model.pth --backend onnxruntime \
  --save-results results/course/profile_round8.yaml
step 'What the second week must have left behind.' \
  pruning-bootcamp validate week2
end_day 14
