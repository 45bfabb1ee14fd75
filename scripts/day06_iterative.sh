#!/usr/bin/env bash
# ./scripts/day06_iterative.sh        about 65 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: All three come back to 95% or more, with 3% of the weights.
# Written from pruning_bootcamp/course/days/day06.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 6 'One shot, in cycles, or gradually'
needs_file results/baseline/best_model.pth 1
step '97% at once, then 15 epochs.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method global --mode global \
  --sparsity 0.97
step_that_may_miss '97% in 5 cycles of 3 epochs: the same 15 epochs.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method global --mode global \
  --sparsity 0.97 --iterative --num-iterations 5 fine_tune.epochs=3
step_that_may_miss '97% gradually over the first 75% of 15 epochs.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method global --mode global \
  --sparsity 0.97 --gradual
end_day 6
