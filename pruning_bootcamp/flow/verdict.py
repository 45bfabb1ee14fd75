"""The verdict on a compressed network: goal and gates, one rule for every command. Pure: metrics in, verdicts out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.naming import as_read
from pruning_bootcamp.flow.sections import GatesSettings
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.memorised import caveat
from pruning_bootcamp.plain import from_plain
from pruning_bootcamp.pruning.channels.time_budget import WITHIN, within
from pruning_bootcamp.results import Comparison, ExportedFile, Gate, Metrics
from pruning_bootcamp.runs import read_yaml
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Metric

LATENCY = "min_latency_reduction_pct"
_MOST_DIGITS = 9


@dataclass(frozen=True)
class Goal:
    """What makes a pruned network a success, on the test split."""

    accuracy_drop: float
    """points that may be lost"""
    flops_reduction_pct: float | None = None
    """percent of the multiply-accumulates that must be saved; None where nothing was cut: zeros save none"""
    metric: Metric = IMAGE_CLASSIFICATION.metric
    """what is lost"""
    latency_reduction_pct: float | None = None
    """percent less time; 0: certainly quicker"""
    latency_ms: float | None = None
    """milliseconds that a batch may take"""
    where: str = ""
    """what is timed: the backend, and on how many samples"""

    def texts(self) -> list[str]:
        """What is asked for, a line each."""
        lines = [] if self.flops_reduction_pct is None else [f">= {self.flops_reduction_pct:g}% fewer FLOPs"]
        if (share := self.latency_reduction_pct) is not None:
            lines.append(f">= {share:.4g}% less time ({self.where})" if share else f"quicker ({self.where})")
        if self.latency_ms is not None:
            lines.append(f"<= {self.latency_ms:.4g} ms ({self.where})")
        return [*lines, f"<= {self.accuracy_drop:g} points of {self.metric.title} lost"]

    def missed_time(self, found: Metrics | Comparison) -> list[str]:
        """What of the time is not as asked, and how to come to it."""
        lines = []
        advice = "Cut to a budget in time: prune-structured --target-latency-reduction SHARE --backend NAME."
        if (share := self.latency_reduction_pct) is not None:
            saved = _known(found.latency_reduction_pct, "latency_reduction_pct")
            low = found.latency_reduction_low_pct
            if share == 0 and not (low is not None and low > 0):
                between = "" if low is None else f", 95% interval {low:.1f} to {found.latency_reduction_high_pct:.1f}"
                lines.append(f"missed: {saved:.1f}% less time{between}: not certainly quicker ({self.where}). {advice}")
            elif not saved >= share:
                lines.append(f"missed: {_shown(saved, share, 2)}% less time ({self.where}). {advice}")
        if self.latency_ms is not None and isinstance(found, Metrics):
            taken = _known(found.latency_ms, "latency_ms")
            if not taken <= self.latency_ms:
                lines.append(f"missed: {_shown(taken, self.latency_ms, 3)} ms ({self.where}). {advice}")
        return lines

    def missed(self, found: Comparison) -> list[str]:
        """Each metric that is not what the goal asks for, and what to do about it."""
        lines = []
        if self.flops_reduction_pct is not None:
            saved = _known(found.flops_reduction_pct, "flops_reduction_pct")
            if not saved >= self.flops_reduction_pct:
                text = f"{_shown(saved, self.flops_reduction_pct, 2)}% fewer FLOPs"
                lines.append(f"missed: {text}. Cut more, or set goal.flops_reduction_pct to what you need.")
        lines += self.missed_time(found)
        drop = _known(found.accuracy_drop, "accuracy_drop")
        if not drop <= self.accuracy_drop:
            text = f"{_shown(drop, self.accuracy_drop, 2)} points of {self.metric.title} lost"
            lines.append(f"missed: {text}. Prune less, or train longer afterwards (fine_tune.epochs=N).")
        return lines


def goal_of(cfg: Config, cut: bool) -> Goal:
    """The config's goal; what it saves is asked of a network that channels were `cut` out of, to a budget."""
    s, metric = cfg.structured, task_of(cfg).metric
    if not cut or s.only_dead:
        return Goal(cfg.goal.accuracy_drop, None, metric)
    share, milliseconds = cfg.goal.latency_reduction_pct, None
    if share is None and s.target_latency_reduction is not None:
        share = 100 * (s.target_latency_reduction - within(1 - s.target_latency_reduction))
    if s.target_latency_ms is not None:
        milliseconds = s.target_latency_ms * (1 + WITHIN)
    where = f"{cfg.profile.backend}, batch {' and '.join(map(str, cfg.profile.batch_sizes))}"
    flops = None if s.timed else cfg.goal.flops_reduction_pct or None
    return Goal(cfg.goal.accuracy_drop, flops, metric, share, milliseconds, where)


def times_networks(cfg: Config, cut: bool) -> bool:
    """Whether goal or gates ask what networks take here; of channels that were `cut` out, or of any network."""
    goal = goal_of(cfg, cut)
    asked = (goal.latency_reduction_pct, goal.latency_ms, cfg.gates.min_latency_reduction_pct)
    return any(value is not None for value in asked)


def judge(goal: Goal, metrics: Metrics, gates: Sequence[Gate] = ()) -> Metrics:
    """The metrics with "goal", "goal_met" and, where there are any, "gates": all must hold."""
    asked = dict.fromkeys(f"{gate.gate} {gate.asked}" for gate in gates)
    measured = metrics.accuracy_drop is not None  # not where a gate stopped the work before the test images
    met = measured and not goal.missed(metrics) and all(gate.met for gate in gates)
    text = ", ".join([*goal.texts(), *asked])
    return replace(metrics, goal=text, goal_met=met, gates=tuple(gates) or None)


def judge_gates(gates: GatesSettings, metrics: Metrics) -> tuple[list[Gate], list[str]]:
    """The gates that these metrics decide; and the names of the set ones they don't.

    `metrics` holds what is known so far: validation, costs, test metrics, files.
    """
    found: list[Gate] = []
    undecided = []
    doubt = caveat(metrics.validation_was_trained_on)
    if (v := metrics.validation) is not None:
        found += judge_accuracy(gates, v.accuracy, v.accuracy_drop, f"{v.images} validation images{doubt}")
    else:
        undecided += [f"{name} on validation images" for name in asked_of_accuracy(gates)]
    known = replace(
        gates,
        min_flops_reduction_pct=None if metrics.flops_reduction_pct is None else gates.min_flops_reduction_pct,
        min_latency_reduction_pct=None if metrics.latency_measured is None else gates.min_latency_reduction_pct,
        no_fall_back=gates.no_fall_back and metrics.fall_backs is not None,
    )
    if gates.min_latency_reduction_pct is not None and known.min_latency_reduction_pct is None:
        undecided.append(LATENCY)
    if gates.no_fall_back and not known.no_fall_back:
        undecided.append("no_fall_back")
    found += judge_cost(known, metrics)
    if metrics.accuracy_drop is not None:
        where = f"{_known(metrics.test_images, 'test_images')} test images"
        found += judge_accuracy(gates, _known(metrics.accuracy, "accuracy"), metrics.accuracy_drop, where)
    if metrics.files is not None:
        found += judge_files(gates, metrics.files, doubt)
    elif gates.max_size_mb is not None:
        undecided.append("max_size_mb")
    return found, undecided


def verdict_on(cfg: Config, goal: Goal, metrics: Metrics) -> tuple[Metrics, list[str]]:
    """The metrics with their verdict, and what to say of it beside met or not."""
    gates, undecided = judge_gates(cfg.gates, metrics)
    lines = goal.missed(metrics) + [f"{gate}." for gate in failed(gates)]
    if undecided:
        names = ", ".join(f"gates.{name}" for name in undecided)
        lines.append(f"not judged here: {names}. `pipeline run` measures what they need.")
    return judge(goal, metrics, gates), lines


def read_metrics(path: Path, metric: Metric = IMAGE_CLASSIFICATION.metric) -> Metrics:
    """The metrics that a finished run wrote; a BootcampError where somebody changed them."""
    try:
        return from_plain(Metrics, as_read(metric, read_yaml(path)))
    except BootcampError as error:
        what = "; ".join(str(problem) for problem in error.problems)
        raise BootcampError(_changed(what), where=str(path)) from error


def known_goal(metrics: Metrics, path: Path) -> Metrics:
    """The metrics of a run that was judged; a BootcampError where its goal is gone."""
    if metrics.goal is None or metrics.goal_met is None:
        raise BootcampError(_changed("goal is missing"), where=str(path))
    return metrics


def _changed(what: str) -> str:
    return f"its metrics are not as the run left them ({what}). --no-resume does the run again."


def _known(value: float | None, name: str) -> float:
    """A metric without which there is no verdict: a run that wrote it was finished."""
    if value is None:
        raise BootcampError(_changed(f"{name} is missing"))
    return value


def asked_of_accuracy(gates: GatesSettings) -> list[str]:
    """The gates that are set on accuracy: judged on the validation images too."""
    return [name for name in ("min_accuracy", "max_accuracy_drop") if getattr(gates, name) is not None]


def judge_accuracy(gates: GatesSettings, accuracy: float, drop: float, where: str) -> list[Gate]:
    """Accuracy and what was lost of it, on the images that `where` names."""
    found = []
    if gates.min_accuracy is not None:
        found.append(_at_least("min_accuracy", gates.min_accuracy, accuracy, "% accuracy", where))
    if gates.max_accuracy_drop is not None:
        found.append(_at_most("max_accuracy_drop", gates.max_accuracy_drop, drop, " points lost", where))
    return found


def judge_cost(gates: GatesSettings, metrics: Metrics) -> list[Gate]:
    """What was saved, and whether everything was done as asked."""
    found = []
    if (limit := gates.min_flops_reduction_pct) is not None:
        value = _known(metrics.flops_reduction_pct, "flops_reduction_pct")
        found.append(_at_least("min_flops_reduction_pct", limit, value, "% fewer FLOPs", "counted"))
    if (limit := gates.min_latency_reduction_pct) is not None:
        value = _known(metrics.latency_reduction_pct, "latency_reduction_pct")
        found.append(_at_least(LATENCY, limit, value, "% less latency", metrics.latency_measured or ""))
    if gates.no_fall_back:
        done = metrics.fall_backs or ()
        some = f"{len(done)} fall-backs, the first: {done[0]}" if done else "none"
        found.append(Gate(gate="no_fall_back", asked="none", found=some, where="while pruning", met=not done))
    return found


def judge_files(gates: GatesSettings, files: Mapping[str, ExportedFile], doubt: str = "") -> list[Gate]:
    """Size on disk and proof of every exported file; accuracy of one that rounds: it is not quite the network.

    `doubt`: what speaks against the validation images, to be said with every metric on them.
    """
    found = []
    for name, file in files.items():
        if file.accuracy is not None:
            where = f"the {name} file on {file.agreement_images} validation images{doubt}"
            found += judge_accuracy(gates, file.accuracy, _known(file.accuracy_drop, "accuracy_drop"), where)
        if gates.max_size_mb is not None:
            where = f"{name} on disk"
            found.append(_at_most("max_size_mb", gates.max_size_mb, file.size_mb, " MB", where, digits=4))
        if gates.export_verified:
            text = "verified" if file.verified else "not verified"
            found.append(Gate(gate="export_verified", asked="verified", found=text, where=name, met=file.verified))
    return found


def failed(gates: Sequence[Gate]) -> Iterator[Gate]:
    """The gates that are not met."""
    return (gate for gate in gates if not gate.met)


def _at_least(gate: str, limit: float, value: float, unit: str, where: str) -> Gate:
    found = f"{_shown(value, limit, 2)}{unit}"
    return Gate(gate=gate, asked=f">= {limit:g}", found=found, where=where, met=value >= limit)


def _at_most(gate: str, limit: float, value: float, unit: str, where: str, digits: int = 2) -> Gate:
    found = f"{_shown(value, limit, digits)}{unit}"
    return Gate(gate=gate, asked=f"<= {limit:g}", found=found, where=where, met=value <= limit)


def _shown(value: float, limit: float, digits: int) -> str:
    """With digits enough to be told from the limit: nobody believes that 95.00 is not >= 95."""
    while value != limit and digits < _MOST_DIGITS and f"{value:.{digits}f}" == f"{limit:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f}"
