#!/usr/bin/env bash
# ./scripts/day05_sensitivity.sh        about 45 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: The first convolution (144 weights) alone at 90% costs more than any one of the third stage's, which
# hold most of the weights, at 90%.
# Written from pruning_bootcamp/course/days/day05.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 5 'Allocation: which layers can spare weights'
needs_file results/baseline/best_model.pth 1
needs_file results/course/layerwise_sp0.8_untrained/metrics.yaml 3
needs_file results/course/global_sp0.8_untrained/metrics.yaml 4
step 'One layer at a time to 50, 70 and 90%, validation accuracy each time; nothing is trained.' \
  pruning-bootcamp sensitivity -c cfgs/digits.yaml --sparsities 0.5,0.7,0.9 --by layer
step_that_may_miss 'ERK at 80%, no fine-tuning: beside layerwise (day 3) and global (day 4).' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method magnitude --mode erk \
  --sparsity 0.8 --no-fine-tune --save-dir results/course/erk_sp0.8_untrained
step_that_may_miss '80% spread by the scan, no fine-tuning.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method l1 --sparsity 0.8 \
  --no-fine-tune prune.allocation.name=sensitivity \
  prune.allocation.args.file=results/sensitivity/magnitude_layer/sensitivity.yaml --save-dir \
  results/course/by_scan_sp0.8_untrained
end_day 5
