#!/usr/bin/env bash
# ./scripts/course.sh        all 21 days in order, 21 minutes on 2 busy cores; DATASET=cifar10 too
# You should see each day end in its figures, and at last the checks of all weeks. A finished day is quick.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
./scripts/day01_baseline.sh
./scripts/day02_measuring.sh
./scripts/day03_layerwise.sh
./scripts/day04_global.sh
./scripts/day05_sensitivity.sh
./scripts/day06_iterative.sh
./scripts/day07_fine_tuning.sh
./scripts/day08_l1_channels.sh
./scripts/day09_bn_scale.sh
./scripts/day10_real_flops.sh
./scripts/day11_dependency_graph.sh
./scripts/day12_slice_proof.sh
./scripts/day13_export.sh
./scripts/day14_flops_and_latency.sh
./scripts/day15_taylor_and_movement.sh
./scripts/day16_importance_and_impact.sh
./scripts/day17_n_of_m.sh
./scripts/day18_n_of_m_in_practice.sh
./scripts/day19_sweep.sh
./scripts/day20_comparison_and_report.sh
./scripts/day21_failures_and_lessons.sh
