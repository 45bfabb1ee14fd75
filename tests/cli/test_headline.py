"""The headline script, rehearsed: the same commands on a few real images, which says nothing about accuracy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN_A_CLASS, TEST_A_CLASS = 30, 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_headline_runs_on_a_subset(cifar10_folder: Path, tmp_path: Path) -> None:
    for part, count in (("train", TRAIN_A_CLASS), ("test", TEST_A_CLASS)):
        for place in sorted((cifar10_folder / part).iterdir()):
            (tmp_path / "cifar10" / part / place.name).mkdir(parents=True)
            for image in sorted(place.iterdir())[:count]:
                shutil.copy(image, tmp_path / "cifar10" / part / place.name)
    overrides = ("train.epochs=1", "fine_tune.epochs=1", "train.batch_size=64", "train.compile=false", "train.lr=0.05")
    done = subprocess.run(
        [str(REPOSITORY / "scripts" / "headline_cifar10.sh"), f"data.root={tmp_path}", *overrides],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, "OUT": "out"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: trained for one epoch, the goal is out of reach
    assert "Traceback" not in done.stderr
    published = tmp_path / "out" / "published"
    dense = yaml.safe_load((published / "dense" / "metrics.yaml").read_text())
    pruned = yaml.safe_load((published / "pruned" / "metrics.yaml").read_text())
    assert (dense["flops_g"], dense["params_m"]) == (pytest.approx(0.5556, abs=2e-3), pytest.approx(11.174, abs=1e-3))
    assert 49 <= pruned["flops_reduction_pct"] <= 51
    assert pruned["goal_met"] is (done.returncode == 0)
    assert all(kept % 8 == 0 for before, kept in pruned["widths"].values() if kept != before)
    assert (published / "pruned" / "report.md").exists()
    assert {path.name for path in (tmp_path / "out" / "pruned").glob("model.*")} == {"model.onnx", "model.pt"}
