"""What failed and what to do next, each by a stated rule and with the metrics that it rests on."""

from collections.abc import Sequence
from dataclasses import dataclass

from pruning_bootcamp.reporting.experiments import Experiment, SettingRuns, same_budget
from pruning_bootcamp.reporting.fairness import ENOUGH_SEEDS, again
from pruning_bootcamp.reporting.picking import Advice, misses, pick, said, worst
from pruning_bootcamp.reporting.records import PRUNING

BIG_DROP_POINTS = 5.0
WIDE_SPREAD_POINTS = 1.0
_MOST_CLOSE = 3  # budgets at which more seeds are asked for
FLATTERING_POINTS = 3.0
DELIVERED_SHARE = 0.5

FAILURE_RULES = (
    "its goal was not met, or a gate stopped it",
    f"the accuracy fell by more than {BIG_DROP_POINTS:g} points",
    "a method is no better than random pruning at the same budget, by validation accuracy",
    f"the seeds of one setting spread by more than {WIDE_SPREAD_POINTS:g} point (standard deviation, test accuracy)",
    f"validation accuracy flatters: it is more than {FLATTERING_POINTS:g} points above the test accuracy",
    "a layer was skipped or damped, as the run's own fall_backs say",
    f"less than {100 * DELIVERED_SHARE:g}% of the FLOPs saved arrived as time saved",
)


@dataclass(frozen=True)
class Failure:
    where: str
    rule: str
    metrics: str


def failures(experiment: Experiment) -> list[Failure]:
    """By FAILURE_RULES, in their order. Random pruning is there to be beaten: its lost accuracy is no case."""
    pruned = experiment.pruned
    methods = [setting for setting in pruned if not setting.first.random]
    found = []
    for setting in methods:
        if missed := misses(setting):
            share = f"{len(missed)} of {setting.n_said}" if len(setting.records) > 1 else "one seed"
            short = "; ".join(one.text for one in worst(setting)[1])
            goal = missed[0].metrics.goal or "not stated"
            metrics = f"goal: {goal}; missed by {share} ({short}); {_outcome(setting)}"
            found.append(Failure(setting.label, FAILURE_RULES[0], metrics))
    found += [
        Failure(setting.label, FAILURE_RULES[1], _outcome(setting))
        for setting in methods
        if (drop := setting.drop) is not None and drop.mean > BIG_DROP_POINTS
    ]
    found += [
        Failure(setting.label, FAILURE_RULES[2], compared)
        for setting in methods
        if (compared := _no_better_than_random(setting, pruned))
    ]
    for setting in experiment.settings:
        if setting.accuracy is not None and (setting.accuracy.std or 0.0) > WIDE_SPREAD_POINTS:
            found.append(Failure(setting.label, FAILURE_RULES[3], f"test {said(setting.accuracy, setting)}"))
    for setting in experiment.settings:
        val, test = setting.val_accuracy, setting.accuracy
        if val is not None and test is not None and val.mean - test.mean > FLATTERING_POINTS:
            metrics = f"validation {said(val, setting)}, test {said(test, setting)}"
            found.append(Failure(setting.label, FAILURE_RULES[4], metrics))
    for record in experiment.records:
        if falls := record.metrics.fall_backs:
            found.append(Failure(record.name, FAILURE_RULES[5], "; ".join(falls[:5])))
    return found


def recommendations(experiment: Experiment) -> list[Advice]:
    """What to take of each command, and where more seeds are needed first."""
    picked = (pick(experiment, command) for command in ("prune-structured", "prune-unstructured", "pipeline run"))
    return [*(advice for advice in picked if advice is not None), *_close(experiment)]


def _close(experiment: Experiment) -> list[Advice]:
    """The two best methods of a budget that can't be told apart get more seeds."""
    rule = (
        f"the two best methods at a budget differ by less than the larger of their spreads, or one has fewer than "
        f"{ENOUGH_SEEDS} seeds: the order is not settled; of several such budgets the {_MOST_CLOSE} closest"
    )
    found: list[tuple[float, Advice]] = []
    budgets = {(s.first.command, s.first.amount, _trained(s)) for s in experiment.pruned if s.first.amount}
    for command, amount, trained in sorted(budgets):
        rivals = [
            (val.mean, val, setting)
            for setting in experiment.pruned
            if (setting.first.command, setting.first.amount, _trained(setting)) == (command, amount, trained)
            and not setting.first.random
            if (val := setting.val_accuracy) is not None and setting.first.config
        ]
        if len(rivals) < 2:
            continue
        (_, val, best), (_, val2, second) = sorted(rivals, key=lambda rival: -rival[0])[:2]
        few = [setting for setting in (best, second) if len(setting.seeds) < ENOUGH_SEEDS]
        if few or val.mean - val2.mean <= max(val.std or 0.0, val2.std or 0.0):
            target = few[0] if few else best
            seed = max(target.seeds, default=-1) + 1
            one, other = (best.first.method, second.first.method)
            if one == other:  # another setting differs, and the labels say which
                one, other = (setting.label.replace(f": {amount}", "") for setting in (best, second))
            advice = Advice(
                f"At {amount}, run more seeds before preferring {one} to {other}.",
                rule,
                f"validation {said(val, best)} against {said(val2, second)}",
                again(target.first, f"--seed {seed}", f"seed{seed}") if command in PRUNING[:2] else None,
            )
            found.append((val.mean - val2.mean, advice))
    return [advice for _, advice in sorted(found, key=lambda pair: pair[0])[:_MOST_CLOSE]]


def _trained(setting: SettingRuns) -> bool:
    """A network as it was pruned is no rival of one that was trained afterwards."""
    return "no fine-tuning" not in setting.first.method


def _no_better_than_random(setting: SettingRuns, pruned: Sequence[SettingRuns]) -> str | None:
    mine = setting.val_accuracy
    if setting.first.random or setting.first.method.startswith("dense") or mine is None:
        return None
    for other in pruned:
        theirs = other.val_accuracy
        if other.first.random and same_budget(setting, other) and theirs is not None and mine.mean <= theirs.mean:
            return f"validation {said(mine, setting)}; random {said(theirs, other)}"
    return None


def _outcome(setting: SettingRuns) -> str:
    drop, fewer, zeros = setting.drop, setting.fewer_flops_pct, setting.zeros_pct
    parts = [f"test {said(setting.accuracy, setting)}"]
    parts += [f"{drop.shown()} points below dense"] if drop is not None else []
    parts += [f"{fewer.shown('{:.1f}')}% fewer FLOPs"] if fewer is not None and fewer.mean else []
    parts += [f"{zeros.mean:.2f}% zeros"] if zeros is not None and zeros.mean else []
    return ", ".join(parts)
