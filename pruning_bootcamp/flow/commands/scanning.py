"""sensitivity: what each layer or block loses when it alone is pruned."""

from dataclasses import replace

from pruning_bootcamp.config import Config
from pruning_bootcamp.flow import plan as plans
from pruning_bootcamp.flow.commands.pruning import check_ahead
from pruning_bootcamp.flow.metrics import about, overlaid
from pruning_bootcamp.flow.outcomes import Scanned
from pruning_bootcamp.flow.plan import DENSE, SCAN
from pruning_bootcamp.flow.run import (
    Carried,
    Command,
    carry_out,
    finish,
)
from pruning_bootcamp.flow.start import (
    RESULTS,
    checkpoint_path,
    one_process,
    task_of,
)
from pruning_bootcamp.flow.steps import scan
from pruning_bootcamp.heatmap import show_heat_map
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plugins import short_name
from pruning_bootcamp.results import Metrics, scan_as_read
from pruning_bootcamp.runs import Run, read_yaml


def sensitivity(cfg: Config, resume: bool | None = None, dry_run: bool = False) -> Metrics:
    """Prune one layer or block at a time, measure, put it back; then the heat map. A killed scan goes on."""
    one_process("sensitivity")
    plan = plans.begin(cfg, checkpoint_path(cfg.checkpoint))
    plans.scan_layers(plan)
    command = Command(
        "sensitivity",
        RESULTS / "sensitivity" / f"{short_name(cfg.prune.score.name)}_{cfg.sensitivity.by}",
        _finish_scan,
        (scan.RESULT, scan.TABLE),
        testing=False,
        again=_show_scan,
        prepare=check_ahead,
    )
    return carry_out(command, plan, resume, dry_run=dry_run)


def _show_scan(run: Run, metrics: Metrics) -> Metrics:
    path = run.path(scan.RESULT)
    show_heat_map(scan_as_read(read_yaml(path), str(path)))
    return metrics


def _finish_scan(carried: Carried) -> Metrics:
    cfg, run = carried.cfg, carried.run
    found: Scanned = carried.done[SCAN].outcome
    scan.write_scan(run, found.table, f"Sensitivity of {cfg.model.name} on {cfg.data.name}")
    carried.progress.complete()
    known = overlaid(scan.scan_metrics(found.table), carried.done[DENSE].outcome.known)
    metrics = replace(known, judged_on="validation", seconds=carried.done[SCAN].seconds)
    metric = task_of(cfg).metric
    finished = finish(run, about(metrics, cfg, carried.splits, carried.device), metric)
    show_heat_map(found.table)
    LOGGER.info("\nResults saved to %s", run.folder)
    LOGGER.info(
        "Prune by it: pruning-bootcamp prune-unstructured --mode sensitivity prune.allocation.args.file=%s",
        run.path(scan.RESULT),
    )
    return finished
