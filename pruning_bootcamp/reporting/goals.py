"""By how much a run misses its goal: each figure that falls short, from the goal's words and the gates' verdicts."""

import math
import re
from dataclasses import dataclass

from pruning_bootcamp.reporting.groups import Setting
from pruning_bootcamp.reporting.records import Record
from pruning_bootcamp.reporting.values import number, rows

_FLOPS = re.compile(r">= ([\d.]+)% fewer FLOPs")
_DROP = re.compile(r"<= (-?[\d.]+) points of accuracy lost")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Shortfall:
    """A figure that is not what was asked for."""

    text: str
    share: float
    """of what was asked for (of at least 1): how far it is off; infinite where that can't be told"""


def misses(setting: Setting) -> list[Record]:
    """The runs of a setting that were judged, and missed their goal or were stopped by a gate."""
    return [record for record in setting.records if _missed(record)]


def shortfalls(record: Record) -> list[Shortfall]:
    """Of a run that missed its goal, each figure that did; empty for any other."""
    if not _missed(record):
        return []
    found, goal = [], record.goal or ""
    if (asked := _FLOPS.search(goal)) and record.flops_reduction_pct is not None:
        limit = float(asked[1])
        if record.flops_reduction_pct < limit:
            text = f"{record.flops_reduction_pct:.2f}% fewer FLOPs, {{}} points short of {limit:g}%"
            found.append(_shortfall(text, limit - record.flops_reduction_pct, limit))
    if (asked := _DROP.search(goal)) and record.drop is not None:
        limit = float(asked[1])
        if record.drop > limit:
            found.append(
                _shortfall(f"{record.drop:.2f} points lost, {{}} more than {limit:g}", record.drop - limit, limit)
            )
    stopped = [gate for gate in rows(record.metrics.get("gates")) if gate.get("met") is False]
    found += [_gate(str(gate.get("gate")), str(gate.get("asked")), str(gate.get("found"))) for gate in stopped]
    return found or [Shortfall(f"by which figure is not recorded (goal: {goal or 'not stated'})", math.inf)]


def worst(setting: Setting) -> tuple[float, list[Shortfall]]:
    """Of the runs of a setting, what the one that misses by most falls short of; and the largest share of it."""
    by_run = [shortfalls(record) for record in misses(setting)]
    return max(((max(one.share for one in run), run) for run in by_run), key=lambda pair: pair[0])


def _missed(record: Record) -> bool:
    return record.goal_met is False or record.metrics.get("status") == "failed"


def _shortfall(text: str, gap: float, limit: float) -> Shortfall:
    shown = f"{gap:.2f}" if gap >= 0.005 else f"{gap:.2g}"  # a gap of 0.00 is none
    return Shortfall(text.format(shown), gap / max(abs(limit), 1.0))


def _gate(name: str, asked: str, found: str) -> Shortfall:
    limit, value = _NUMBER.search(asked), _NUMBER.search(found)
    share = math.inf
    if limit and value and (least := number(float(limit[0]))) is not None:
        share = abs(float(value[0]) - least) / max(abs(least), 1.0)
    return Shortfall(f"gate {name}: {found}, asked for {asked}", share)
