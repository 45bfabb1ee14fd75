# Shared by the scripts: makes .venv from requirements.lock, hashes checked. Nothing is installed outside the checkout.
# A second run sees the stamp and changes nothing.

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

find_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  fail "no python3 of version 3.11 or newer on the PATH. Install one (https://www.python.org/downloads/) and run this again."
}

find_uv() {
  if command -v uv >/dev/null 2>&1; then
    command -v uv
    return
  fi
  if [ ! -x .venv/bin/uv ]; then
    echo "installing uv into .venv" >&2
    # only the locked version, by its hash: the block of uv in the lock
    awk '/^uv==/ {found = 1} found {print} found && !/\\$/ {exit}' requirements.lock > .venv/uv.requirements
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.requirements >&2 ||
      fail "uv could not be installed. Is there a network? Then run this again, or install uv yourself: https://docs.astral.sh/uv/"
  fi
  printf '%s' .venv/bin/uv
}

# Leaves the caller in the repository's root with .venv ready.
set_up() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
  local wanted python uv
  wanted=$(cat requirements.lock pyproject.toml | cksum)
  if [ -x .venv/bin/pruning-bootcamp ] && [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ]; then
    echo "set-up: .venv is up to date"
    return
  fi
  if [ ! -x .venv/bin/python ]; then
    python=$(find_python) || exit 2
    echo "set-up: making .venv with $("$python" --version)"
    "$python" -m venv .venv || fail "python's venv module failed. On Debian or Ubuntu: apt install python3-venv. Then: rm -rf .venv and run this again."
  fi
  uv=$(find_uv) || exit 2
  echo "set-up: installing the locked packages (a few GB with torch; under a minute on a fast network)"
  "$uv" pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock ||
    fail "the packages could not be installed. Is there a network and room on the disk? Then run this again."
  "$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e . ||
    fail "the project itself could not be installed."
  # compiled once, whatever PYTHONDONTWRITEBYTECODE says: without it every command takes seconds longer to start
  PYTHONDONTWRITEBYTECODE='' .venv/bin/python -c 'import onnxruntime.quantization, onnxscript, sklearn.datasets, thop
import torch.export, torch.onnx, torch.utils.tensorboard, torch_pruning
import pruning_bootcamp.listing, pruning_bootcamp.pipeline.commands, pruning_bootcamp.quickstart' >/dev/null 2>&1 ||
    fail "the installed packages can't be imported. Try: .venv/bin/pruning-bootcamp list --debug"
  printf '%s' "$wanted" > .venv/installed
}
