#!/usr/bin/env bash
# ./scripts/day12_slice_proof.sh        about 30 s on 2 busy cores; DATASET=cifar10 for the full setting (a GPU)
# You should see: 'Slice proof: passed', with a difference near 1e-16: the two networks are the same but for the
# rounding of float64.
# Written from pruning_bootcamp/course/days/day12.md by python -m pruning_bootcamp.course.pages
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_day 12 'Shapes that fit, and the slice proof'
needs_file results/baseline/best_model.pth 1
needs_file results/course/l1_sp0.5_untrained/pruned_model.pth 11
step 'Yesterday'"'"'s cut from its file alone: it carries its own widths.' \
  pruning-bootcamp eval -c cfgs/digits.yaml --checkpoint \
  results/course/l1_sp0.5_untrained/pruned_model.pth
step_that_may_miss 'Half the FLOPs in widths that are multiples of 8; the slice proof is printed before fine-tuning.' \
  pruning-bootcamp prune-structured -c cfgs/digits.yaml --method bn_scale \
  --target-flops-reduction 0.5 --round-to 8 --save-dir results/course/bn_scale_flops0.5_round8
end_day 12
