#!/usr/bin/env bash
# ./scripts/day21_failures_and_lessons.sh        about 85 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: 99% at once ends behind day 6's 97% at once: this is beyond the bend.
# Written from pruning_bootcamp/course/days/day21.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 21 'Where it breaks, and what three weeks have shown'
needs_file results/baseline/best_model.pth 1
needs_file results/final_comparison.csv 20
step_that_may_miss '99% of the weights at once, 15 epochs.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method global --mode global \
  --sparsity 0.99
step_that_may_miss '99% in 5 cycles of 3 epochs: the same 15 epochs.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method global --mode global \
  --sparsity 0.99 --iterative --num-iterations 5 fine_tune.epochs=3
step_that_may_miss '90% of the FLOPs.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method bn_scale \
  --target-flops-reduction 0.9
step 'The table again, now with the failures.' \
  pruning-bootcamp curriculum compare
step 'The report, as one page.' \
  pruning-bootcamp report --results results --format html
step 'Everything the course must have left behind.' \
  pruning-bootcamp validate final
end_day 21
