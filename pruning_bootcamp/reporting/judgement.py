"""What failed and what to do next, each by a stated rule and with the figures that it rests on."""

from collections.abc import Sequence
from dataclasses import dataclass

from pruning_bootcamp.reporting.fairness import ENOUGH_SEEDS, again, quoted
from pruning_bootcamp.reporting.groups import Group, Setting, same_budget
from pruning_bootcamp.reporting.records import PRUNING
from pruning_bootcamp.reporting.values import Spread, number, spread, table

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
    figures: str


@dataclass(frozen=True)
class Advice:
    """What to do, the rule that says so, and the figures it rests on."""

    what: str
    rule: str
    figures: str
    command: str | None = None


def failures(group: Group) -> list[Failure]:
    """By FAILURE_RULES, in their order. Random pruning is there to be beaten: its lost accuracy is no case."""
    pruned = group.pruned
    methods = [setting for setting in pruned if not setting.first.random]
    found = []
    for setting in methods:
        missed = [r for r in setting.records if r.goal_met is False or r.metrics.get("status") == "failed"]
        if missed:
            share = f"{len(missed)} of {setting.n_said}" if len(setting.records) > 1 else "one seed"
            figures = f"goal: {missed[0].goal or 'not stated'}; missed by {share}; {_outcome(setting)}"
            found.append(Failure(setting.label, FAILURE_RULES[0], figures))
    found += [
        Failure(setting.label, FAILURE_RULES[1], _outcome(setting))
        for setting in methods
        if (drop := setting.figure("drop")) is not None and drop.mean > BIG_DROP_POINTS
    ]
    found += [
        Failure(setting.label, FAILURE_RULES[2], compared)
        for setting in methods
        if (compared := _no_better_than_random(setting, pruned))
    ]
    for setting in group.settings:
        if (std := setting.accuracy.std) is not None and std > WIDE_SPREAD_POINTS:
            found.append(Failure(setting.label, FAILURE_RULES[3], f"test {_said(setting.accuracy, setting)}"))
    for setting in group.settings:
        val = setting.figure("val_accuracy")
        if val is not None and val.mean - setting.accuracy.mean > FLATTERING_POINTS:
            figures = f"validation {_said(val, setting)}, test {_said(setting.accuracy, setting)}"
            found.append(Failure(setting.label, FAILURE_RULES[4], figures))
    for record in group.records:
        if isinstance(falls := record.metrics.get("fall_backs"), list) and falls:
            found.append(Failure(record.name, FAILURE_RULES[5], "; ".join(str(fall) for fall in falls[:5])))
    return found


def recommendations(group: Group) -> list[Advice]:
    return [
        advice
        for advice in (_pick(group, "prune-structured"), _pick(group, "prune-unstructured"), *_close(group))
        if advice is not None
    ]


def _pick(group: Group, command: str) -> Advice | None:
    """The setting that saves most among those that kept their accuracy on the validation images."""
    known = [
        (setting, val, saved)
        for setting in group.pruned
        if setting.first.command == command and not setting.first.method.startswith("dense")
        if (val := setting.figure("val_accuracy")) is not None and (saved := _saved(setting)) is not None
    ]
    if not known:
        return None
    dense = spread([record.val_accuracy for record in group.baselines])
    reference = dense.mean if dense is not None else max(val.mean for _, val, _ in known)
    of_what = (
        "of the dense network" if dense is not None else "of the best setting (the dense one is not among the results)"
    )
    rule = (
        f"on validation images: within the allowed drop (goal.accuracy_drop, else 1.5 points) {of_what}, "
        f"{reference:.2f}%; of those the one that saves most, and of equals the more accurate"
    )
    fits = [
        (saved.mean, val.mean, setting, val, saved)
        for setting, val, saved in known
        if val.mean >= reference - _allowed_drop(setting)
    ]
    if not fits:
        best, val, _ = max(known, key=lambda entry: entry[1].mean)
        return Advice(
            f"None of the {len(known)} settings of {command} kept its accuracy: ask for less, or train longer after "
            "pruning (fine_tune.epochs).",
            rule,
            f"the best is {best.label}: validation {_said(val, best)}",
        )
    _, _, setting, val, saved = max(fits, key=lambda fit: (fit[0], fit[1]))
    unit = "% fewer FLOPs" if command == "prune-structured" else "% zeros"
    figures = (
        f"validation {_said(val, setting)}, {saved.shown('{:.1f}')}{unit}; then, on the test images, "
        f"{_said(setting.accuracy, setting)}"
    )
    if (drop := setting.figure("drop")) is not None:
        figures += f", {drop.shown()} points below the dense network"
    missed = sum(record.goal_met is False for record in setting.records)
    by = f" by {missed} of {setting.n_said}" if len(setting.records) > 1 else ""
    warning = f" Its goal is missed on the test images{by}." if missed else ""
    form = " --format sparse" if command == "prune-unstructured" else ""
    checkpoint = quoted(str(setting.first.folder / "pruned_model.pth"))
    # a network of the user's own code, and what is judged on images, need to know the run
    config = f"-c {quoted(str(setting.first.folder / 'config.yaml'))} " if setting.first.config else ""
    return Advice(
        f"Take {setting.label} ({command}).{warning}",
        rule,
        figures,
        f"pruning-bootcamp export {config}--checkpoint {checkpoint}{form}",
    )


def _close(group: Group) -> list[Advice]:
    """The two best methods of a budget that can't be told apart get more seeds."""
    rule = (
        f"the two best methods at a budget differ by less than the larger of their spreads, or one has fewer than "
        f"{ENOUGH_SEEDS} seeds: the order is not settled; of several such budgets the {_MOST_CLOSE} closest"
    )
    found: list[tuple[float, Advice]] = []
    budgets = {(s.first.command, s.first.amount, _trained(s)) for s in group.pruned if s.first.amount}
    for command, amount, trained in sorted(budgets):
        rivals = [
            (val.mean, val, setting)
            for setting in group.pruned
            if (setting.first.command, setting.first.amount, _trained(setting)) == (command, amount, trained)
            and not setting.first.random
            if (val := setting.figure("val_accuracy")) is not None and setting.first.config
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
                f"validation {_said(val, best)} against {_said(val2, second)}",
                again(target.first, f"--seed {seed}", f"seed{seed}") if command in PRUNING[:2] else None,
            )
            found.append((val.mean - val2.mean, advice))
    return [advice for _, advice in sorted(found, key=lambda pair: pair[0])[:_MOST_CLOSE]]


def _trained(setting: Setting) -> bool:
    """A network as it was pruned is no rival of one that was trained afterwards."""
    return "no fine-tuning" not in setting.first.method


def _no_better_than_random(setting: Setting, pruned: Sequence[Setting]) -> str | None:
    mine = setting.figure("val_accuracy")
    if setting.first.random or setting.first.method.startswith("dense") or mine is None:
        return None
    for other in pruned:
        theirs = other.figure("val_accuracy")
        if other.first.random and same_budget(setting, other) and theirs is not None and mine.mean <= theirs.mean:
            return f"validation {_said(mine, setting)}; random {_said(theirs, other)}"
    return None


def _saved(setting: Setting) -> Spread | None:
    """Percent of FLOPs that are gone; of weights, for zeros."""
    if setting.first.command == "prune-structured":
        return setting.figure("flops_reduction_pct")
    zeros = setting.figure("sparsity")
    return None if zeros is None else Spread(100 * zeros.mean, zeros.std and 100 * zeros.std, zeros.n)


def _allowed_drop(setting: Setting) -> float:
    allowed = number(table(setting.first.config.get("goal")).get("accuracy_drop"))
    return 1.5 if allowed is None else allowed


def _outcome(setting: Setting) -> str:
    drop, fewer, zeros = (setting.figure(key) for key in ("drop", "flops_reduction_pct", "sparsity"))
    parts = [f"test {_said(setting.accuracy, setting)}"]
    parts += [f"{drop.shown()} points below dense"] if drop is not None else []
    parts += [f"{fewer.shown('{:.1f}')}% fewer FLOPs"] if fewer is not None and fewer.mean else []
    parts += [f"{100 * zeros.mean:.2f}% zeros"] if zeros is not None and zeros.mean else []
    return ", ".join(parts)


def _said(figure: Spread, setting: Setting) -> str:
    return f"{figure.shown()}% ({setting.n_said})"
