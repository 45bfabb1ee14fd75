"""What OpenVINO leaves behind in the process."""

import ctypes
import gc
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pruning_bootcamp.backends import prepare

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("openvino") is None, reason="openvino is not installed: pip install '.[openvino]'"
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="the memory map of a process is read as Linux has it"),
]


class Stack(ctypes.Structure):
    """stack_t of signal.h."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signals_find_their_stack() -> bool:
    """Whether the stack on which this thread would handle a signal is there."""
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    if not stack.start:
        return True
    ranges = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    return any(int(low, 16) <= stack.start < int(high, 16) for low, high in ranges)


def test_runners_that_go_leave_a_stack_for_signals() -> None:
    batch = torch.randn(1, 3, 8, 8)
    runners = [prepare("openvino", nn.Conv2d(3, width, 3).eval(), batch, 1) for width in (4, 8)]
    while runners:
        del runners[0]
        gc.collect()
        assert signals_find_their_stack(), "Ctrl-C would end this process"
