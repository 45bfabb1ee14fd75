"""Which setting to take: chosen on validation images, among those whose goal is not missed; or what came nearest."""

from collections.abc import Sequence

from pruning_bootcamp.reporting.advice import Advice, said
from pruning_bootcamp.reporting.fairness import quoted
from pruning_bootcamp.reporting.goals import misses, worst
from pruning_bootcamp.reporting.groups import Group, Setting
from pruning_bootcamp.reporting.records import Record
from pruning_bootcamp.reporting.values import Spread, counted, number, spread, table

_UNITS = {
    "prune-structured": "% fewer FLOPs",
    "prune-unstructured": "% zeros",
    "pipeline run": "% fewer parameters that are not zero",
}
Known = tuple[Setting, Spread, Spread]
"""a setting, its validation accuracy, and what it saves"""


def pick(group: Group, command: str) -> Advice | None:
    """The setting that saves most among those that kept their accuracy on validation and missed no goal."""
    known: list[Known] = [
        (setting, val, saved)
        for setting in group.pruned
        if setting.first.command == command and not setting.first.method.startswith("dense")
        if (val := setting.figure("val_accuracy")) is not None and (saved := _saved(setting)) is not None
    ]
    if not known:
        return None
    reference, of_what = _reference(group, known)
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
    figures = f"validation {said(val, setting)}, {saved.shown('{:.1f}')}{unit}"
    if setting.accuracy is not None:
        figures += f"; then, on the test images, {said(setting.accuracy, setting)}"
    if (drop := setting.figure("drop")) is not None:
        figures += f", {drop.shown()} points below the dense network"
    return Advice(f"Take {setting.label} ({command}).{_unjudged(setting)}", rule, figures, _next(setting, command))


def _reference(group: Group, known: Sequence[Known]) -> tuple[float, str]:
    """Validation accuracy of the dense network, by its own run or the pruned ones; without either the best there is."""
    dense = spread([record.val_accuracy for record in group.baselines])
    dense = dense or spread([record.dense.get("val_accuracy") for setting, _, _ in known for record in setting.records])
    if dense is not None:
        return dense.mean, "of the dense network"
    best = max(val.mean for _, val, _ in known)
    return best, "of the best setting (the dense one is not among the results)"


def _none(known: Sequence[Known], kept: Sequence[Known], command: str, rule: str) -> Advice:
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
        f"validation {said(nearest.figure('val_accuracy'), nearest)}; on the test images "
        f"{said(nearest.accuracy, nearest)}",
    )


def _unjudged(setting: Setting) -> str:
    """Said of a network that no goal speaks for."""
    judged = sum(record.goal_met is not None for record in setting.records)
    if setting.accuracy is None:
        return " No goal was judged: the test images were not read."
    if judged == 0:
        return " It has no goal."
    return "" if judged == len(setting.records) else f" Its goal was judged in {judged} of {setting.n_said} only."


def _next(setting: Setting, command: str) -> str | None:
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


def _saved(setting: Setting) -> Spread | None:
    """Percent that is gone, of what _UNITS says."""
    if setting.first.command == "prune-structured":
        return setting.figure("flops_reduction_pct")
    if setting.first.command == "prune-unstructured":
        return spread([None if one.sparsity is None else 100 * one.sparsity for one in setting.records])
    return spread([_fewer_params(record) for record in setting.records])


def _fewer_params(record: Record) -> float | None:
    dense, kept = record.dense.get("params_m"), record.kept_params_m
    return None if not dense or kept is None else 100 * (1 - kept / dense)


def _allowed_drop(setting: Setting) -> float:
    allowed = number(table(setting.first.config.get("goal")).get("accuracy_drop"))
    return 1.5 if allowed is None else allowed
