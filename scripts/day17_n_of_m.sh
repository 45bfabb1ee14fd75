#!/usr/bin/env bash
# ./scripts/day17_n_of_m.sh        about 45 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: With fine-tuning 2:4 costs 1.5 points at most.
# Written from pruning_bootcamp/course/days/day17.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 17 'N:M sparsity: two of every four'
needs_file results/baseline/best_model.pth 1
step '2:4 everywhere it fits, fine-tuned.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method l1 --pattern 2:4
step_that_may_miss '2:4 without fine-tuning...' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method l1 --pattern 2:4 \
  --no-fine-tune --save-dir results/course/2of4_untrained
step_that_may_miss '... against 50% of each layer, freely chosen, without fine-tuning.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method l1 --mode layerwise \
  --sparsity 0.5 --no-fine-tune --save-dir results/course/layerwise_sp0.5_untrained
step 'The 2:4 network as a sparse file.' \
  pruning-bootcamp export -c cfgs/digits.yaml --checkpoint \
  results/unstructured/l1_layerwise_2of4/pruned_model.pth --format sparse
end_day 17
