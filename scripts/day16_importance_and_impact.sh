#!/usr/bin/env bash
# ./scripts/day16_importance_and_impact.sh        about 20 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: Over all filters Taylor and OBD, which look at the data, rank better than magnitude, and than random,
# and **random ranks them backwards.** Random is not supposed to know anything, and within layers it doesn't: about 0.
# Written from pruning_bootcamp/course/days/day16.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 16 'Does a score tell the truth?'
needs_file results/baseline/best_model.pth 1
step '76 filters removed one at a time; seven scores against what really happened.' \
  python benchmarks/importance_impact.py -c cfgs/digits.yaml --filters 4
end_day 16
