#!/usr/bin/env bash
# ./scripts/day11_dependency_graph.sh        about 30 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: Twelve groups.
# Written from pruning_bootcamp/course/days/day11.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 11 'The dependency graph: what lives and dies together'
needs_file results/baseline/best_model.pth 1
step 'Half of the channels by L1: the groups, what would go of each, what can'"'"'t be cut. Nothing is written.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method l1 --sparsity 0.5 --dry-run
step 'The first stage left out: everything tied to it stays too.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method l1 --sparsity 0.5 --dry-run \
  structured.exclude=[layer1.*]
step_that_may_miss 'The cut itself, without training, for tomorrow'"'"'s proof.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method l1 --sparsity 0.5 \
  --no-fine-tune --save-dir results/course/l1_sp0.5_untrained
end_day 11
