"""Every pipeline step: what it promises whatever it is, and that its network is what comes out."""

from pathlib import Path

import pytest
import torch

from pruning_bootcamp import load_model
from pruning_bootcamp.config import load
from pruning_bootcamp.flow.commands import pipeline, pipeline_plan
from pruning_bootcamp.flow.compressions import COMPRESSIONS, check_order
from pruning_bootcamp.flow.plan import TEST
from pruning_bootcamp.preflight import check

SMOKE = Path(__file__).resolve().parents[2] / "cfgs" / "smoke" / "pipeline.yaml"
QUICK = ("recover.steps=3", "recover.images=64", "recover.batch_size=32", "structured.score=l1")


def steps_with(name: str) -> list[str]:
    changes = COMPRESSIONS[name].facts.keys() & {"removes", "quantizes"}
    return [name] if changes else ["prune-unstructured", name]


@pytest.mark.parametrize("name", list(COMPRESSIONS))
def test_its_network_is_what_is_evaluated_and_shipped(name: str, tmp_path: Path) -> None:
    overrides = (*QUICK, f"pipeline.steps=[{', '.join(steps_with(name))}]", f"save_dir={tmp_path / 'run'}")
    cfg = load(SMOKE, overrides)
    check(cfg, "pipeline run", str(SMOKE))
    plan = pipeline_plan(cfg)[1]
    evaluate = next(step for step in plan.steps if step.name == TEST)
    assert evaluate.inputs["before"] == plan.last
    assert plan.last.startswith(f"{len(cfg.pipeline.steps)}-{name}-")
    metrics = pipeline(cfg)
    facts = COMPRESSIONS[name].facts
    assert metrics.goal_met is True
    if facts.get("removes"):
        assert (metrics.sparsity or 0) > 0.4 or (metrics.flops_reduction_pct or 0) > 40
    images = torch.randn(3, 1, 8, 8)
    assert load_model(tmp_path / "run" / "pruned_model.pth")(images).isfinite().all()


@pytest.mark.parametrize("name", list(COMPRESSIONS))
def test_an_order_without_sense_is_refused(name: str) -> None:
    facts = COMPRESSIONS[name].facts
    assert check_order(steps_with(name)) == []
    if facts.get("once"):
        assert any("comes twice" in str(problem) for problem in check_order([name, name]))
    if not facts.keys() & {"removes", "quantizes"}:
        assert any("nothing to recover from" in str(problem) for problem in check_order([name]))
