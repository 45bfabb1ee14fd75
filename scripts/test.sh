#!/usr/bin/env bash
# ./scripts/test.sh                      sets up .venv, then lint, types, the site and tests, on up to 4 cores. About 11 minutes on 2.
# ./scripts/test.sh -m slow              the long ones, which need minutes or the real CIFAR-10
# ./scripts/test.sh PYTEST-OPTIONS       any others; in one process unless they hold -n
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
set_up
echo "== ruff"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
echo "== mypy"
.venv/bin/mypy
echo "== documentation: the site, built strictly into a temporary folder (a broken link or an unknown name ends it)"
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
.venv/bin/python docs/build.py "$site"
echo "== pytest"
if [ $# -eq 0 ]; then
  workers=$(.venv/bin/python -c 'import os; print(min(4, len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0))))')
  if [ "$workers" -gt 1 ]; then
    set -- -n "$workers" --dist worksteal
  fi
fi
.venv/bin/python -m pytest "$@"
