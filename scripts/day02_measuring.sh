#!/usr/bin/env bash
# ./scripts/day02_measuring.sh        about 60 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: FLOPs and parameters fall by exactly 0%.
# Written from pruning_bootcamp/course/days/day02.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 2 'Measuring: accuracy, FLOPs, parameters, latency'
needs_file results/baseline/best_model.pth 1
step 'Accuracy, FLOPs by two counters, parameters, latency.' \
  pruning-bootcamp eval -c cfgs/digits.yaml --checkpoint results/baseline/best_model.pth \
  --measure-latency
step 'The same against itself by figures: every reduction must be 0.' \
  pruning-bootcamp eval -c cfgs/digits.yaml --checkpoint results/baseline/best_model.pth \
  --baseline-metrics results/baseline/metrics.yaml --save-dir results/course/against_itself
step 'The dense network timed against itself, in turn: whatever differs is the noise of this machine.' \
  pruning-bootcamp profile -c cfgs/digits.yaml --baseline results/baseline/best_model.pth \
  --pruned results/baseline/best_model.pth --save-results results/course/noise_floor.yaml
end_day 2
