#!/usr/bin/env bash
# ./scripts/day20_comparison_and_report.sh        about 55 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: At half the FLOPs, batch norm's scale (day 10), L1 and random channels all get 95.5% or more right.
# Written from pruning_bootcamp/course/days/day20.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 20 'The comparison, ablations and the report'
needs_file results/baseline/best_model.pth 1
needs_file results/structured/bn_scale_flops0.5/pruned_model.pth 10
step_that_may_miss 'Half the FLOPs by L1.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method l1 --target-flops-reduction \
  0.5 fine_tune.epochs=30ep fine_tune.lr=0.02 fine_tune.distill=0.9
step_that_may_miss 'Half the FLOPs at random.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method random \
  --target-flops-reduction 0.5 fine_tune.epochs=30ep fine_tune.lr=0.02 fine_tune.distill=0.9
step 'Every pruning run in one table.' \
  pruning-bootcamp curriculum compare
step 'The written report.' \
  pruning-bootcamp report --results results --format md
end_day 20
