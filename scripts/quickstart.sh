#!/usr/bin/env bash
# ./scripts/quickstart.sh        sets up .venv, then trains, prunes, exports and proves a network on real digits.
# Takes under 2 minutes on 2 cores after the install. You should see a table and, at the end, "Goal MET".
# The results are under results/quickstart/ of this checkout, whatever the current directory.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
set_up
exec .venv/bin/pruning-bootcamp quickstart "$@"
