"""A whole pipeline under a killer (benchmarks/kills.py): 50 kills at random moments, and what each write can leave."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

KILLER = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


def killed(*options: str) -> dict[str, Any]:
    """The summary; the test fails with it when anything differed from the unbroken run."""
    program = [sys.executable, str(KILLER), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    summary: dict[str, Any] = yaml.safe_load(done.stdout)
    return summary


@pytest.mark.slow
def test_a_kill_and_states_between_two_writes() -> None:
    summary = killed("--kills", "1", "--writes", "2", "--faults", "0")
    assert summary["kills"]["sent"] == 1
    assert summary["writes"]["tried"] == 2
    assert summary["writes"]["states"] > 30


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_some_kills_states_and_failing_disks() -> None:
    summary = killed("--kills", "3", "--writes", "4", "--faults", "3")
    assert summary["kills"]["sent"] == 3
    assert summary["writes"]["tried"] == 4
    assert summary["writes"]["states"] > 30
    for fault in ("full_disk", "read_only"):
        assert summary[fault]["tried"] == 3
        assert summary[fault].get("exit 2", 0) >= 2  # the cache of decoded images can be done without


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_every_state_and_every_failing_write() -> None:
    summary = killed("--kills", "50")
    assert summary["kills"]["sent"] == 50
    assert summary["writes"]["tried"] == summary["writes"]["states"]
