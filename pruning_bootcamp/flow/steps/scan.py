"""sensitivity: each layer or block pruned alone at each sparsity, and what that costs on the validation images."""

import json
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from tqdm import tqdm

from pruning_bootcamp.config import Choice, Config
from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.evaluation import evaluate_on
from pruning_bootcamp.flow import settings
from pruning_bootcamp.flow.outcomes import Scanned
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.flow.step import Network, StepContext
from pruning_bootcamp.flow.steps import prune
from pruning_bootcamp.flow.steps.batch_norm import improver
from pruning_bootcamp.heatmap import as_csv, as_page, heat_report
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pages import has_plotly
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.weights.unstructured import UnstructuredResult, check_unstructured
from pruning_bootcamp.results import Metrics, Scan, scan_as_written
from pruning_bootcamp.runs import Run, write_text, write_yaml
from pruning_bootcamp.sensitivity import (
    Points,
    Quality,
    Site,
    as_scan,
    pruner,
    put_back,
    ranking,
    scan,
    sites,
)
from pruning_bootcamp.tasks import Measurement, Metric
from pruning_bootcamp.tools.datasets import Split, Splits
from pruning_bootcamp.training.batch_norm import has_batch_norm
from pruning_bootcamp.training.gradual import say_left_out
from pruning_bootcamp.training.recovery import first_images

RESULT, TABLE, PAGE, POINTS = "sensitivity.yaml", "sensitivity.csv", "sensitivity.html", "points.json"
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
# What of `prune` a scan depends on: how weights are chosen, not how many of them, nor what happens afterwards.
PRUNE = ("score", "pattern", "include", "exclude", "calibration_images")


def sparsities_of(cfg: Config) -> list[float]:
    """The columns, rising: those asked for, or the one that the pattern fixes (2:4)."""
    p = cfg.prune.pattern
    if settings.fixes_count(cfg):
        fixed = PATTERNS[p.name].facts["fixed_sparsity"](**p.args)
        return [] if fixed is None else [fixed]
    return sorted(cfg.sensitivity.sparsities or SPARSITIES)


def for_scan(cfg: Config) -> Config:
    """The config with what a scan leaves out: the same share of each layer, and no solver that moves what stays."""
    choices = replace(
        cfg.prune,
        sparsity=None if settings.fixes_count(cfg) else 0.5,
        allocation=Choice("uniform"),
        solver=Choice("none"),
    )
    return replace(cfg, prune=choices)


def check_sparsities(cfg: Config) -> list[Problem]:
    """What is wrong with the list itself."""
    asked = cfg.sensitivity.sparsities
    where = "sensitivity.sparsities"
    if asked is None:
        return []
    problems = [Problem(where, f"{sparsity:g} is not in (0, 1).") for sparsity in asked if not 0 < sparsity < 1]
    if not asked:
        problems.append(Problem(where, "is empty. Give some, e.g. 0.5,0.7,0.9, or leave it out."))
    if twice := sorted({sparsity for sparsity in asked if asked.count(sparsity) > 1}):
        problems.append(Problem(where, f"{', '.join(f'{s:g}' for s in twice)} is there twice."))
    return problems


def check_scan(cfg: Config) -> list[Problem]:
    """Everything that would stop a scan: the engine's choices, the list, a pattern that leaves no columns."""
    problems = check_unstructured(settings.weight_choices(for_scan(cfg)), where="prune") + check_sparsities(cfg)
    p, asked = cfg.prune.pattern, cfg.sensitivity.sparsities
    if problems or not settings.fixes_count(cfg):
        return problems
    fixed = PATTERNS[p.name].facts["fixed_sparsity"](**p.args)
    if fixed is None:
        return [
            Problem(
                "prune.pattern",
                f"'{p.name}' takes another share of each layer: there is no sparsity to compare them at. "
                "Scan with pattern unstructured.",
            )
        ]
    if asked is not None and any(abs(sparsity - fixed) > 1e-9 for sparsity in asked):
        return [
            Problem(
                "sensitivity.sparsities",
                f"pattern '{p.name}' with {dict(p.args)} prunes exactly {fixed:g}, and that is the "
                "only column. Leave sparsities out.",
            )
        ]
    return []


def measure(context: StepContext) -> Scanned:
    """All points, those that an earlier process measured read back; the content of sensitivity.yaml."""
    cfg, splits, device, dense = context.cfg, context.splits, context.device, context.network("dense")
    p, s = cfg.prune, cfg.sensitivity
    model = dense.model.to(device)
    sparsities = sparsities_of(cfg)
    images = splits.val
    if s.images is not None and s.images < len(images):
        images = images.subset(first_images(len(images), s.images, cfg.seed))
    LOGGER.info("\n=== Sensitivity: one %s at a time (%s, %s) ===", s.by, p.score.name, settings.pattern_text(cfg))
    evaluate = _evaluation(cfg, model, images, splits, device)
    with put_back(model, ()):  # judged as the pruned ones are: what new batch-norm statistics cost is no layer's doing
        whole = evaluate(model)
    task = context.task
    metric = task.metric
    said = f"{metric.text(whole.accuracy)} {'of' if metric.share_of_samples else 'on'} {len(images)}"
    LOGGER.info("Dense: %s validation %s, loss %.4f", said, task.noun, whole.loss)
    prune_to = _pruner(cfg, model, dense, splits, device)
    first = prune_to(sparsities[0])
    say_left_out(replace(first, notes=[]))  # a layer alone that loses everything shows in its row
    where = sites(model, first, s.by)
    points = _known_points(context)
    total = len(where) * len(sparsities)
    if points:
        LOGGER.info("%d of %d points are known from an earlier start", len(points), total)
    bar = tqdm(total=total, initial=len(points), desc="points", unit="point", leave=False, disable=None)
    masks: dict[float, UnstructuredResult] = {sparsities[0]: first}
    try:
        found = scan(model, where, sparsities, lambda at: (masks.pop(at, None) or prune_to(at)).masks, evaluate, points)
        for site, sparsity, quality in found:
            points[site.name, sparsity] = quality
            _keep_points(context, points)
            bar.set_postfix_str(f"{site.name} at {sparsity:g}: {metric.text(quality.accuracy)}", refresh=False)
            bar.update()
            if site is where[-1]:
                _say_column(points, where, sparsity, whole, metric)
    finally:
        bar.close()
    (context.folder / POINTS).unlink(missing_ok=True)
    told: dict[str, str] = {"score": p.score.name, "pattern": settings.pattern_text(cfg)}
    return Scanned(table=as_scan(where, sparsities, points, whole, by=s.by, images=len(images), task=task, **told))


def _pruner(
    cfg: Config, model: nn.Module, dense: Network, splits: Splits, device: torch.device
) -> Callable[[float], UnstructuredResult]:
    scanned = for_scan(cfg)
    fixed = settings.fixes_count(cfg)
    prune_to = pruner(
        model,
        scanned.prune,
        previous=dense.masks or None,
        stats_batches=prune.calibration(scanned, splits, device),
        seed=cfg.seed,
        task=task_of(cfg),
    )

    def to(sparsity: float) -> UnstructuredResult:
        try:
            return prune_to(None if fixed else sparsity)
        except BootcampError as error:  # earlier zeros: the only message that names the sparsity
            raise BootcampError(
                *(problem.renamed({"prune.sparsity": "sensitivity.sparsities"}) for problem in error.problems)
            ) from None

    return to


def _evaluation(
    cfg: Config, model: nn.Module, images: Split, splits: Splits, device: torch.device
) -> Callable[[nn.Module], Quality]:
    """How a pruned network is judged: batch norm improved where asked for (towards `model`), then validation images."""
    improve = None
    if cfg.sensitivity.bn_images and has_batch_norm(model):
        improve, _ = improver(model, cfg, splits, device, cfg.sensitivity.bn_images)

    def evaluate(model: nn.Module) -> Quality:
        if improve is not None:
            improve(model)
        found = evaluate_on(
            model, images, splits, device=device, batch_size=cfg.data.batch_size, progress=False, task=task_of(cfg)
        )
        return _quality(found)

    return evaluate


def _quality(found: Measurement) -> Quality:
    return Quality(round(found.score, 4), round(found.loss, 6))


def _known_points(context: StepContext) -> Points:
    """The points of this very scan that a killed process left."""
    path = context.folder / POINTS
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["fingerprint"] == context.key:
            return {(name, float(s)): Quality(float(a), float(loss)) for name, s, a, loss in content["points"]}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # said below; measuring anew is always right
    LOGGER.info("%s: is not this scan's, or damaged: it begins anew", path)
    return {}


def _keep_points(context: StepContext, points: Points) -> None:
    rows = [[name, sparsity, q.accuracy, q.loss] for (name, sparsity), q in points.items()]
    write_text(context.folder / POINTS, json.dumps({"fingerprint": context.key, "points": rows}))


def _say_column(points: Points, where: list[Site], sparsity: float, dense: Quality, metric: Metric) -> None:
    lost = {site.name: metric.lost(dense.accuracy, points[site.name, sparsity].accuracy) for site in where}
    worst = max(lost, key=lambda name: lost[name])
    LOGGER.info(
        "%g%%: at most %.1f points lost (%s), at least %.1f", 100 * sparsity, lost[worst], worst, min(lost.values())
    )


def write_scan(run: Run, table: Scan, title: str) -> None:
    """Every file of the result but metrics.yaml."""
    of_it = "accuracy in percent" if table.metric is None else f"{table.judged.title} in its own unit"
    note = f"one row pruned alone at each sparsity, all else as it was; {of_it}, loss: mean cross-entropy"
    write_yaml(run.path(RESULT), scan_as_written(table), note)
    write_text(run.path(TABLE), as_csv(table))
    write_text(run.path("report.md"), heat_report(table, title))
    if has_plotly():
        write_text(run.path(PAGE), as_page(table, title))
    else:
        LOGGER.info("No %s: plotly is not installed (the extra `report`)", PAGE)


def scan_metrics(table: Scan) -> Metrics:
    """The scan in a few metrics, for metrics.yaml."""
    order = ranking(table)
    return Metrics(
        val_accuracy=table.dense.accuracy,
        val_loss=table.dense.loss,
        val_images=table.images,
        points=len(table.rows) * len(table.sparsities),
        most_sensitive=order[0],
        least_sensitive=order[-1],
    )
