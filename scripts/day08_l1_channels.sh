#!/usr/bin/env bash
# ./scripts/day08_l1_channels.sh        about 45 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: Two networks that get 95% or more right.
# Written from pruning_bootcamp/course/days/day08.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 8 'Channels by the size of their filters'
needs_file results/baseline/best_model.pth 1
step_that_may_miss '40% of the channels, by L1; proven, fine-tuned, judged.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method l1 --sparsity 0.4
step_that_may_miss '40% of the channels at random, everything else the same.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method random --sparsity 0.4
end_day 8
