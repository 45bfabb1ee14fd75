#!/usr/bin/env bash
# ./scripts/day03_layerwise.sh        about 60 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: Half of the weights gone by size, then fine-tuned, cost two points at most, and by far most often none
# that 449 images can show.
# Written from pruning_bootcamp/course/days/day03.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 3 'L1 magnitude, layer by layer'
needs_file results/baseline/best_model.pth 1
step 'Half of every layer'"'"'s weights to zero, smallest first, then 15 epochs with the zeros held.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method l1 --mode layerwise \
  --sparsity 0.5
step_that_may_miss '80% of every layer, and no fine-tuning: the raw damage.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method l1 --mode layerwise \
  --sparsity 0.8 --no-fine-tune --save-dir results/course/layerwise_sp0.8_untrained
step_that_may_miss 'Half of all weights drawn at random, no fine-tuning: the floor under every score.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method random --mode global \
  --sparsity 0.5 --no-fine-tune --save-dir results/course/random_sp0.5_untrained
end_day 3
