"""Which setting to take: chosen on validation images, among those whose goal is not missed; or what came nearest."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pruning_bootcamp.reporting.experiments import Experiment, SettingRuns
from pruning_bootcamp.reporting.fairness import quoted
from pruning_bootcamp.reporting.records import Record
from pruning_bootcamp.reporting.values import Spread, counted, number, spread, table
from pruning_bootcamp.results import Gate


@dataclass(frozen=True)
class Advice:
    what: str
    rule: str
    metrics: str
    command: str | None = None


def said(value: Spread | None, setting: SettingRuns) -> str:
    """`92.20 ± 0.20% (3 seeds)`, for a sentence."""
    return "not read" if value is None else f"{value.shown()}% ({setting.n_said})"


_FLOPS = re.compile(r">= ([\d.]+)% fewer FLOPs")
_DROP = re.compile(r"<= (-?[\d.]+) points of accuracy lost")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Shortfall:
    """A metric that is not what was asked for."""

    text: str
    share: float
    """of what was asked for (of at least 1): how far it is off; infinite where that can't be told"""


def misses(setting: SettingRuns) -> list[Record]:
    """The runs of a setting that were judged, and missed their goal or were stopped by a gate."""
    return [record for record in setting.records if _missed(record)]


def shortfalls(record: Record) -> list[Shortfall]:
    """Of a run that missed its goal, each metric that did; empty for any other."""
    if not _missed(record):
        return []
    found, goal, metrics = [], record.metrics.goal or "", record.metrics
    if (asked := _FLOPS.search(goal)) and (fewer := metrics.flops_reduction_pct) is not None:
        limit = float(asked[1])
        if fewer < limit:
            found.append(_shortfall(f"{fewer:.2f}% fewer FLOPs, {{}} points short of {limit:g}%", limit - fewer, limit))
    if (asked := _DROP.search(goal)) and (drop := metrics.accuracy_drop) is not None:
        limit = float(asked[1])
        if drop > limit:
            found.append(_shortfall(f"{drop:.2f} points lost, {{}} more than {limit:g}", drop - limit, limit))
    found += [_gate(gate) for gate in metrics.gates or () if not gate.met]
    return found or [Shortfall(f"by which metric is not recorded (goal: {goal or 'not stated'})", math.inf)]


def worst(setting: SettingRuns) -> tuple[float, list[Shortfall]]:
    """Of the runs of a setting, what the one that misses by most falls short of; and the largest share of it."""
    by_run = [shortfalls(record) for record in misses(setting)]
    return max(((max(one.share for one in run), run) for run in by_run), key=lambda pair: pair[0])


def _missed(record: Record) -> bool:
    return record.metrics.goal_met is False or record.metrics.status == "failed"


def _shortfall(text: str, gap: float, limit: float) -> Shortfall:
    shown = f"{gap:.2f}" if gap >= 0.005 else f"{gap:.2g}"  # a gap of 0.00 is none
    return Shortfall(text.format(shown), gap / max(abs(limit), 1.0))


def _gate(gate: Gate) -> Shortfall:
    limit, value = _NUMBER.search(gate.asked), _NUMBER.search(gate.found)
    share = math.inf
    if limit and value:
        share = abs(float(value[0]) - float(limit[0])) / max(abs(float(limit[0])), 1.0)
    return Shortfall(f"gate {gate.gate}: {gate.found}, asked for {gate.asked}", share)


_UNITS = {
    "prune-structured": "% fewer FLOPs",
    "prune-unstructured": "% zeros",
    "pipeline run": "% fewer parameters that are not zero",
}
_Known = tuple[SettingRuns, Spread, Spread]
"""a setting, its validation accuracy, and what it saves"""


def pick(experiment: Experiment, command: str) -> Advice | None:
    """The setting that saves most among those that kept their accuracy on validation and missed no goal."""
    known: list[_Known] = [
        (setting, val, saved)
        for setting in experiment.pruned
        if setting.first.command == command and not setting.first.method.startswith("dense")
        if (val := setting.val_accuracy) is not None and (saved := _saved(setting)) is not None
    ]
    if not known:
        return None
    reference, of_what = _reference(experiment, known)
    rule = (
        f"on validation images: within the allowed drop (goal.accuracy_drop, else 1.5 points) {of_what}, "
        f"{reference:.2f}%; of those without a missed goal the one that saves most, and of equals the more accurate"
    )
    kept = [entry for entry in known if entry[1].mean >= reference - _allowed_drop(entry[0])]
    fits = [entry for entry in kept if not misses(entry[0])]
    if not fits:
        return _none(known, kept, command, rule)
    setting, val, saved = max(fits, key=lambda entry: (entry[2].mean, entry[1].mean))
    unit = _UNITS[command]
    metrics = f"validation {said(val, setting)}, {saved.shown('{:.1f}')}{unit}"
    if setting.accuracy is not None:
        metrics += f"; then, on the test images, {said(setting.accuracy, setting)}"
    if (drop := setting.drop) is not None:
        metrics += f", {drop.shown()} points below the dense network"
    return Advice(f"Take {setting.label} ({command}).{_unjudged(setting)}", rule, metrics, _next(setting, command))


def _reference(experiment: Experiment, known: Sequence[_Known]) -> tuple[float, str]:
    """Validation accuracy of the dense network, by its own run or the pruned ones; without either the best there is."""
    dense = spread([record.val_accuracy for record in experiment.baselines])
    dense = dense or spread([record.dense.val_accuracy for setting, _, _ in known for record in setting.records])
    if dense is not None:
        return dense.mean, "of the dense network"
    best = max(val.mean for _, val, _ in known)
    return best, "of the best setting (the dense one is not among the results)"


def _none(known: Sequence[_Known], kept: Sequence[_Known], command: str, rule: str) -> Advice:
    """Nothing is recommended: how many missed their goal, how many lost too much, and what came nearest."""
    missed = [entry for entry in known if misses(entry[0])]
    lost = len(known) - len(kept)
    if not missed:
        best, val, _ = max(known, key=lambda entry: entry[1].mean)
        return Advice(
            f"None of the {len(known)} settings of {command} kept its accuracy: ask for less, or train longer after "
            "pruning (fine_tune.epochs).",
            rule,
            f"the best is {best.label}: validation {said(val, best)}",
        )
    if len(missed) == len(known):
        why = f"Every goal is missed ({counted(len(known), 'setting')})"
    else:
        why = f"{counted(len(missed), 'setting')} of {len(known)} missed the goal, {lost} lost too much on validation"
    _, nearest = min(((worst(setting)[0], place), setting) for place, (setting, _, _) in enumerate(missed))
    by = f" in {len(misses(nearest))} of {nearest.n_said}" if len(nearest.records) > 1 else ""
    short = "; ".join(one.text for one in worst(nearest)[1])
    return Advice(
        f"Take none of {command} yet. {why}. Nearest is {nearest.label}: missed{by} ({short}).",
        rule + "; nearest is whose largest miss is the smallest share of what was asked",
        f"validation {said(nearest.val_accuracy, nearest)}; on the test images {said(nearest.accuracy, nearest)}",
    )


def _unjudged(setting: SettingRuns) -> str:
    """Said of a network that no goal speaks for."""
    judged = sum(record.metrics.goal_met is not None for record in setting.records)
    if setting.accuracy is None:
        return " No goal was judged: the test images were not read."
    if judged == 0:
        return " It has no goal."
    return "" if judged == len(setting.records) else f" Its goal was judged in {judged} of {setting.n_said} only."


def _next(setting: SettingRuns, command: str) -> str | None:
    """What to type with the network that is taken: export it, or first read its test images."""
    first = setting.first
    if command == "pipeline run":
        return f"pruning-bootcamp pipeline status --save-dir {quoted(str(first.folder))}" if first.config else None
    checkpoint = quoted(str(first.folder / "pruned_model.pth"))
    # a network of the user's own code, and what is judged on images, need to know the run
    config = f"-c {quoted(str(first.folder / 'config.yaml'))} " if first.config else ""
    if first.accuracy is None:
        return f"pruning-bootcamp eval {config}--checkpoint {checkpoint}"
    form = " --format sparse" if command == "prune-unstructured" else ""
    return f"pruning-bootcamp export {config}--checkpoint {checkpoint}{form}"


def _saved(setting: SettingRuns) -> Spread | None:
    """Percent that is gone, of what _UNITS says."""
    if setting.first.command == "prune-structured":
        return setting.fewer_flops_pct
    return setting.zeros_pct if setting.first.command == "prune-unstructured" else setting.over_seeds(_fewer_params)


def _fewer_params(record: Record) -> float | None:
    dense, kept = record.dense.params_m, record.kept_params_m
    return None if not dense or kept is None else 100 * (1 - kept / dense)


def _allowed_drop(setting: SettingRuns) -> float:
    allowed = number(table(setting.first.config.get("goal")).get("accuracy_drop"))
    return 1.5 if allowed is None else allowed
