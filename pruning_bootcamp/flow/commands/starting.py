"""quickstart: the whole way once, from training to a verified file."""

import copy
import time
from dataclasses import replace
from pathlib import Path

from pruning_bootcamp.config import Config
from pruning_bootcamp.flow import verdict
from pruning_bootcamp.flow.commands.looking import export, profile
from pruning_bootcamp.flow.commands.pruning import prune_structured, train
from pruning_bootcamp.flow.metrics import overlaid
from pruning_bootcamp.flow.report import say_goal
from pruning_bootcamp.flow.run import (
    REPORT,
)
from pruning_bootcamp.flow.start import (
    one_process,
)
from pruning_bootcamp.flow.verdict import goal_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.reporting import comparison_rows, markdown_table, run_report
from pruning_bootcamp.results import Metrics
from pruning_bootcamp.runs import (
    METRICS,
    write_text,
    write_yaml,
)

_QUICKSTART = (
    "Train the dense network",
    "Cut channels to half the FLOPs, prove the cut, fine-tune",
    "Export to ONNX and verify the file",
    "Profile: FLOPs against latency on this machine",
)


def quickstart(cfg: Config) -> Metrics:
    """Every step into its own folder under `results/quickstart`; a finished training or pruning is not done again.

    The metrics of the pruned network, with latency and `goal_met`.
    """
    one_process("quickstart")
    began = time.perf_counter()
    root = Path(cfg.save_dir or "results/quickstart")
    checkpoints = {"dense": root / "baseline" / "best_model.pth", "pruned": root / "structured" / "pruned_model.pth"}

    _announce(1)
    train(_with(cfg, root / "baseline"))
    _announce(2)
    pruned = prune_structured(_with(cfg, root / "structured", checkpoints["dense"]))
    _announce(3)
    exported = export(_with(cfg, root / "structured", checkpoints["pruned"]))
    _announce(4)
    profiled = profile(_with(cfg, root / "structured", checkpoints["pruned"]), baseline=str(checkpoints["dense"]))

    assert pruned.baseline is not None
    assert profiled.baseline is not None
    assert profiled.pruned is not None
    dense = overlaid(pruned.baseline, profiled.baseline)
    metrics = overlaid(pruned, profiled.pruned, profiled.comparison)
    metrics = replace(metrics, baseline=dense, export=exported.formats)
    write_yaml(root / METRICS, to_plain(metrics))
    write_text(root / REPORT, run_report(f"Quickstart: {cfg.model.name} on {cfg.data.name}", metrics))

    LOGGER.info("\n%s", markdown_table(["figure", "dense", "pruned"], comparison_rows(dense, metrics)))
    for name, file in exported.formats.items():
        proof = f"verified, largest difference {file.max_difference:.1e}" if file.verified else "not verified"
        LOGGER.info("%s: %s, %s", name, file.file, proof)
    LOGGER.info("Report: %s", root / REPORT)
    LOGGER.info("Took %.0f s", time.perf_counter() - began)
    say_goal(metrics, verdict.verdict_on(cfg, goal_of(cfg, cut=True), metrics)[1])
    return metrics


def _with(cfg: Config, folder: Path, checkpoint: Path | None = None) -> Config:
    step = copy.deepcopy(cfg)
    step.save_dir = str(folder)
    step.checkpoint = None if checkpoint is None else str(checkpoint)
    return step


def _announce(number: int) -> None:
    LOGGER.info("\n##### Step %d of %d: %s #####", number, len(_QUICKSTART), _QUICKSTART[number - 1])
