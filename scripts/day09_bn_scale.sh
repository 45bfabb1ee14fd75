#!/usr/bin/env bash
# ./scripts/day09_bn_scale.sh        about 95 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: Cut raw, both are ruined, and fine-tuning brings both back to 93% or more.
# Written from pruning_bootcamp/course/days/day09.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 9 'Channels by batch norm'"'"'s scale: Network Slimming'
needs_file results/baseline/best_model.pth 1
step_that_may_miss '50% of the channels by batch norm'"'"'s scale, of the network trained as usual; no fine-tuning.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method bn_scale --sparsity 0.5 \
  --no-fine-tune --save-dir results/course/bn_scale_sp0.5_untrained
step_that_may_miss 'The same with fine-tuning: the course'"'"'s own command.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method bn_scale --sparsity 0.5
step 'Train with the penalty.' \
  pruning-bootcamp train -c cfgs/digits.yaml train.bn_l1=0.001 --save-dir \
  results/course/slimming
step_that_may_miss 'Cut that network, without fine-tuning...' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method bn_scale --sparsity 0.5 \
  --no-fine-tune --checkpoint results/course/slimming/best_model.pth --save-dir \
  results/course/slimming_sp0.5_untrained
step_that_may_miss '... and with it.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method bn_scale --sparsity 0.5 \
  --checkpoint results/course/slimming/best_model.pth --save-dir results/course/slimming_sp0.5
end_day 9
