"""Every command and option family on digits: what came out when it was recorded comes out now, to the bit.

`run.py` types the commands. Where this machine forms its sums in another order than the one that recorded (the canary
differs), weights and what is measured with them are left out: exit codes, files, keys and what is counted still hold.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).resolve().parent
EXPECTED: dict[str, Any] = yaml.safe_load((HERE / "expected.yaml").read_text())
COMMANDS: dict[str, str] = yaml.safe_load((HERE / "commands.yaml").read_text())
# Figures that follow from the layers' shapes and what was asked for: the same on any machine.
COUNTED = {"flops_g", "flops_g_thop", "prunable_params", "images", "test_images", "seed", "steps", "epochs", "goal"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("golden") / "found.json"
    program = [sys.executable, str(HERE / "run.py"), "--json", str(out)]
    done = subprocess.run(program, capture_output=True, text=True, env=dict(os.environ), timeout=540)
    assert done.returncode == 0, done.stderr[-3000:]
    content: dict[str, Any] = json.loads(out.read_text())
    return content


@pytest.mark.parametrize("name", COMMANDS)
def test_the_exit_code(found: dict[str, Any], name: str) -> None:
    assert found["exits"][name] == EXPECTED["exits"][name], found["printed"][name][-2000:]


def test_no_file_is_lost_and_none_is_new(found: dict[str, Any]) -> None:
    assert sorted(found["files"]) == sorted(EXPECTED["files"])
    assert len(EXPECTED["files"]) > 100


@pytest.mark.parametrize("name", [name for name, content in EXPECTED["files"].items() if isinstance(content, dict)])
def test_the_figures(found: dict[str, Any], name: str) -> None:
    there, mine = EXPECTED["files"][name], found["files"][name]
    assert sorted(mine) == sorted(there)
    if not same_sums(found):
        names = [key for key in there if key.rpartition(".")[2] in COUNTED and "structured" not in name]
        there, mine = {key: there[key] for key in names}, {key: mine[key] for key in names}
    assert mine == json.loads(json.dumps(there))


@pytest.mark.parametrize("name", [name for name in EXPECTED["files"] if name.endswith((".pth", ".safetensors"))])
def test_the_weights(found: dict[str, Any], name: str) -> None:
    if not same_sums(found):
        pytest.skip("this machine forms its sums in another order than the one that recorded the weights")
    assert found["files"][name] == EXPECTED["files"][name]


def same_sums(found: dict[str, Any]) -> bool:
    return bool(found["canary"] == EXPECTED["canary"] and found["torch"] == EXPECTED["torch"])
