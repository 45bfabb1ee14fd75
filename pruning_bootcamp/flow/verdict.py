"""The verdict on a compressed network: goal and gates, one rule for every command. Pure: figures in, verdicts out."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pruning_bootcamp.config import Config
from pruning_bootcamp.config.fields import GatesConfig
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.memorised import KEY, caveat

LATENCY = "min_latency_reduction_pct"
_MOST_DIGITS = 9


@dataclass(frozen=True)
class Verdict:
    """One gate: what was asked, what was found, where, and whether it is enough."""

    gate: str
    asked: str
    found: str
    where: str
    met: bool

    def __str__(self) -> str:
        return f"{'✓' if self.met else '✗'} gates.{self.gate}: {self.found} ({self.where}), asked for {self.asked}"


@dataclass(frozen=True)
class Goal:
    """What makes a pruned network a success, on the test split."""

    accuracy_drop: float
    """points that may be lost"""
    flops_reduction_pct: float | None = None
    """percent of the multiply-accumulates that must be saved; None where nothing was cut: zeros save none"""

    def texts(self) -> list[str]:
        """What is asked for, a line each."""
        drop = f"<= {self.accuracy_drop:g} points of accuracy lost"
        return [drop] if self.flops_reduction_pct is None else [f">= {self.flops_reduction_pct:g}% fewer FLOPs", drop]

    def missed(self, metrics: Mapping[str, Any]) -> list[str]:
        """Each figure that is not what the goal asks for, and what to do about it."""
        found = []
        if self.flops_reduction_pct is not None and not metrics["flops_reduction_pct"] >= self.flops_reduction_pct:
            saved = f"{_figure(metrics['flops_reduction_pct'], self.flops_reduction_pct, 2)}% fewer FLOPs"
            found.append(f"missed: {saved}. Cut more, or set goal.flops_reduction_pct to what you need.")
        if not metrics["accuracy_drop"] <= self.accuracy_drop:
            lost = f"{_figure(metrics['accuracy_drop'], self.accuracy_drop, 2)} points of accuracy lost"
            found.append(f"missed: {lost}. Prune less, or train longer afterwards (fine_tune.epochs=N).")
        return found


def goal_of(cfg: Config, cut: bool) -> Goal:
    """The config's goal; its share of FLOPs is asked of a network that channels were `cut` out of."""
    return Goal(cfg.goal.accuracy_drop, cfg.goal.flops_reduction_pct if cut else None)


def judge(goal: Goal, metrics: Mapping[str, Any], gates: Sequence[Verdict] = ()) -> dict[str, Any]:
    """{"goal", "goal_met"} of the test figures in `metrics`, with "gates" where there are any: all must hold."""
    asked = dict.fromkeys(f"{verdict.gate} {verdict.asked}" for verdict in gates)
    measured = "accuracy_drop" in metrics  # not where a gate stopped the work before the test images
    met = measured and not goal.missed(metrics) and all(verdict.met for verdict in gates)
    found: dict[str, Any] = {"goal": ", ".join([*goal.texts(), *asked]), "goal_met": met}
    return found | {"gates": [asdict(verdict) for verdict in gates]} if gates else found


def judge_gates(gates: GatesConfig, metrics: Mapping[str, Any]) -> tuple[list[Verdict], list[str]]:
    """The gates that these figures decide; and the names of the set ones they don't.

    `metrics` holds what is known so far: "validation", costs, test figures, "files".
    """
    found: list[Verdict] = []
    undecided = []
    if validation := metrics.get("validation"):
        found += judge_accuracy(
            gates, validation, f"{validation['images']} validation images{caveat(metrics.get(KEY))}"
        )
    else:
        undecided += [f"{name} on validation images" for name in asked_of_accuracy(gates)]
    known = replace(
        gates,
        min_flops_reduction_pct=gates.min_flops_reduction_pct if "flops_reduction_pct" in metrics else None,
        min_latency_reduction_pct=gates.min_latency_reduction_pct if "latency_measured" in metrics else None,
        no_fall_back=gates.no_fall_back and "fall_backs" in metrics,
    )
    if gates.min_latency_reduction_pct is not None and known.min_latency_reduction_pct is None:
        undecided.append(LATENCY)
    if gates.no_fall_back and not known.no_fall_back:
        undecided.append("no_fall_back")
    found += judge_cost(known, metrics, metrics.get("fall_backs", ()))
    if "accuracy_drop" in metrics:
        found += judge_accuracy(gates, metrics, f"{metrics['test_images']} test images")
    if "files" in metrics:
        found += judge_files(gates, metrics["files"], caveat(metrics.get(KEY)))
    elif gates.max_size_mb is not None:
        undecided.append("max_size_mb")
    return found, undecided


def verdict_on(cfg: Config, goal: Goal, metrics: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The verdict on a run's figures as its metrics hold them, and what to say of it beside met or not."""
    gates, undecided = judge_gates(cfg.gates, metrics)
    lines = goal.missed(metrics) + [f"{verdict}." for verdict in failed(gates)]
    if undecided:
        names = ", ".join(f"gates.{name}" for name in undecided)
        lines.append(f"not judged here: {names}. `pipeline run` measures what they need.")
    return judge(goal, metrics, gates), lines


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Inside, figures are judged that a finished run wrote to `path`: what somebody changed there is a message."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise BootcampError(
            f"its figures are not as the run left them ({what}). --no-resume does the run again.", where=str(path)
        ) from error


def asked_of_accuracy(gates: GatesConfig) -> list[str]:
    """The gates that are set on accuracy: judged on the validation images too."""
    return [name for name in ("min_accuracy", "max_accuracy_drop") if getattr(gates, name) is not None]


def judge_accuracy(gates: GatesConfig, figures: Mapping[str, Any], where: str) -> list[Verdict]:
    """Accuracy and what was lost of it, on the images that `where` names."""
    found = []
    if gates.min_accuracy is not None:
        found.append(_at_least("min_accuracy", gates.min_accuracy, figures["accuracy"], "% accuracy", where))
    if gates.max_accuracy_drop is not None:
        found.append(
            _at_most("max_accuracy_drop", gates.max_accuracy_drop, figures["accuracy_drop"], " points lost", where)
        )
    return found


def judge_cost(gates: GatesConfig, figures: Mapping[str, Any], fall_backs: Sequence[str]) -> list[Verdict]:
    """What was saved, and whether everything was done as asked."""
    found = []
    if gates.min_flops_reduction_pct is not None:
        value = figures["flops_reduction_pct"]
        found.append(
            _at_least("min_flops_reduction_pct", gates.min_flops_reduction_pct, value, "% fewer FLOPs", "counted")
        )
    if gates.min_latency_reduction_pct is not None:
        value, limit = figures["latency_reduction_pct"], gates.min_latency_reduction_pct
        found.append(_at_least(LATENCY, limit, value, "% less latency", figures["latency_measured"]))
    if gates.no_fall_back:
        some = f"{len(fall_backs)} fall-backs, the first: {fall_backs[0]}" if fall_backs else "none"
        found.append(Verdict("no_fall_back", "none", some, "while pruning", not fall_backs))
    return found


def judge_files(gates: GatesConfig, files: Mapping[str, Mapping[str, Any]], doubt: str = "") -> list[Verdict]:
    """Size on disk and proof of every exported file; accuracy of one that rounds: it is not quite the network.

    `doubt`: what speaks against the validation images, to be said with every figure on them.
    """
    found = []
    for name, file in files.items():
        if "accuracy" in file:
            where = f"the {name} file on {file['agreement_images']} validation images{doubt}"
            found += judge_accuracy(gates, file, where)
        if gates.max_size_mb is not None:
            size = file["size_mb"]
            found.append(_at_most("max_size_mb", gates.max_size_mb, size, " MB", f"{name} on disk", digits=4))
        if gates.export_verified:
            text = "verified" if file["verified"] else "not verified"
            found.append(Verdict("export_verified", "verified", text, name, bool(file["verified"])))
    return found


def failed(verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    return (verdict for verdict in verdicts if not verdict.met)


def _at_least(gate: str, limit: float, value: float, unit: str, where: str) -> Verdict:
    return Verdict(gate, f">= {limit:g}", f"{_figure(value, limit, 2)}{unit}", where, value >= limit)


def _at_most(gate: str, limit: float, value: float, unit: str, where: str, digits: int = 2) -> Verdict:
    return Verdict(gate, f"<= {limit:g}", f"{_figure(value, limit, digits)}{unit}", where, value <= limit)


def _figure(value: float, limit: float, digits: int) -> str:
    """With digits enough to be told from the limit: nobody believes that 95.00 is not >= 95."""
    while value != limit and digits < _MOST_DIGITS and f"{value:.{digits}f}" == f"{limit:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f}"
