#!/usr/bin/env bash
# ./scripts/validate_week3.sh [--results DIR]        seconds
# You should see a ✓ for each thing that the week must have made; for each ✗ the command that mends it, and exit 3.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
set_up
exec .venv/bin/python -m pruning_bootcamp validate week3 "$@"
