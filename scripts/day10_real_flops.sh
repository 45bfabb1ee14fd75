#!/usr/bin/env bash
# ./scripts/day10_real_flops.sh        about 55 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: Asked for 50% fewer FLOPs, the cut saves 50%, within a point, and loses two points at most: the
# course's goal allows 1.5.
# Written from pruning_bootcamp/course/days/day10.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 10 'Ask for FLOPs, not for a ratio'
needs_file results/baseline/best_model.pth 1
needs_file results/unstructured/global_global_sp0.5/pruned_model.pth 4
step 'Half the multiply-accumulates, by batch norm'"'"'s scale; then 30 epochs, on the dense outputs too.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method bn_scale \
  --target-flops-reduction 0.5 fine_tune.epochs=30ep fine_tune.lr=0.02 fine_tune.distill=0.9
step_that_may_miss 'Half the parameters: another network.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method bn_scale \
  --target-params-reduction 0.5 fine_tune.epochs=30ep fine_tune.lr=0.02 fine_tune.distill=0.9
step_that_may_miss 'Week 1'"'"'s network with half its weights zero, measured the same way: what does it save?' \
  pruning-bootcamp eval -c cfgs/digits.yaml --checkpoint \
  results/unstructured/global_global_sp0.5/pruned_model.pth --baseline-metrics \
  results/baseline/metrics.yaml
end_day 10
