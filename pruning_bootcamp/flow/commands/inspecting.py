"""eval, export and profile: what is measured or written of a network that is there."""

from dataclasses import replace
from pathlib import Path

from pruning_bootcamp.backends import prepare
from pruning_bootcamp.checkpoints import example_input
from pruning_bootcamp.config import Config
from pruning_bootcamp.evaluation import cost_of, evaluate_on, say_disagreement, sparsity_text
from pruning_bootcamp.flow import verdict
from pruning_bootcamp.flow.metrics import about, compared, overlaid
from pruning_bootcamp.flow.naming import as_written
from pruning_bootcamp.flow.report import say_goal
from pruning_bootcamp.flow.start import (
    RESULTS,
    checkpoint_path,
    one_process,
    open_alone,
    open_data,
    open_network,
    start,
    task_of,
)
from pruning_bootcamp.flow.steps import profile as profiling
from pruning_bootcamp.flow.steps.export import export_network, needs_images
from pruning_bootcamp.flow.verdict import goal_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import from_plain, to_plain
from pruning_bootcamp.results import Environment, Exports, Metrics, Profile
from pruning_bootcamp.runs import (
    CONFIG,
    write_yaml,
)
from pruning_bootcamp.runtime import environment
from pruning_bootcamp.tools.latency import measure_latency_with_stats


def evaluate(cfg: Config, measure_latency: bool = False, baseline_metrics: Path | None = None) -> Metrics:
    """Accuracy on the test split, FLOPs, parameters, sparsity, latency; written to eval_metrics.yaml.

    Against the accuracy of `baseline_metrics` the goal is judged too.
    """
    one_process("eval")
    path = checkpoint_path(cfg.checkpoint)
    task = task_of(cfg)
    baseline = verdict.read_metrics(baseline_metrics, task.metric) if baseline_metrics is not None else None
    device = start(cfg)
    splits = open_data(cfg, testing=True)
    checkpoint = open_network(path, cfg, splits)

    LOGGER.info("\n=== Evaluating Model ===")
    cost, flops = cost_of(checkpoint.model, example_input(checkpoint.recipe), checkpoint.masks)
    test = evaluate_on(checkpoint.model, splits.test, splits, device=device, batch_size=cfg.data.batch_size, task=task)
    title = task.metric.title
    LOGGER.info("%s: %s (%d test %s)", title[0].upper() + title[1:], task.metric.text(test.score), test.n, task.noun)
    LOGGER.info("FLOPs: %.4g G (multiply-accumulates)", cost.flops_g)
    LOGGER.info("Params: %.4g M", cost.params_m)
    LOGGER.info("Sparsity: %s", sparsity_text(cost))
    say_disagreement(flops)
    metrics = overlaid(Metrics(), cost)
    metrics = replace(
        metrics,
        accuracy=round(test.score, 4),
        loss=round(test.loss, 6),
        test_images=test.n,
        judged_on="test",
        test_split=splits.test_from,
        checkpoint=str(path),
    )
    if measure_latency:
        LOGGER.info("\n=== Measuring Latency ===")
        images = example_input(checkpoint.recipe, cfg.profile.batch_size).to(device)
        runner = prepare(cfg.profile.backend, checkpoint.model.to(device), images)
        stats = measure_latency_with_stats(runner, images)
        LOGGER.info("Latency: %s", stats)
        metrics = replace(
            metrics,
            latency_ms=stats.median_ms,
            throughput_fps=stats.throughput_fps,
            latency_batch_size=stats.batch_size,
            latency_backend=stats.backend,
        )
    metrics = about(metrics, cfg, None, device)
    if baseline is not None:
        comparison = compared(_comparable(baseline, metrics), metrics, task.metric)
        LOGGER.info("\n=== Against %s ===", baseline_metrics)
        for name, value in as_written(task.metric, to_plain(comparison)).items():
            LOGGER.info("%s: %.4g", name, value)
        metrics = overlaid(metrics, comparison)
        if metrics.accuracy_drop is not None:
            # a network that costs what its baseline costs had nothing cut out of it
            goal = goal_of(cfg, cut=metrics.flops_reduction_pct not in (None, 0))
            metrics, lines = verdict.verdict_on(cfg, goal, metrics)
            say_goal(metrics, lines)
    target = _beside(path, cfg) / "eval_metrics.yaml"
    written = as_written(task.metric, to_plain(metrics))
    write_yaml(target, written, "flops_g: multiply-accumulates in 10^9")
    LOGGER.info("\nMetrics saved to %s", target)
    return metrics


def _comparable(baseline: Metrics, metrics: Metrics) -> Metrics:
    """The baseline without its latency, unless device, threads, batch, torch and backend were the same."""
    there, here = baseline.environment or Environment(), metrics.environment or Environment()
    same = (there.device, there.threads, there.torch) == (here.device, here.threads, here.torch)
    same &= baseline.latency_batch_size == metrics.latency_batch_size
    same &= (baseline.latency_backend or "torch") == (metrics.latency_backend or "torch")  # older files say none
    if same or baseline.latency_ms is None or metrics.latency_ms is None:
        return baseline
    LOGGER.info("Latency is not compared: the baseline's was measured differently. `profile` measures both, in turn.")
    return replace(baseline, latency_ms=None, throughput_fps=None)


def _beside(checkpoint: Path, cfg: Config) -> Path:
    """--save-dir, else the checkpoint's own run folder, else results/eval/<config's name> for a foreign file."""
    if cfg.save_dir:
        return Path(cfg.save_dir)
    if (checkpoint.parent / CONFIG).exists():
        return checkpoint.parent
    return RESULTS / "eval" / cfg.name


def export(cfg: Config) -> Exports:
    """One file a format in the checkpoint's folder; an unverified file is removed and GoalNotMet raised.

    The data is opened only for a format that is calibrated or judged on real images.
    """
    one_process("export")
    path = checkpoint_path(cfg.checkpoint)
    device = start(cfg)
    splits = open_data(cfg, testing=False) if needs_images(cfg) else None
    checkpoint = open_alone(path, cfg) if splits is None else open_network(path, cfg, splits)
    folder = Path(cfg.save_dir) if cfg.save_dir else path.parent
    LOGGER.info("\n=== Exporting Model ===")
    reports = export_network(cfg, checkpoint.model, checkpoint.recipe, checkpoint.masks, folder, splits)
    exports = Exports(checkpoint=str(path), formats=reports, environment=environment(device))
    write_yaml(folder / "export_metrics.yaml", to_plain(exports))
    LOGGER.info("\nExport complete. Files saved to %s", folder)
    return exports


def profile(cfg: Config, baseline: str | None = None, save_results: Path | None = None) -> Profile:
    """Dense and pruned side by side: cost, interleaved latency, layers, and why the two reductions differ."""
    one_process("profile")
    paths = {
        "baseline": checkpoint_path(baseline, "--baseline"),
        "pruned": checkpoint_path(cfg.checkpoint, "--pruned"),
    }
    device = start(cfg)
    networks = {name: open_alone(path, cfg) for name, path in paths.items()}
    found = profiling.compare(cfg, networks, device, paths["baseline"].samefile(paths["pruned"]))
    where = {
        "environment": to_plain(environment(device)),
        "checkpoints": {name: str(path) for name, path in paths.items()},
    }
    profile = from_plain(Profile, found | where)
    target = save_results or (Path(cfg.save_dir) if cfg.save_dir else paths["pruned"].parent) / "profile.yaml"
    write_yaml(
        target, to_plain(profile), "flops_g: multiply-accumulates in 10^9; latency: medians of interleaved passes"
    )
    LOGGER.info("\nProfile saved to %s", target)
    return profile
