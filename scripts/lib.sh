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
import pruning_bootcamp.listing, pruning_bootcamp.flow.commands' >/dev/null 2>&1 ||
    fail "the installed packages can't be imported. Try: .venv/bin/pruning-bootcamp list --debug"
  printf '%s' "$wanted" > .venv/installed
}

# What the days of the course share. DATASET=digits (default) or cifar10, whose results are in a folder of their own.

begin_day() {
  set_up
  results=results missed=0
  case "${DATASET:=digits}" in
    digits) ;;
    cifar10)
      [ -d data/cifar10 ] || fail "DATASET=cifar10: there is no data/cifar10. Unpack CIFAR-10 there, or leave DATASET out for the digits."
      results=results-cifar10
      ;;
    *) fail "DATASET: '$DATASET' is not known. Available: digits, cifar10." ;;
  esac
  printf '\n== Day %s: %s (%s)\n' "$1" "$2" "$DATASET"
}

# needs_file FILE DAY: what an earlier day makes
needs_file() {
  local file=$results${1#results}
  [ -e "$file" ] || fail "$file is not there: day $2 makes it. Run ./$(echo scripts/day"$(printf '%02d' "$2")"_*.sh) first."
}

# step WHY COMMAND...: says why, shows the command as it is run, and runs it. A goal that is not met (exit 3) does not
# end the day before its time; the day then ends in 3.
step() {
  local code=0
  try_step "$@" || code=$?
  [ "$code" = 0 ] && return
  [ "$code" = 3 ] || exit "$code"
  if [ "$DATASET" = digits ]; then
    missed=3
    echo "(exit 3: not met, as is said above; the day goes on)"
  else
    echo "(exit 3: not met, as is said above. The course's goals are the digits'; the day goes on)"
  fi
}

# As `step`, where a goal that is not met is part of the lesson.
step_that_may_miss() {
  local code=0
  try_step "$@" || code=$?
  [ "$code" = 0 ] && return
  [ "$code" = 3 ] || exit "$code"
  echo "(exit 3: the goal is not met, which today may be; the day goes on)"
}

# Runs in a condition, where `set -e` is off: each failure is returned by hand.
try_step() {
  local why=$1 word lines words=()
  shift
  if [ "$DATASET" = digits ]; then
    words=("$@")
  else
    lines=$(.venv/bin/python -m pruning_bootcamp.course.dataset "$DATASET" "$@") || return
    while IFS= read -r word; do words+=("$word"); done <<< "$lines"
  fi
  printf '\n# %s\n$ %s\n' "$why" "${words[*]}"
  case ${words[0]} in
    pruning-bootcamp) .venv/bin/python -m pruning_bootcamp "${words[@]:1}" ;;
    python) .venv/bin/python "${words[@]:1}" ;;
    *) "${words[@]}" ;;
  esac
}

# The day's figures beside the course's, which are the digits'.
end_day() {
  printf '\n== Day %s: what the course states, and what is here\n' "$1"
  .venv/bin/python -m pruning_bootcamp curriculum day "$1" --figures --dataset "$DATASET"
  exit "$missed"
}
