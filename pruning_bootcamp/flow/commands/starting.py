"""quickstart: the whole way once, from training to a verified file."""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pruning_bootcamp.config import Config
from pruning_bootcamp.flow import verdict
from pruning_bootcamp.flow.commands.inspecting import EXPORTED, PROFILE, export, profile
from pruning_bootcamp.flow.commands.pruning import prune_structured, train
from pruning_bootcamp.flow.commands.tolerating import prune_within_drop
from pruning_bootcamp.flow.metrics import overlaid
from pruning_bootcamp.flow.naming import as_written
from pruning_bootcamp.flow.report import say_goal
from pruning_bootcamp.flow.run import REPORT
from pruning_bootcamp.flow.start import RESULTS, one_process, task_of
from pruning_bootcamp.flow.verdict import goal_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.reporting import comparison_rows, markdown_table, run_report
from pruning_bootcamp.results import Exports, Metrics, Profile
from pruning_bootcamp.runs import METRICS, read_results, write_text, write_yaml


def quickstart(cfg: Config, dry_run: bool = False) -> Metrics:
    """Every plan into its own folder under `results/quickstart`; a finished training or pruning is not done again.

    The metrics of the pruned network, with latency and `goal_met`.
    """
    one_process("quickstart")
    began = time.perf_counter()
    root = Path(cfg.save_dir or RESULTS / "quickstart")
    baseline, structured = root / "baseline", root / "structured"
    dense, pruned = baseline / "best_model.pth", structured / "pruned_model.pth"
    cut = _with(cfg, structured, pruned)
    prune = prune_structured if cfg.structured.max_accuracy_drop is None else prune_within_drop
    plans: dict[str, tuple[Path | None, Callable[[], object]]] = {
        "Train the dense network": (None, lambda: train(_with(cfg, baseline), dry_run=dry_run)),
        "Cut channels to the budget, prove the cut, fine-tune": (
            dense,
            lambda: prune(_with(cfg, structured, dense), dry_run=dry_run),
        ),
        "Export to ONNX and verify the file": (pruned, lambda: export(cut, dry_run=dry_run)),
        "Profile: FLOPs against latency on this machine": (
            pruned,
            lambda: profile(cut, baseline=str(dense), dry_run=dry_run),
        ),
    }
    for number, (title, (needed, carry_out)) in enumerate(plans.items(), start=1):
        LOGGER.info("\n##### Step %d of %d: %s #####", number, len(plans), title)
        if dry_run and needed is not None and not needed.exists():
            LOGGER.info("To do, once %s is there.", needed)
            continue
        carry_out()
    return Metrics() if dry_run else _page(cfg, root, structured, began)


def _page(cfg: Config, root: Path, structured: Path, began: float) -> Metrics:
    """What the plans wrote, on one page."""
    task = task_of(cfg)
    found = verdict.read_metrics(structured / METRICS, task.metric)
    exports, profiled = read_results(Exports, structured / EXPORTED), read_results(Profile, structured / PROFILE)
    assert found.baseline is not None
    assert profiled.baseline is not None
    assert profiled.pruned is not None
    dense = overlaid(found.baseline, profiled.baseline)
    metrics = overlaid(found, profiled.pruned, profiled.comparison)
    metrics = replace(metrics, baseline=dense, export=exports.formats)
    write_yaml(root / METRICS, as_written(task.metric, to_plain(metrics)))
    title = f"Quickstart: {cfg.model.name} on {cfg.data.name}"
    write_text(root / REPORT, run_report(title, metrics, task=task))
    rows = comparison_rows(dense, metrics, task.metric)
    LOGGER.info("\n%s", markdown_table(["metric", "dense", "pruned"], rows))
    for name, file in exports.formats.items():
        proof = f"verified, largest difference {file.max_difference:.1e}" if file.verified else "not verified"
        LOGGER.info("%s: %s, %s", name, file.file, proof)
    LOGGER.info("Report: %s", root / REPORT)
    LOGGER.info("Took %.0f s", time.perf_counter() - began)
    # of what was judged: the profile has timed the two once more, and at one batch size
    say_goal(metrics, verdict.verdict_on(cfg, goal_of(cfg, cut=True), found)[1])
    return metrics


def _with(cfg: Config, folder: Path, checkpoint: Path | None = None) -> Config:
    step = copy.deepcopy(cfg)
    step.save_dir = str(folder)
    step.checkpoint = None if checkpoint is None else str(checkpoint)
    return step
