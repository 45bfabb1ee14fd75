"""Gates: limits that a network must keep to be exported. Pure: figures in, verdicts out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning_bootcamp.config.fields import GatesConfig

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


def judge_files(gates: GatesConfig, files: Mapping[str, Mapping[str, Any]]) -> list[Verdict]:
    """Size on disk and proof of every exported file; accuracy of one that rounds: it is not quite the network."""
    found = []
    for name, file in files.items():
        if "accuracy" in file:
            found += judge_accuracy(gates, file, f"the {name} file on {file['agreement_images']} validation images")
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
