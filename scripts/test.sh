#!/usr/bin/env bash
# ./scripts/test.sh [pytest options]     sets up .venv, then lint, types and tests. Under 15 minutes on 2 cores.
# ./scripts/test.sh -m slow              the long ones, which need minutes or the real CIFAR-10
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
set_up
echo "== ruff"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
echo "== mypy"
.venv/bin/mypy
echo "== pytest"
exec .venv/bin/python -m pytest "$@"
