#!/usr/bin/env bash
# ./scripts/day15_taylor_and_movement.sh        about 65 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: At 80% without training, compare Taylor with size (day 4): which keeps more is not stated, some images
# of 449 apart are luck.
# Written from pruning_bootcamp/course/days/day15.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 15 'Scores with gradients: Taylor and movement'
needs_file results/baseline/best_model.pth 1
needs_file results/course/global_sp0.8_untrained/metrics.yaml 4
step 'Half of each layer by |g w|, fine-tuned.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method taylor --sparsity 0.5
step_that_may_miss 'Half of each layer by movement, fine-tuned.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method movement --sparsity 0.5
step_that_may_miss '80% over the whole network by Taylor, no fine-tuning: day 4 did it by size.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method taylor --mode global \
  --sparsity 0.8 --no-fine-tune --save-dir results/course/taylor_sp0.8_untrained
step_that_may_miss 'The same by movement.' \
  pruning-bootcamp prune-unstructured -c cfgs/digits.yaml --method movement --mode global \
  --sparsity 0.8 --no-fine-tune --save-dir results/course/movement_sp0.8_untrained
end_day 15
