#!/usr/bin/env bash
# ./scripts/day18_n_of_m_in_practice.sh        about 60 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: 2:4 saves no FLOPs, and dense kernels multiply by its zeros: compare the two times with the noise of
# day 2.
# Written from pruning_bootcamp/course/days/day18.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 18 'N:M in practice: does it pay, and how far does it go'
needs_file results/baseline/best_model.pth 1
needs_file results/unstructured/l1_layerwise_2of4/pruned_model.pth 17
step 'The 2:4 network against the dense one, timed in turn on this machine.' \
  pruning-bootcamp profile -c cfgs/digits.yaml --baseline results/baseline/best_model.pth \
  --pruned results/unstructured/l1_layerwise_2of4/pruned_model.pth --save-results \
  results/course/profile_2of4.yaml
step_that_may_miss '1:4, no fine-tuning.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method l1 --pattern 1:4 \
  --no-fine-tune --save-dir results/course/1of4_untrained
step_that_may_miss '75% of each layer freely chosen, no fine-tuning.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method l1 --mode layerwise \
  --sparsity 0.75 --no-fine-tune --save-dir results/course/layerwise_sp0.75_untrained
step_that_may_miss '1:4 by SparseGPT: the kept weights make up for the others.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method l1 --pattern 1:4 --solver \
  sparsegpt --no-fine-tune --save-dir results/course/1of4_sparsegpt_untrained
end_day 18
