"""The fairness card of an experiment: what makes a comparison worth something, whether it is there, how to mend it."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pruning_bootcamp.reporting.collect import Found
from pruning_bootcamp.reporting.experiments import Experiment, SettingRuns, same_budget
from pruning_bootcamp.reporting.records import Record, trains_after
from pruning_bootcamp.reporting.values import counted, measured_on, table
from pruning_bootcamp.results import Environment, Profile

ENOUGH_SEEDS = 3
MOST_COMMANDS = 20  # to mend one thing


@dataclass(frozen=True)
class FairnessCheck:
    """One line of the card."""

    question: str
    met: bool | None
    """None: does not apply, or nothing was measured"""
    found: str
    mend: Sequence[str] = ()
    """commands, or what else to do"""


def fairness_card(experiment: Experiment, profiles: Sequence[Found[Profile]]) -> list[FairnessCheck]:
    """The checks of an experiment, in the order in which they are shown; each says how to mend what it misses."""
    pruned = [setting for setting in experiment.pruned if setting.first.method.split(",")[0] != "dense"]
    return [
        _random_baseline(pruned),
        _dense_trained_on(experiment, pruned),
        _seeds(pruned),
        _same_dense(experiment, pruned),
        _same_images(pruned),
        _same_recovery(pruned),
        _same_machine(profiles, pruned),
        _same_code(experiment),
    ]


def _random_baseline(pruned: Sequence[SettingRuns]) -> FairnessCheck:
    question = "Random pruning at the same budget, fitted alike"
    methods = [setting for setting in pruned if not setting.first.random]
    if not methods:
        return FairnessCheck(question, None, "no method to compare")
    floors = [setting for setting in pruned if setting.first.random]
    without = [s for s in methods if not any(same_budget(s, f) and _fit(s.first) == _fit(f.first) for f in floors)]
    if not without:
        return FairnessCheck(question, True, f"there for all {counted(len(methods), 'setting')}")
    budgets = {(setting.first.command, setting.first.amount): setting.first for setting in without}
    mend = [again(record, "--method random", "random") for record in budgets.values() if _can_run(record)]
    return FairnessCheck(
        question, False, f"missing at {_names(amount or command for command, amount in budgets)}", mend
    )


def _dense_trained_on(experiment: Experiment, pruned: Sequence[SettingRuns]) -> FairnessCheck:
    question = "The dense network with the same extra training"
    trained = [setting for setting in pruned if setting.first.config and trains_after(setting.first)]
    if not trained:
        said = "no network was trained after pruning" if any(s.first.config for s in pruned) else "not recorded"
        return FairnessCheck(question, None, said)
    have = {_training(s.first) for s in experiment.pruned if s.first.method.startswith("dense, trained on")}
    missing = {_training(s.first): s.first for s in trained if _training(s.first) not in have}
    if not missing:
        return FairnessCheck(
            question, True, f"there for {counted(len({_training(s.first) for s in trained}), 'way')} of training"
        )
    mend = [again(r, "--sparsity 0", "dense", "prune-unstructured") for r in missing.values() if _can_run(r)]
    return FairnessCheck(question, False, f"missing for {counted(len(missing), 'way')} of training after pruning", mend)


def _seeds(pruned: Sequence[SettingRuns]) -> FairnessCheck:
    question = f"Several seeds (at least {ENOUGH_SEEDS})"
    if not pruned:
        return FairnessCheck(question, None, "nothing was pruned")
    few = [setting for setting in pruned if len(setting.seeds) < ENOUGH_SEEDS]
    if not few:
        return FairnessCheck(question, True, f"all {counted(len(pruned), 'setting')} have them")
    mend = [
        again(setting.first, f"--seed {seed}", f"seed{seed}")
        for setting in few
        if _can_run(setting.first)
        for seed in _new_seeds(setting)
    ]
    if len(mend) > MOST_COMMANDS:  # a sweep's trials: who wants more seeds of all of them knows how to ask
        rest = len(mend) - MOST_COMMANDS
        mend = [f"(The first {MOST_COMMANDS}; {rest} more commands differ in folder and seed.)", *mend[:MOST_COMMANDS]]
    return FairnessCheck(question, False, f"{len(few)} of {counted(len(pruned), 'setting')} have fewer", mend)


def _new_seeds(setting: SettingRuns) -> list[int]:
    """The smallest seeds that were not run yet, as many as are missing."""
    new = [seed for seed in range(2 * ENOUGH_SEEDS) if seed not in setting.seeds]
    return new[: ENOUGH_SEEDS - len(setting.seeds)]


def _same_dense(experiment: Experiment, pruned: Sequence[SettingRuns]) -> FairnessCheck:
    question = "The same dense network to start from"
    records = [record for setting in pruned for record in setting.records]
    known_by = {record.dense.weights or record.dense.accuracy for record in records}
    if not records or known_by == {None}:
        return FairnessCheck(question, None, "not recorded")
    if None in known_by:
        return FairnessCheck(question, False, "not recorded for some", ["Prune again from one --checkpoint."])
    known = "" if all(record.dense.weights for record in records) else ", told by that accuracy alone"
    if experiment.dense_accuracy is not None:
        return FairnessCheck(question, True, f"{experiment.dense_accuracy:.2f}% on the test images{known}")
    if len(known_by) == 1:
        return FairnessCheck(question, True, f"its weights are {next(iter(known_by))}")
    return FairnessCheck(
        question, True, f"each seed its own ({counted(len(known_by), 'dense network')}); compare the drops"
    )


def _same_images(pruned: Sequence[SettingRuns]) -> FairnessCheck:
    keys = ("limit", "val_fraction", "args")
    return _alike(
        "The same training, validation and test images",
        [setting.first for setting in pruned if setting.first.config],
        lambda r: (*(str(table(r.config.get("data")).get(key)) for key in keys), r.metrics.test_images),
        lambda seen: f"{seen[3]} test images; data.val_fraction {seen[1]}, data.limit {seen[0]}",
        "Prune again with the same data.* settings.",
    )


def _same_recovery(pruned: Sequence[SettingRuns]) -> FairnessCheck:
    """At the same budget: a method that is trained for longer is not the better for it."""
    question = "The same training after pruning, at the same budget"
    configured = [setting for setting in pruned if setting.first.config]
    if not configured:
        return FairnessCheck(question, None, "not recorded")
    unlike = {
        one.first.amount
        for one in configured
        for other in configured
        if same_budget(one, other) and _training(one.first) != _training(other.first)
    }
    if not unlike:
        return FairnessCheck(question, True, f"for all {counted(len(configured), 'setting')}")
    mend = ["Compare only rows with the same fine_tune.* and recover.* (see the ablations), or run them alike."]
    return FairnessCheck(question, False, f"differs at {_names(unlike)}", mend)


def _same_machine(profiles: Sequence[Found[Profile]], pruned: Sequence[SettingRuns]) -> FairnessCheck:
    question = "Latency on the same machine, in the same way"
    ways = set()
    for profile in profiles:
        stats = profile.content.pruned_latency
        if stats is not None:
            machine = profile.content.environment or Environment()
            ways.add((machine.torch, measured_on(machine, stats)))
    if not ways:
        cut = [setting.first for setting in pruned if setting.first.metrics.flops_reduction_pct]
        there = [path for record in cut if (path := record.folder / "pruned_model.pth").is_file()]
        mend = [f"pruning-bootcamp profile --pruned {path}" for path in there[:1]]
        return FairnessCheck(question, None, "latency was not measured", mend)
    if len(ways) == 1:
        torch, way = next(iter(ways))
        return FairnessCheck(question, True, f"{way}, beside torch {torch}")
    return FairnessCheck(
        question, False, f"{len(ways)} different ways", ["Run `pruning-bootcamp profile` again on one machine."]
    )


def _same_code(experiment: Experiment) -> FairnessCheck:
    return _alike(
        "The same version of the code",
        [record for record in experiment.records if record.metrics.environment is not None],
        lambda r: (str(_environment(r).pruning_bootcamp), str(_environment(r).torch)),
        lambda seen: f"pruning_bootcamp {seen[0]}, torch {seen[1]}",
        "Run the older ones again.",
    )


def _environment(record: Record) -> Environment:
    return record.metrics.environment or Environment()


def _alike(
    question: str,
    records: Sequence[Record],
    read: Callable[[Record], tuple[object, ...]],
    say: Callable[[tuple[object, ...]], str],
    mend: str,
) -> FairnessCheck:
    seen = {read(record) for record in records}
    if not seen:
        return FairnessCheck(question, None, "not recorded")
    if len(seen) == 1:
        return FairnessCheck(question, True, say(next(iter(seen))))
    return FairnessCheck(
        question, False, f"{len(seen)} different: {_names('/'.join(map(str, entry)) for entry in seen)}", [mend]
    )


def _training(record: Record) -> tuple[tuple[str, str], ...]:
    """How a network is trained after pruning."""
    return tuple(
        sorted((k, v) for k, v in record.setting.items() if k.startswith(("recover.", "fine_tune.", "train.")))
    )


def _fit(record: Record) -> tuple[str | None, ...]:
    """How what stays is fitted right after a cut: much of what a method seems to win may be that."""
    refit, rounds = (record.setting.get(f"structured.{key}") for key in ("refit", "refit_rounds"))
    return refit, rounds if refit == "closed_form" else None


def _can_run(record: Record) -> bool:
    return bool(record.config) and record.command in ("prune-unstructured", "prune-structured")


def again(record: Record, option: str, suffix: str, command: str | None = None) -> str:
    """The command that makes a run once more with one difference, into a folder of its own."""
    return (
        f"pruning-bootcamp {command or record.command} -c {quoted(str(record.folder / 'config.yaml'))} {option} "
        f"--save-dir {quoted(f'{record.beside or record.folder}_{suffix}')}"
    )


def quoted(path: str) -> str:
    """A path as the shell takes it."""
    return shlex.quote(path)


def _names(values: Iterable[str], most: int = 6) -> str:
    names = sorted(set(values))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
