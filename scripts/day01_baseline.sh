#!/usr/bin/env bash
# ./scripts/day01_baseline.sh        about 60 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: Two networks that get 96.5% of the test images right, and by far most often 99%.
# Written from pruning_bootcamp/course/days/day01.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 1 'The dense network'
step 'The dense network: 30 epochs, the best one by validation accuracy is kept.' \
  pruning-bootcamp train -c cfgs/digits.yaml
step 'The same with another seed: what differs now is luck, and no method may claim less than that.' \
  pruning-bootcamp train -c cfgs/digits.yaml --seed 1 --save-dir results/course/baseline_seed1
end_day 1
