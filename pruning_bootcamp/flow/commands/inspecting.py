"""eval, export and profile: what is measured or written of a network that is there."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.evaluation import sparsity_text
from pruning_bootcamp.flow import plan as plans
from pruning_bootcamp.flow import verdict
from pruning_bootcamp.flow.metrics import about, compared, overlaid
from pruning_bootcamp.flow.naming import as_written
from pruning_bootcamp.flow.outcomes import Exported, Judged, Paying, Profiled, Timed
from pruning_bootcamp.flow.plan import COSTS, DENSE, PADDED, TEST, Plan
from pruning_bootcamp.flow.report import say_goal
from pruning_bootcamp.flow.run import Carried, Command, carry_out
from pruning_bootcamp.flow.start import RESULTS, checkpoint_path, one_process, open_alone, open_network, task_of
from pruning_bootcamp.flow.steps import evaluate as evaluating
from pruning_bootcamp.flow.steps import pays
from pruning_bootcamp.flow.steps import profile as profiling
from pruning_bootcamp.flow.steps.answers import Asked
from pruning_bootcamp.flow.steps.export import file_beside, formats_in, needs_images
from pruning_bootcamp.flow.verdict import goal_of
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import to_plain
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.reporting import profile_text, would_pay_text
from pruning_bootcamp.results import Checkpoints, Comparison, Environment, Exports, Metrics, Profile
from pruning_bootcamp.runs import CONFIG, Run, publish, read_results, write_yaml
from pruning_bootcamp.runtime import environment
from pruning_bootcamp.tools.datasets import Splits

EVALUATED, EXPORTED, PROFILE = "eval_metrics.yaml", "export_metrics.yaml", "profile.yaml"
LATENCY, PRUNED, PAYS = "latency", "pruned", "pays"


def evaluate(
    cfg: Config, measure_latency: bool = False, baseline_metrics: Path | None = None, dry_run: bool = False
) -> Metrics:
    """Accuracy on the test split, FLOPs, parameters, sparsity, latency; written to eval_metrics.yaml.

    Against the accuracy of `baseline_metrics` the goal is judged too.
    """
    one_process("eval")
    path = checkpoint_path(cfg.checkpoint)
    baseline = verdict.read_metrics(baseline_metrics, task_of(cfg).metric) if baseline_metrics is not None else None
    plan = Plan(cfg, path)
    plans.open_network(plan, DENSE, path, "Opening the network")
    plans.count_costs(plan)
    plans.judge_on(plan, TEST)
    if measure_latency:
        here = plans.timed_here(cfg)
        plan.add(LATENCY, "Measuring latency", PruningStage.EVALUATING, evaluating.latency, Timed, settings=here)

    def finish(carried: Carried) -> Metrics:
        metrics = _evaluated(carried, path)
        if baseline is not None:
            LOGGER.info("\n=== Against %s ===", baseline_metrics)
            metrics = _against(baseline, metrics, cfg)
        written = as_written(task_of(cfg).metric, to_plain(metrics))
        write_yaml(target, written, "flops_g: multiply-accumulates in 10^9")
        LOGGER.info("\nMetrics saved to %s", target)
        return metrics

    target = _beside(path, cfg) / EVALUATED
    return carry_out(_inspecting("eval", target, finish, testing=True), plan, dry_run=dry_run)


def _evaluated(carried: Carried, path: Path) -> Metrics:
    """What the steps found, said and put together."""
    cfg, done, task = carried.cfg, carried.done, task_of(carried.cfg)
    cost, test = done[COSTS].outcome.pruned, done[TEST].outcome
    assert isinstance(test, Judged)
    title = task.metric.title
    LOGGER.info("\n=== Evaluating Model ===")
    LOGGER.info(
        "%s: %s (%d test %s)", title[0].upper() + title[1:], task.metric.text(test.accuracy), test.images, task.noun
    )
    LOGGER.info("FLOPs: %.4g G (multiply-accumulates)", cost.flops_g)
    LOGGER.info("Params: %.4g M", cost.params_m)
    LOGGER.info("Sparsity: %s", sparsity_text(cost))
    metrics = overlaid(Metrics(), cost)
    if LATENCY in done:
        timed = done[LATENCY].outcome
        assert isinstance(timed, Timed)
        for text in timed.texts:
            LOGGER.info("Latency: %s", text)
        metrics = replace(overlaid(metrics, timed.network), latencies=timed.latencies)
    metrics = replace(
        metrics,
        accuracy=test.accuracy,
        loss=test.loss,
        test_images=test.images,
        judged_on="test",
        test_split=carried.splits.test_from,
        checkpoint=str(path),
    )
    return about(metrics, cfg, None, carried.device)


def _against(baseline: Metrics, metrics: Metrics, cfg: Config) -> Metrics:
    """The metrics with what is saved and lost, and the verdict where the baseline's accuracy is known."""
    metric = task_of(cfg).metric
    comparison = compared(_comparable(baseline, metrics), metrics, metric)
    for name, value in as_written(metric, to_plain(comparison)).items():
        LOGGER.info("%s: %.4g", name, value)
    metrics = overlaid(metrics, comparison)
    if metrics.accuracy_drop is not None:
        # a network that costs what its baseline costs had nothing cut out of it
        goal = goal_of(cfg, cut=metrics.flops_reduction_pct not in (None, 0))
        if metrics.latency_reduction_pct is None:  # not asked for, or the baseline's is another machine's
            goal = replace(goal, latency_reduction_pct=None, latency_ms=None)
        metrics, lines = verdict.verdict_on(cfg, goal, metrics)
        say_goal(metrics, lines)
    return metrics


def _comparable(baseline: Metrics, metrics: Metrics) -> Metrics:
    """The baseline without its latency, unless machine, threads, batch, torch and backend were the same."""
    there, here = baseline.environment or Environment(), metrics.environment or Environment()
    same = (there.device, there.threads, there.torch) == (here.device, here.threads, here.torch)
    same &= baseline.latency_batch_size == metrics.latency_batch_size
    same &= (baseline.latency_backend or "torch") == (metrics.latency_backend or "torch")  # older files say none
    for name in ("latency_version", "latency_precision", "latency_processor", "latency_threads"):
        before, now = getattr(baseline, name), getattr(metrics, name)
        same &= before == now or before is None  # older files say none
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


def export(cfg: Config, dry_run: bool = False) -> Exports:
    """One file a format in the checkpoint's folder; an unverified file is removed and GoalNotMet raised.

    The data is opened only for a format that is calibrated or judged on real images.
    """
    one_process("export")
    path = checkpoint_path(cfg.checkpoint)
    folder = Path(cfg.save_dir) if cfg.save_dir else path.parent
    plan = Plan(cfg, path)
    plans.open_network(plan, DENSE, path, "Opening the network")
    plans.pad_widths(plan)
    for number, name in enumerate(formats_in(cfg.export.format), start=1):
        work = partial(file_beside, name=name, folder=folder)
        given = plans.section(cfg, "export") | {"format": name}
        plan.add(f"{number}-export", f"Exporting: {name}", PruningStage.EXPORTING, work, Exported, settings=given)

    def finish(carried: Carried) -> Metrics:
        files = {}
        for found in (done for done in carried.done.values() if isinstance(done.outcome, Exported)):
            for name, file in found.outcome.files.items():
                publish(found.folder / file.file, folder / file.file)
                files[name] = replace(file, file=str(folder / file.file))
        padding = carried.done[PADDED].outcome.padding if PADDED in carried.done else None
        exports = Exports(checkpoint=str(path), formats=files, padding=padding, environment=environment(carried.device))
        write_yaml(target, to_plain(exports))
        LOGGER.info("\nExport complete. Files saved to %s", folder)
        return Metrics()

    target = folder / EXPORTED
    carry_out(_inspecting("export", target, finish, alone=not needs_images(cfg)), plan, dry_run=dry_run)
    return Exports(checkpoint=str(path), formats={}) if dry_run else read_results(Exports, target)


def profile(
    cfg: Config, baseline: str | None = None, save_results: Path | None = None, dry_run: bool = False
) -> Profile:
    """Dense and pruned side by side: cost, interleaved latency, layers, and why the two reductions differ.

    With `profile.what_would_pay` also what would make the pruned one quicker; one network is then enough, and what the
    file holds of that one already stays in it.
    """
    one_process("profile")
    alone = cfg.profile.what_would_pay and None in (baseline, cfg.checkpoint)
    if alone:
        baseline = baseline or cfg.checkpoint
        cfg = replace(cfg, checkpoint=baseline)
    dense, pruned = checkpoint_path(baseline, "--baseline"), checkpoint_path(cfg.checkpoint, "--pruned")
    plan = Plan(cfg, pruned)
    plans.open_network(plan, DENSE, dense, "Opening the dense network")
    plans.open_network(plan, PRUNED, pruned, "Opening the pruned network")
    plans.count_costs(plan)
    if cfg.profile.measure_latency and not alone:
        same = dense.samefile(pruned)
        plan.add(
            LATENCY,
            "Measuring latency, in turn",
            PruningStage.EVALUATING,
            partial(profiling.time_in_turn, same_file=same),
            Profiled,
            settings=plans.timed_here(cfg) | {"same_file": same},
            inputs={COSTS: COSTS},
        )

    if cfg.profile.what_would_pay:
        plan.add(
            PAYS,
            "Trying what would pay",
            PruningStage.EVALUATING,
            partial(pays.what_would_pay, file=str(pruned)),
            Paying,
            settings=plans.timed_here(cfg) | plans.section(cfg, "structured"),
        )

    def finish(carried: Carried) -> Metrics:
        costs = carried.done[COSTS].outcome
        found = Profile(
            baseline=costs.baseline,
            pruned=costs.pruned,
            comparison=costs.saved,
            checkpoints=Checkpoints(),
            environment=environment(carried.device),
        )
        texts: tuple[str, ...] = ()
        if LATENCY in carried.done:
            found, texts = carried.done[LATENCY].outcome.profile, carried.done[LATENCY].outcome.texts
        before, after = replace(found.baseline or costs.baseline, weights=None), found.pruned or costs.pruned
        found = replace(found, baseline=before, checkpoints=Checkpoints(baseline=str(dense), pruned=str(pruned)))
        if alone:
            found = _kept_in(target, pruned) or found
        else:
            texts = (profile_text(before, after, found.comparison), *texts)
        if PAYS in carried.done:
            paying = carried.done[PAYS].outcome
            found = replace(found, would_pay=paying.answers, next_command=paying.next_command)
            texts += (would_pay_text(paying.answers, paying.next_command),)
        elif LATENCY in carried.done:
            asked = Asked(str(pruned), cfg.profile.backends, cfg.profile.batch_size, cfg.threads)
            following = asked.command("profile", "--what-would-pay", backend=cfg.profile.backend, given="--pruned")
            texts += (f"\nWhat would make it quicker here, with the same -c and settings: {following}",)
        for text in texts:
            LOGGER.info("%s", text)
        note = "flops_g: multiply-accumulates in 10^9; latency: medians of interleaved passes"
        write_yaml(target, to_plain(found), note)
        LOGGER.info("\nProfile saved to %s", target)
        return Metrics()

    target = save_results or (Path(cfg.save_dir) if cfg.save_dir else pruned.parent) / PROFILE
    carry_out(_inspecting("profile", target, finish, alone=True), plan, dry_run=dry_run)
    return Profile(comparison=Comparison(), checkpoints=Checkpoints()) if dry_run else read_results(Profile, target)


def _kept_in(target: Path, pruned: Path) -> Profile | None:
    """What an earlier profile of this network found; None where the file holds none, or can't be read."""
    try:
        kept = read_results(Profile, target) if target.exists() else None
    except BootcampError:  # replaced, as any profile replaces it
        return None
    there = None if kept is None else kept.checkpoints.pruned
    return kept if there is not None and Path(there).resolve() == pruned.resolve() else None


def _inspecting(
    name: str, target: Path, finish: Callable[[Carried], Metrics], alone: bool = False, testing: bool = False
) -> Command:
    """A command for one file; until that is written, what is kept of it lies in a hidden folder beside it.

    `alone`: without the data, unless a file does not say how its network is built.
    """
    return Command(
        name,
        target.with_name(f".{target.stem}"),
        finish,
        target=target,
        needs_data=not alone,
        testing=testing,
        prepare=partial(_open, alone=alone),
    )


def _open(plan: Plan, run: Run, data: Callable[[], Splits], device: torch.device, alone: bool) -> None:
    """What can't be opened, or compared, is said before anything is written."""
    paths, cfg = plan.given.values(), plan.cfg
    opened = [open_alone(path, cfg, data) if alone else open_network(path, cfg, data()) for path in paths]
    first, last = opened[0].recipe.inputs, opened[-1].recipe.inputs
    if first != last:
        raise BootcampError(
            f"--baseline takes inputs of {first}, and --pruned of {last}: they can't be compared. Give the dense "
            "network that was pruned."
        )
