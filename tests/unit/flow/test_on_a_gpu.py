"""The pipeline and the stages with their network on a GPU and their files on the CPU: a pretended GPU, no mixing.

Underneath both compute on the CPU, so what comes out must also be the same to the bit.
"""

import contextlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pruning_bootcamp.config import Config, load
from pruning_bootcamp.flow import commands as stages
from pruning_bootcamp.flow.commands import pipeline as run
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.runs import read_yaml
from pruning_bootcamp.tools.latency import compare_latencies

SMOKE = Path(__file__).resolve().parents[3] / "cfgs" / "smoke" / "pipeline.yaml"
QUICK = (
    *("data.limit=64", "train.epochs=2it", "train.batch_size=16", "fine_tune.epochs=1it", "quantize.epochs=1it"),
    *("prune.calibration_images=8", "recover.bn_images=16", "recover.images=32", "recover.steps=2"),
    *("recover.batch_size=16", "sensitivity.images=16", "sensitivity.bn_images=16", "profile.runs=3"),
)
FACTORY = """
from torch import nn

class Small(nn.Module):
    def __init__(self, classes, in_channels):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.block(x)).mean((2, 3)))

def small(classes, in_channels):
    return Small(classes, in_channels)
"""
SMALL = "model.name=small_on_a_gpu:small"
PIPELINES = {
    "the smoke config": (),  # ResNet-20, score obd, quantised
    "in cycles": (SMALL, "prune.iterations=2", "prune.allocation.name=second_order"),
    "solver that reads images": (
        *(SMALL, "pipeline.steps=[prune-unstructured]", "prune.solver.name=sparsegpt", "prune.score=wanda"),
        *("recover.method=distill", "train.ema=0.9", "train.clip_grad_norm=1.0"),
    ),
    "every step": (
        SMALL,
        "pipeline.steps=[prune-structured, prune-unstructured, distill, fine-tune, quantize]",
        "structured.round_to=1",  # auto is 8 on a GPU only
        *("prune.gradual=true", "fine_tune.epochs=3it", "structured.score=l1", "gates.min_latency_reduction_pct=-1e6"),
    ),
}


def config(*overrides: str) -> Config:
    return load(SMOKE, (*QUICK, "device=auto", *overrides))


@pytest.fixture(autouse=True)
def _small_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small_on_a_gpu.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("small_on_a_gpu", None)
    monkeypatch.setattr(LOGGER, "propagate", True)


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    names = ("accuracy", "accuracy_drop", "sparsity", "flops_g", "params_m", "goal_met", "fall_backs")
    return {name: metrics.get(name) for name in names}


@pytest.mark.parametrize(
    "name",
    [
        "solver that reads images",
        "every step",
        pytest.param("the smoke config", marks=pytest.mark.slow),
        pytest.param("in cycles", marks=pytest.mark.slow),
    ],
)
def test_a_pipeline_ends_on_a_gpu_as_on_the_cpu(
    name: str, tmp_path: Path, pretending: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    found, said = {}, {}
    for device in ("cpu", "cuda"):
        caplog.clear()
        with (
            caplog.at_level("INFO", logger="pruning_bootcamp"),
            pretending.pretended_cuda() if device == "cuda" else contextlib.nullcontext(),
        ):
            found[device] = to_plain(run(config(f"save_dir={tmp_path / device}", *PIPELINES[name])))
            said[device] = caplog.text
    assert found["cuda"]["environment"]["device"] == "cuda:0 (pretended)"
    assert found["cpu"]["environment"]["device"].startswith("cpu")
    assert figures(found["cuda"]) == figures(found["cpu"])
    assert "peak memory of the device 1 MiB" in said["cuda"]
    assert "peak memory of the device" not in said["cpu"]


@pytest.mark.slow
def test_the_other_commands_run_on_a_gpu(
    tmp_path: Path, pretending: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quickly(pair: Any, **_: Any) -> Any:
        return compare_latencies(pair, runs=3, min_seconds=0.0, warmup_runs=1, warmup_seconds=0.0)

    monkeypatch.setattr("pruning_bootcamp.flow.steps.ways.compare_latencies", quickly)
    dense = tmp_path / "dense" / "best_model.pth"
    with pretending.pretended_cuda():
        stages.train(config(SMALL, f"save_dir={dense.parent}", "train.save_steps=[1it]", "train.mixup=0.2"))
        start = f"checkpoint={dense}", SMALL
        rewound = stages.prune_unstructured(
            config(
                *start, f"save_dir={tmp_path / 'ticket'}", "prune.rewind=1it", "prune.iterations=2", "prune.score=lamp"
            )
        )
        assert rewound.sparsity == pytest.approx(0.5, abs=0.01)
        cut = stages.prune_structured(config(*start, f"save_dir={tmp_path / 'cut'}", "recover.method=distill"))
        assert cut.flops_reduction_pct > 40
        scan = config(*start, f"save_dir={tmp_path / 'scan'}", "sensitivity.by=layer", "sensitivity.sparsities=[0.5]")
        assert stages.sensitivity(scan).points >= 2
        files = config(*start, f"save_dir={tmp_path / 'files'}", "export.format=sparse,torchscript")
        assert set(stages.export(files).formats) == {"sparse", "torchscript"}
        pruned = f"checkpoint={tmp_path / 'cut' / 'pruned_model.pth'}"
        timed = stages.profile(config(pruned, SMALL, f"save_dir={tmp_path / 'profile'}"), baseline=str(dense))
        judged = stages.evaluate(config(*start, f"save_dir={tmp_path / 'eval'}"), measure_latency=True)
    assert timed.latency.pruned.device == "cuda:0"
    assert {"torch, batch 256", "torch channels_last, batch 256"} <= timed.alternatives.keys()
    [graph] = timed.not_timed  # there is no driver to record one: a line, and the rest goes on
    assert graph.startswith("torch CUDA graph, batch 1: not timed (baseline: ")
    assert judged.environment.device == "cuda:0 (pretended)"
    assert read_yaml(tmp_path / "dense" / "metrics.yaml")["accuracy"] == judged.accuracy
