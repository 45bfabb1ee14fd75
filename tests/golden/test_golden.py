"""Every command and option family on digits: what came out when it was recorded comes out now, to the bit.

`run.py` types the commands; those of LONG with `-m slow` only. Where this machine forms its sums in another order than
the one that recorded (the canary differs), weights and what is measured with them are left out: exit codes, files, keys
and what is counted still hold.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).resolve().parent
EXPECTED: dict[str, Any] = yaml.safe_load((HERE / "expected.yaml").read_text())
COMMANDS: dict[str, str] = yaml.safe_load((HERE / "commands.yaml").read_text())
# Commands of seconds, each with a shorter one of its kind beside it or, the sweep, in tests/cli/test_sweep.py.
LONG = {
    *("zeros_cycles", "zeros_sparsegpt", "zeros_taught", "channels_distilled", "export_more"),
    *("pipeline_channels", "pipeline_cycles", "sweep"),
}
WRITTEN_BY: dict[str, str] = EXPECTED["written_by"]
# Figures that follow from the layers' shapes and what was asked for: the same on any machine.
COUNTED = {"flops_g", "flops_g_thop", "prunable_params", "images", "test_images", "seed", "steps", "epochs", "goal"}


def is_long(name: str) -> bool:
    """Whether a command, or the one that writes a file, is typed with `-m slow` only."""
    return WRITTEN_BY.get(name, name) in LONG


def cases(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if is_long(name) else []) for name in names]


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("golden") / "found.json"
    chosen = request.session.items
    every = any(item.path == Path(__file__) and item.get_closest_marker("slow") for item in chosen)
    program = [sys.executable, str(HERE / "run.py"), "--json", str(out)]
    program += [name for name in COMMANDS if every or not is_long(name)]
    done = subprocess.run(program, capture_output=True, text=True, env=dict(os.environ), timeout=540)
    assert done.returncode == 0, done.stderr[-3000:]
    content: dict[str, Any] = json.loads(out.read_text())
    return content


@pytest.mark.parametrize("name", cases(COMMANDS))
def test_the_exit_code(found: dict[str, Any], name: str) -> None:
    assert found["exits"][name] == EXPECTED["exits"][name], found["printed"][name][-2000:]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_file_is_lost_and_none_is_new(found: dict[str, Any], every: bool) -> None:
    there, mine = (
        [name for name in files if every or not is_long(name)] for files in (EXPECTED["files"], found["files"])
    )
    assert sorted(mine) == sorted(there)
    assert len(there) > 100


@pytest.mark.parametrize(
    "name", cases(name for name, content in EXPECTED["files"].items() if isinstance(content, dict))
)
def test_the_figures(found: dict[str, Any], name: str) -> None:
    there, mine = EXPECTED["files"][name], found["files"][name]
    assert sorted(mine) == sorted(there)
    if not same_sums(found):
        names = [key for key in there if key.rpartition(".")[2] in COUNTED and "structured" not in name]
        there, mine = {key: there[key] for key in names}, {key: mine[key] for key in names}
    assert mine == json.loads(json.dumps(there))


@pytest.mark.parametrize("name", cases(name for name in EXPECTED["files"] if name.endswith((".pth", ".safetensors"))))
def test_the_weights(found: dict[str, Any], name: str) -> None:
    if not same_sums(found):
        pytest.skip("this machine forms its sums in another order than the one that recorded the weights")
    assert found["files"][name] == EXPECTED["files"][name]


def same_sums(found: dict[str, Any]) -> bool:
    return bool(found["canary"] == EXPECTED["canary"] and found["torch"] == EXPECTED["torch"])
