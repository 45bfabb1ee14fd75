#!/usr/bin/env bash
# Two OpenVINO cores that go in the order in which they came leave the thread with a stack for signals that is freed.
#
# Versions: openvino 2026.4.1 (x86-64, Linux), numpy 2.3.3, Python 3.11 or newer.
# Expected: a library that sets the alternate stack for signals of the thread that calls it (sigaltstack) takes it back
#           when its objects go, whatever the order.
# Happens:  compiling for CPU sets one, for each Core; what goes puts back what was there when it came. Of two that overlap,
#           the later one puts back the earlier one's, which is unmapped by then. Any signal handler that asks for the
#           alternate stack, as Python's own do, would run there: Ctrl-C has ended a process so. No signal is sent here.
#           One Core for the whole process has no such trouble.
# Seen:
#   openvino 2026.4.1
#   one compiled: mapped
#   another core, another compiled: mapped
#   the first is gone: mapped
#   the second is gone: not mapped
#   one core, twice compiled, both gone: mapped
# Run: ./findings/openvino_signal_stack.sh   (a few hundred MB in a temporary folder; quicker with uv)
set -euo pipefail
packages=(openvino==2026.4.1 numpy==2.3.3)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
if command -v uv > /dev/null; then
  uv pip install --quiet --python "$work/venv/bin/python" "${packages[@]}"
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi
cat > "$work/stacks.py" <<'PYTHON'
import ctypes
import gc
import sys
from importlib import metadata
from pathlib import Path

import numpy
import openvino
from openvino import opset13


class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def state() -> str:
    """Of the memory that this thread's alternate stack for signals is in."""
    stack = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    if not stack.start:
        return "none"
    ranges = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    inside = any(int(low, 16) <= stack.start < int(high, 16) for low, high in ranges)
    return "mapped" if inside else "not mapped"


parameter = opset13.parameter([1, 8, 16, 16], numpy.float32)
weight = numpy.ones((8, 8, 3, 3), numpy.float32)
network = openvino.Model([opset13.convolution(parameter, weight, [1, 1], [0, 0], [0, 0], [1, 1])], [parameter])


def compiled(core: openvino.Core) -> openvino.CompiledModel:
    return core.compile_model(network, "CPU", {"INFERENCE_NUM_THREADS": 1})


if sys.argv[1] == "two":
    print("openvino", metadata.version("openvino"))
    first = compiled(openvino.Core())
    print("one compiled:", state())
    second = compiled(openvino.Core())
    print("another core, another compiled:", state())
    del first
    gc.collect()
    print("the first is gone:", state())
    del second
    gc.collect()
    print("the second is gone:", state())
else:
    core = openvino.Core()
    first, second = compiled(core), compiled(core)
    del first
    gc.collect()
    del second
    gc.collect()
    print("one core, twice compiled, both gone:", state())
PYTHON
(cd "$work" && venv/bin/python stacks.py two && venv/bin/python stacks.py one) | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
openvino 2026.4.1
one compiled: mapped
another core, another compiled: mapped
the first is gone: mapped
the second is gone: not mapped
one core, twice compiled, both gone: mapped
SEEN
echo "as described"
