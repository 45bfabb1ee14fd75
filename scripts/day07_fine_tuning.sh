#!/usr/bin/env bash
# ./scripts/day07_fine_tuning.sh        about 80 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: A fiftieth of the rate ends behind day 6's rate, with a teacher or without: too small a rate loses
# points that 15 epochs should have brought back.
# Written from pruning_bootcamp/course/days/day07.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 7 'Fine-tuning: learning rate, length, teacher'
needs_file results/baseline/best_model.pth 1
needs_file results/unstructured/global_global_sp0.97/pruned_model.pth 6
step_that_may_miss 'Day 6'"'"'s one shot (learning rate 0.05) with a fiftieth of that rate.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method global --mode global \
  --sparsity 0.97 fine_tune.lr=0.001 --save-dir results/course/fine_tune_lr0.001
step_that_may_miss 'With ten times the rate: five times that of the dense training.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method global --mode global \
  --sparsity 0.97 fine_tune.lr=0.5 --save-dir results/course/fine_tune_lr0.5
step_that_may_miss '3 epochs instead of 15.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method global --mode global \
  --sparsity 0.97 fine_tune.epochs=3 --save-dir results/course/fine_tune_3_epochs
step_that_may_miss 'With the dense network as teacher.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method global --mode global \
  --sparsity 0.97 fine_tune.distill=0.9 --save-dir results/course/fine_tune_distilled
step 'What the first week must have left behind.' \
  pruning-bootcamp validate week1
end_day 7
