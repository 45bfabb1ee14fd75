#!/usr/bin/env bash
# ./scripts/day19_sweep.sh        about 120 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: 24 trials, each run to its end (three epochs are too few to stop one early), and a front of several:
# from the least accuracy at the fewest FLOPs to the most accuracy at the most.
# Written from pruning_bootcamp/course/days/day19.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 19 'A sweep, and its Pareto front'
needs_file results/baseline/best_model.pth 1
step 'All combinations of the sweep'"'"'s config, two at a time; killed, it goes on.' \
  pruning-bootcamp sweep -c cfgs/sweep/digits.yaml --sampler grid --trials 24 --workers 2 \
  --save-dir results/sweep/digits
step 'The trials and the front.' \
  pruning-bootcamp sweep show --save-dir results/sweep/digits
end_day 19
