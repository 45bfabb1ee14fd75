"""sweep and sweep show: ask the sampler, run the trials, tell it what they came to; killed anywhere, it goes on."""

from dataclasses import replace
from pathlib import Path

from pruning_bootcamp.config import Config, as_dict
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.evaluation import evaluate_on
from pruning_bootcamp.flow.commands import train
from pruning_bootcamp.flow.start import checkpoint_path, one_process, open_data, open_network
from pruning_bootcamp.flow.steps import memorised
from pruning_bootcamp.locks import command_line, locked
from pruning_bootcamp.logs import LOGGER, also_to_file
from pruning_bootcamp.plain import Plain, from_plain, to_plain
from pruning_bootcamp.results import Dense, Objective, Study
from pruning_bootcamp.runs import CONFIG, open_run, write_yaml
from pruning_bootcamp.runtime import choose_device, environment
from pruning_bootcamp.sweep import trial, view
from pruning_bootcamp.sweep.executors import Executor, LocalExecutor, share_of_cores
from pruning_bootcamp.sweep.known import finished, folder_of, name_of, target, written
from pruning_bootcamp.sweep.loop import Sweep
from pruning_bootcamp.sweep.showing import NETWORKS, say
from pruning_bootcamp.sweep.space import Dimension, grid_size, parse_space
from pruning_bootcamp.sweep.study import open_study
from pruning_bootcamp.sweep.trial import TrialSpec

DENSE = "dense"


def run(cfg: Config, resume: bool | None = None) -> Study:
    """Run the sweep, or what is left of it; what sweep.yaml holds."""
    one_process("sweep")
    if resume is False and cfg.sweep.storage is not None:
        raise BootcampError(
            "--no-resume: the trials stay in the database at --storage, which others may share, so the sweep would be "
            "over at once. Give it another name (name=...) or another --storage."
        )
    folder = folder_of(cfg)
    dimensions, _ = parse_space(cfg.sweep.space)
    name = name_of(cfg)
    with locked(folder, command_line()):
        done = None if resume is False else finished(cfg, name, target(cfg, dimensions))
        if done is not None:
            LOGGER.info("%s is already finished (same config, same inputs); --no-resume does it again\n", folder)
            say(folder, done)
            return done
        open_run(folder, "pruning-bootcamp sweep", as_dict(cfg), name, fresh=resume is False)
        write_yaml(folder / CONFIG, as_dict(cfg), f"pruning-bootcamp sweep -c {folder / CONFIG}\nfingerprint: {name}")
        with also_to_file(folder / "log.txt"):
            return _run(cfg, folder, dimensions, name)


def _run(cfg: Config, folder: Path, dimensions: list[Dimension], name: str) -> Study:
    s = cfg.sweep
    network = _dense_network(cfg, folder)
    cost = next(objective for objective in s.objectives if objective != "accuracy")
    trials = open_study(
        folder,
        s,
        f"{cfg.name}-{name}",
        dimensions,
        seed=cfg.seed,
        cost=cost,
    )
    total = target(cfg, dimensions)
    threads = cfg.threads or share_of_cores(s.workers)
    study = Sweep(cfg, folder, trials, network, total, view.SweepProgress(cfg.name, total, s.workers))
    study.take_up()
    executor = None
    try:
        if study.has_work() and s.workers > 1:  # they start while the dense network is judged
            executor = _executor(cfg, folder, threads, total)
        study.head = _head(cfg, folder, dimensions, name, network, cost)
        if study.has_work() and executor is None:  # ... but a single one leaves its latency undisturbed
            executor = _executor(cfg, folder, threads, total)
        size = grid_size(dimensions)
        space = "a range has no end of values" if size is None else f"{size} combinations"
        LOGGER.info("\n=== Sweep: %s, %d trials by %s (%s) ===", s.command, total, s.sampler, space)
        LOGGER.info("Workers: %d (%s), %d threads each", s.workers, s.executor, threads)
        with view.live(study.progress):
            if executor is not None:
                study.work(executor)
    finally:
        if executor is not None:
            executor.close()
        if study.head is not None:
            study.write("interrupted")  # replaced below by a sweep that got through
    return study.finish()


def _executor(cfg: Config, folder: Path, threads: int, trials: int) -> Executor:
    if cfg.sweep.executor == "ray":
        from pruning_bootcamp.sweep.cluster import RayExecutor

        return RayExecutor(trial.run_trial, cfg.sweep.workers, threads)
    return LocalExecutor(trial.run_trial, min(cfg.sweep.workers, trials), threads, folder)


def _dense_network(cfg: Config, folder: Path) -> Path | None:
    """The network to prune: the one given, or one trained here first, once. None where the trials train."""
    if cfg.sweep.command == "train":
        return None
    if cfg.checkpoint is not None:
        return checkpoint_path(cfg.checkpoint)
    LOGGER.info("=== The dense network (no checkpoint was given) ===")
    train(trial.config_for(cfg, {}, folder / DENSE, None))
    return folder / DENSE / NETWORKS["train"]


def _head(cfg: Config, folder: Path, dimensions: list[Dimension], name: str, network: Path | None, cost: str) -> Study:
    """The sweep without its trials; the dense network's metrics are measured once, before any worker is there."""
    before = written(folder)
    dense = before.dense if before is not None and before.fingerprint == name else None
    device, _ = choose_device(cfg.device)
    if network is not None and dense is None:
        splits = open_data(cfg, testing=False)
        checkpoint = open_network(network, cfg, splits)
        spec = TrialSpec(0, "train", as_dict(trial.config_for(cfg, {}, folder, network)), "", "", cost)
        found = evaluate_on(checkpoint.model, splits.val, splits, device=device, batch_size=cfg.data.batch_size)
        metrics, way = trial.dense_costs(checkpoint, round(found.score, 4), spec)
        known = to_plain(memorised.check_validation_images(checkpoint, cfg, splits, device, testing=False))
        dense = from_plain(Dense, {**metrics, **known, "latency_way": way})
    return Study(
        name=cfg.name,
        command=cfg.sweep.command,
        sampler=cfg.sweep.sampler,
        space={d.key: list(d.values) or _range_of(d) for d in dimensions},
        objectives=(
            Objective(name="accuracy", direction="maximize"),
            Objective(name=cost, direction="minimize"),
        ),
        split="validation",
        max_drop=cfg.goal.accuracy_drop,
        dense=dense,
        seed=cfg.seed,
        fingerprint=name,
        environment=replace(environment(device), workers=cfg.sweep.workers),
    )


def _range_of(dimension: Dimension) -> dict[str, Plain]:
    return {"low": dimension.low, "high": dimension.high, "step": dimension.step, "log": dimension.log}
