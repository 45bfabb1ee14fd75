#!/usr/bin/env bash
# ./scripts/lock.sh [uv options]    makes requirements.lock anew from pyproject.toml: every platform, every artifact's hash.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
set_up
"$(find_uv)" pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
  --extra dev --extra timm --extra sweep --extra report --extra cluster --extra docs --extra openvino "$@" pyproject.toml -o requirements.lock
