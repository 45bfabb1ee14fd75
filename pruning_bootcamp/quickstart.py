"""The whole way in two minutes: train, prune, fine-tune, evaluate, export, profile, and one table at the end."""

import copy
import time
from pathlib import Path
from typing import Any

from pruning_bootcamp.config import Config
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.reporting import comparison_rows, markdown_table, run_report
from pruning_bootcamp.runs import write_text, write_yaml
from pruning_bootcamp.stages import common, export, profile, prune_structured, train
from pruning_bootcamp.stages.afterwards import verdict_on
from pruning_bootcamp.stages.verdict import goal_of

STEPS = (
    "Train the dense network",
    "Cut channels to half the FLOPs, prove the cut, fine-tune",
    "Export to ONNX and verify the file",
    "Profile: FLOPs against latency on this machine",
)


def quickstart(cfg: Config) -> dict[str, Any]:
    """Every step into its own folder under `results/quickstart`; a finished training or pruning is not done again.

    The metrics of the pruned network, with latency and `goal_met`.
    """
    common.one_process("quickstart")
    began = time.perf_counter()
    root = Path(cfg.save_dir or "results/quickstart")
    checkpoints = {"dense": root / "baseline" / "best_model.pth", "pruned": root / "structured" / "pruned_model.pth"}

    _announce(1)
    train(_step(cfg, root / "baseline"))
    _announce(2)
    pruned = prune_structured(_step(cfg, root / "structured", checkpoints["dense"]))
    _announce(3)
    exported = export(_step(cfg, root / "structured", checkpoints["pruned"]))
    _announce(4)
    profiled = profile(_step(cfg, root / "structured", checkpoints["pruned"]), baseline=str(checkpoints["dense"]))

    dense = pruned["baseline"] | profiled["baseline"]
    figures = pruned | profiled["pruned"] | profiled["comparison"]
    metrics = figures | {"baseline": dense, "export": exported["formats"]}
    write_yaml(root / "metrics.yaml", metrics)
    write_text(root / "report.md", run_report(f"Quickstart: {cfg.model.name} on {cfg.data.name}", metrics))

    LOGGER.info("\n%s", markdown_table(["figure", "dense", "pruned"], comparison_rows(dense, metrics)))
    for name, file in exported["formats"].items():
        proof = f"verified, largest difference {file['max_difference']:.1e}" if file["verified"] else "not verified"
        LOGGER.info("%s: %s, %s", name, file["file"], proof)
    LOGGER.info("Report: %s", root / "report.md")
    LOGGER.info("Took %.0f s", time.perf_counter() - began)
    common.say_goal(metrics, verdict_on(cfg, goal_of(cfg, cut=True), metrics)[1])
    return metrics


def _step(cfg: Config, folder: Path, checkpoint: Path | None = None) -> Config:
    step = copy.deepcopy(cfg)
    step.save_dir = str(folder)
    step.checkpoint = None if checkpoint is None else str(checkpoint)
    return step


def _announce(number: int) -> None:
    LOGGER.info("\n##### Step %d of %d: %s #####", number, len(STEPS), STEPS[number - 1])
