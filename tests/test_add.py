"""The diffs of docs/add.md, applied to a copy of the repository, keep the contracts of what they add."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DIFFS = re.findall(r"```diff\n(.*?)```", (REPOSITORY / "docs" / "add.md").read_text(), re.DOTALL)
ADDED = re.findall(r'^\+@\w+\.register\("(\w+)"', "".join(DIFFS), re.MULTILINE)


def test_there_is_a_diff_of_each_kind() -> None:
    assert len(DIFFS) == len(ADDED) == 6


@pytest.mark.skipif(shutil.which("git") is None, reason="no git to apply the diffs with")
@pytest.mark.slow
def test_what_the_diffs_add_keeps_its_contract(tmp_path: Path) -> None:
    for name in ("pruning_bootcamp", "tests", "cfgs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(REPOSITORY / "pyproject.toml", tmp_path)
    for diff in DIFFS:
        done = subprocess.run(["git", "apply"], cwd=tmp_path, input=diff, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{diff}"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "-p",
        "no:cacheprovider",
        "tests/contracts",
        "-k",
        " or ".join(ADDED),
    ]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    for name in ADDED:
        assert re.search(rf"^PASSED .*\[.*{name}.*\]", done.stdout, re.MULTILINE), f"{name}: no contract was tested"
