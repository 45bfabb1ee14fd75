#!/usr/bin/env bash
# ./scripts/day04_global.sh        about 45 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: At 80% without any training the global ranking keeps points that layerwise lost: the same score, the
# same number of zeros, only spread differently.
# Written from pruning_bootcamp/course/days/day04.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 4 'Global magnitude: one ranking for all layers'
needs_file results/baseline/best_model.pth 1
step 'One ranking over the whole network, half of the weights, then fine-tuning.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method global --mode global \
  --sparsity 0.5
step_that_may_miss '80% by one ranking, no fine-tuning: compare with day 3'"'"'s layerwise 80%.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method global --mode global \
  --sparsity 0.8 --no-fine-tune --save-dir results/course/global_sp0.8_untrained
end_day 4
