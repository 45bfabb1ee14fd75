"""What failed and what to do next, each by a stated rule and with the figures that it rests on."""

from collections.abc import Sequence
from dataclasses import dataclass

from pruning_bootcamp.reporting.collect import Found
from pruning_bootcamp.reporting.fairness import ENOUGH_SEEDS, again, quoted
from pruning_bootcamp.reporting.groups import Group, Setting, same_budget
from pruning_bootcamp.reporting.records import PRUNING
from pruning_bootcamp.reporting.values import Spread, number, rows, spread, table

BIG_DROP_POINTS = 5.0
WIDE_SPREAD_POINTS = 1.0
FLATTERING_POINTS = 3.0
DELIVERED_SHARE = 0.5
FRAGILE_POINTS = 1.0
TOUGH_POINTS = 0.25

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
    for setting in methods:
        if (drop := setting.figure("drop")) is not None and drop.mean > BIG_DROP_POINTS:
            found.append(Failure(setting.label, FAILURE_RULES[1], _outcome(setting)))
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


def slow_savings(profiles: Sequence[Found]) -> list[Failure]:
    """Networks whose FLOPs fell and whose time did not."""
    found = []
    for profile in profiles:
        comparison = table(profile.content.get("comparison"))
        fewer, quicker = number(comparison.get("flops_reduction_pct")), number(comparison.get("latency_reduction_pct"))
        if fewer and quicker is not None and fewer >= 5 and quicker < DELIVERED_SHARE * fewer:
            figures = f"{fewer:.1f}% fewer FLOPs, {quicker:.1f}% less latency ({_measured(profile)})"
            found.append(Failure(profile.name, FAILURE_RULES[6], figures))
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
    warning = f" Its goal is missed on the test images by {missed} of {setting.n_said}." if missed else ""
    form = " --format sparse" if command == "prune-unstructured" else ""
    checkpoint = quoted(str(setting.first.folder / "pruned_model.pth"))
    return Advice(
        f"Take {setting.label} ({command}).{warning}",
        rule,
        figures,
        f"pruning-bootcamp export --checkpoint {checkpoint}{form}",
    )


def _close(group: Group) -> list[Advice]:
    """The two best methods of a budget that can't be told apart get more seeds."""
    rule = (
        f"the two best methods at a budget differ by less than the larger of their spreads, or one has fewer than "
        f"{ENOUGH_SEEDS} seeds: the order is not settled"
    )
    found = []
    budgets = {(s.first.command, s.first.amount) for s in group.pruned if s.first.amount and not s.first.random}
    for command, amount in sorted(budgets):
        rivals = [
            (val.mean, val, setting)
            for setting in group.pruned
            if (setting.first.command, setting.first.amount) == (command, amount) and not setting.first.random
            if (val := setting.figure("val_accuracy")) is not None and setting.first.config
        ]
        if len(rivals) < 2:
            continue
        (_, val, best), (_, val2, second) = sorted(rivals, key=lambda rival: -rival[0])[:2]
        few = [setting for setting in (best, second) if len(setting.seeds) < ENOUGH_SEEDS]
        if few or val.mean - val2.mean <= max(val.std or 0.0, val2.std or 0.0):
            target = few[0] if few else best
            seed = max(target.seeds, default=-1) + 1
            found.append(
                Advice(
                    f"At {amount}, run more seeds before preferring {best.first.method} to {second.first.method}.",
                    rule,
                    f"validation {_said(val, best)} against {_said(val2, second)}",
                    again(target.first, f"--seed {seed}", f"seed{seed}") if command in PRUNING[:2] else None,
                )
            )
    return found


def quickest(profiles: Sequence[Found]) -> list[Advice]:
    """How to run the pruned network on the machine where it was timed, and what keeps time from falling."""
    found = []
    for profile in profiles:
        ways = {
            name: time / (number(stats.get("batch_size")) or 1)
            for name, pair in table(profile.content.get("alternatives")).items()
            if (stats := table(table(pair).get("pruned"))) and (time := number(stats.get("median_ms"))) is not None
        }
        if len(ways) > 1:
            best = min(ways, key=lambda name: ways[name])
            stats = table(table(table(profile.content.get("alternatives"))[best]).get("pruned"))
            device = table(profile.content.get("environment")).get("device", "an unnamed machine")
            found.append(
                Advice(
                    f"Run {profile.name} with {best}.",
                    f"the least time an image of the {len(ways)} ways that were timed on {device}",
                    f"{ways[best]:.4f} ms an image (median, n {stats.get('n')}, p5 {number(stats.get('p5_ms')) or 0:.3f} "
                    f"to p95 {number(stats.get('p95_ms')) or 0:.3f} ms a batch); "
                    + ", ".join(f"{name} {time:.4f}" for name, time in sorted(ways.items(), key=lambda w: w[1])[1:]),
                )
            )
        causes = [
            (points, str(cause.get("text")))
            for cause in rows(table(profile.content.get("analysis")).get("causes"))
            if (points := number(cause.get("points"))) is not None
        ]
        if slow_savings([profile]) and causes:
            points, cause = max(causes)
            found.append(
                Advice(
                    f"Look at what keeps {profile.name} slow before cutting more; widths in multiples of 8 "
                    "(--round-to 8) are worth a try.",
                    f"less than {100 * DELIVERED_SHARE:g}% of the FLOPs saved arrived as time; the largest measured cause",
                    f"{points:+.1f} points: {cause}",
                )
            )
    return found


def from_scan(scan: Found) -> list[Advice]:
    """Layers to spare and layers that can lose more, of a sensitivity scan."""
    dense = number(table(scan.content.get("dense")).get("accuracy"))
    if dense is None:
        return []
    fragile, tough = [], []
    for row in rows(scan.content.get("rows")):
        points = sorted(
            (sparsity, accuracy)
            for point in rows(row.get("points"))
            if (sparsity := number(point.get("sparsity"))) is not None
            and (accuracy := number(point.get("accuracy"))) is not None
        )
        if not points:
            continue
        (low, at_low), (high, at_high) = points[0], points[-1]
        if dense - at_low > FRAGILE_POINTS:
            fragile.append((dense - at_low, f"{row.get('name')} loses {dense - at_low:.2f} points at {low:.0%}"))
        if dense - at_high <= TOUGH_POINTS:
            tough.append((dense - at_high, f"{row.get('name')} loses {dense - at_high:.2f} points at {high:.0%}"))
    images = f"{scan.content.get('images')} validation images, one scan, one seed"
    found = []
    if fragile:
        rule = f"a {_by(scan)} that alone costs more than {FRAGILE_POINTS:g} point at the least sparsity scanned"
        said = "; ".join(line for _, line in sorted(fragile, reverse=True)[:5])
        found.append(
            Advice(f"Prune these less, or leave them out (prune.exclude): {len(fragile)}.", rule, f"{said} ({images})")
        )
    if tough:
        rule = f"a {_by(scan)} that alone costs at most {TOUGH_POINTS:g} points at the greatest sparsity scanned"
        said = "; ".join(line for _, line in sorted(tough)[:5])
        found.append(Advice(f"These can lose more than the rest: {len(tough)}.", rule, f"{said} ({images})"))
    return found


def _by(scan: Found) -> str:
    return str(scan.content.get("by", "layer"))


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


def _measured(profile: Found) -> str:
    stats = table(table(profile.content.get("latency")).get("pruned"))
    machine = table(profile.content.get("environment")).get("device", "machine not recorded")
    return f"median of n {stats.get('n', '?')}, {stats.get('backend', '?')}, batch {stats.get('batch_size', '?')}, {machine}"
