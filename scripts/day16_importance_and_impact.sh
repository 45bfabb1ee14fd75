#!/usr/bin/env bash
# ./scripts/day16_importance_and_impact.sh        about 20 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: Over all filters the data-aware scores correlate at 0.3 to 0.7, and **random at about -0.5** (-0.7 on
# two threads).
# Written from the course's data: change it in pruning_bootcamp/curriculum/, then see docs/course/day16.md
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 16 'Does a score tell the truth?'
needs_file results/baseline/best_model.pth 1
step '76 filters removed one at a time; seven scores against what really happened.' \
  python benchmarks/importance_impact.py -c cfgs/digits.yaml --filters 4
end_day 16
