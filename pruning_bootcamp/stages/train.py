"""train: the dense network that everything is compared with. eval: what a checkpoint does and costs."""

from pathlib import Path
from typing import Any

from pruning_bootcamp.checkpoints import save_checkpoint, weights_hash
from pruning_bootcamp.checkpoints.new_process import check_saved
from pruning_bootcamp.config import Config
from pruning_bootcamp.duration import parse_duration
from pruning_bootcamp.evaluation import cost_of, evaluate_on, say_disagreement, sparsity_text
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.memorised import HASH
from pruning_bootcamp.reporting import run_report
from pruning_bootcamp.runs import read_yaml, write_text, write_yaml
from pruning_bootcamp.runtime import environment, synchronize
from pruning_bootcamp.stages import common
from pruning_bootcamp.stages.afterwards import verdict_on
from pruning_bootcamp.stages.verdict import goal_of
from pruning_bootcamp.tools.latency import measure_latency_with_stats
from pruning_bootcamp.tools.metrics import compare_metrics
from pruning_bootcamp.training.loop import fit
from pruning_bootcamp.training.rewinding import StepCheckpoints, step_file


def train(cfg: Config, resume: bool | None = None, watch: common.Watch = common.unwatched) -> dict[str, Any]:
    """Train, keep the epoch with the best validation accuracy, read the test split once; metrics.yaml's content."""
    sections = ("data", "model", "train")
    steps = [parse_duration(text, "train.save_steps") for text in cfg.train.save_steps]
    outputs = ["best_model.pth"]
    if cfg.train.early_stopping is None:  # else the training may rightly end before a step
        outputs += [step_file(step) for step in steps]
    run = common.stage_run(cfg, "train", common.RESULTS / "baseline", sections, outputs=tuple(outputs))
    if done := common.already_done(run, resume):
        return done
    device = common.start(cfg)
    splits = common.open_data(cfg)
    recipe = common.recipe_for(cfg, splits)
    model = common.new_network(recipe)
    cost, flops = cost_of(model, common.example_input(recipe))
    LOGGER.info("\n=== Baseline Model Metrics ===")
    LOGGER.info("FLOPs: %.4g G (multiply-accumulates)\nParams: %.4g M\n", cost["flops_g"], cost["params_m"])
    say_disagreement(flops)
    with common.working(run, cfg, None, resume):
        settings = common.training_settings(cfg)
        model.to(device)
        saving = [StepCheckpoints(run.folder, recipe, steps, write=common.is_leader())] if steps else []
        result = fit(
            model,
            splits,
            settings,
            device=device,
            folder=run.folder,
            seed=cfg.seed,
            hooks=[*saving, *watch(1)],
            fingerprint=run.fingerprint,
        )
        if not common.is_leader():
            return {}
        test = None
        figures: dict[str, Any] = {"val_accuracy": round(result.best_accuracy, 4), "val_images": len(splits.val)}
        testing = cfg.goal.evaluate_test
        if testing:
            test = evaluate_on(model, splits.test, splits, device=device, batch_size=cfg.data.batch_size)
            figures = {"accuracy": round(test["accuracy"], 4), **figures, "loss": round(test["loss"], 6)}
            figures["test_images"] = test["n"]
        synchronize(device)
        metrics = {
            **figures,
            **cost,
            **common.judged_on(splits, testing),
            HASH: splits.val.content_hash(),
            "epochs": len(result.history),
            "best_epoch": result.best_epoch,
            "steps": result.steps,
            "train_seconds": round(result.seconds, 2),
            "seed": cfg.seed,
            "weights": weights_hash(model),
            "environment": environment(device),
        }
        save_checkpoint(run.path("best_model.pth"), model.cpu(), recipe, metrics=metrics)
        check_saved(run.path("best_model.pth"), recipe)
        LOGGER.info("\nSaved best model (epoch %d) to %s", result.best_epoch, run.path("best_model.pth"))
        LOGGER.info("=== Training Complete ===")
        LOGGER.info("Best validation accuracy: %.2f%%", result.best_accuracy)
        if test is None:
            LOGGER.info("The test images were not read (goal.evaluate_test is false)")
        else:
            LOGGER.info("Test accuracy: %.2f%% (%d images, read once)", test["accuracy"], test["n"])
        write_text(
            run.path("report.md"),
            run_report(f"Baseline: {recipe.model} on {cfg.data.name}", metrics, history=result.history),
        )
        finished = run.finish(metrics)
        common.remove_training_states(run.folder)
        return finished


def evaluate(cfg: Config, measure_latency: bool = False, baseline_metrics: Path | None = None) -> dict[str, Any]:
    """Accuracy on the test split, FLOPs, parameters, sparsity, latency; written to eval_metrics.yaml.

    Against the accuracy of `baseline_metrics` the goal is judged too.
    """
    common.one_process("eval")
    path = common.checkpoint_path(cfg.checkpoint)
    baseline = read_yaml(baseline_metrics) if baseline_metrics is not None else None
    device = common.start(cfg)
    splits = common.open_data(cfg, testing=True)
    checkpoint = common.open_network(path, cfg, splits)
    example = common.example_input(checkpoint.recipe)

    LOGGER.info("\n=== Evaluating Model ===")
    cost, flops = cost_of(checkpoint.model, example, checkpoint.masks)
    test = evaluate_on(checkpoint.model, splits.test, splits, device=device, batch_size=cfg.data.batch_size)
    LOGGER.info("Accuracy: %.2f%% (%d test images)", test["accuracy"], test["n"])
    LOGGER.info("FLOPs: %.4g G (multiply-accumulates)", cost["flops_g"])
    LOGGER.info("Params: %.4g M", cost["params_m"])
    LOGGER.info("Sparsity: %s", sparsity_text(cost))
    say_disagreement(flops)
    metrics: dict[str, Any] = {
        "accuracy": round(test["accuracy"], 4),
        "loss": round(test["loss"], 6),
        "test_images": test["n"],
        "judged_on": "test",
        "test_split": splits.test_from,
        **cost,
    }
    if measure_latency:
        LOGGER.info("\n=== Measuring Latency ===")
        stats = measure_latency_with_stats(
            checkpoint.model, common.example_input(checkpoint.recipe, cfg.profile.batch_size).to(device)
        )
        LOGGER.info("Latency: %s", stats)
        metrics |= {
            "latency_ms": stats.median_ms,
            "throughput_fps": stats.throughput_fps,
            "latency_batch_size": stats.batch_size,
        }
    if baseline is not None:
        comparison = compare_metrics(_comparable(baseline, metrics, environment(device)), metrics)
        LOGGER.info("\n=== Against %s ===", baseline_metrics)
        for name, value in comparison.items():
            LOGGER.info("%s: %.4g", name, value)
        metrics |= comparison
        if "accuracy_drop" in metrics:
            metrics |= _verdict(cfg, metrics)
    metrics |= {"checkpoint": str(path), "seed": cfg.seed, "environment": environment(device)}
    target = _beside(path, cfg) / "eval_metrics.yaml"
    write_yaml(target, metrics, "flops_g: multiply-accumulates in 10^9")
    LOGGER.info("\nMetrics saved to %s", target)
    return metrics


def _verdict(cfg: Config, metrics: dict[str, Any]) -> dict[str, Any]:
    """By the rule of every command; a network that costs what its baseline costs had nothing cut out of it."""
    goal = goal_of(cfg, cut=metrics.get("flops_reduction_pct", 0) != 0)
    judged, lines = verdict_on(cfg, goal, metrics)
    common.say_goal(judged, lines)
    return judged


def _comparable(baseline: dict[str, Any], metrics: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """The baseline without its latency, unless that was measured in the same way: device, threads, batch, torch."""
    there = baseline.get("environment") or {}
    same = all(there.get(key) == here[key] for key in ("device", "threads", "torch"))
    same &= baseline.get("latency_batch_size") == metrics.get("latency_batch_size")
    if same or "latency_ms" not in baseline or "latency_ms" not in metrics:
        return baseline
    LOGGER.info("Latency is not compared: the baseline's was measured differently. `profile` measures both, in turn.")
    return {key: value for key, value in baseline.items() if key not in ("latency_ms", "throughput_fps")}


def _beside(checkpoint: Path, cfg: Config) -> Path:
    """--save-dir, else the checkpoint's own run folder, else results/eval/<config's name> for a foreign file."""
    if cfg.save_dir:
        return Path(cfg.save_dir)
    if (checkpoint.parent / "config.yaml").exists():
        return checkpoint.parent
    return common.RESULTS / "eval" / cfg.name
