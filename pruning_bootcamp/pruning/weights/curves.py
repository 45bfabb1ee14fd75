"""Curves of a sensitivity scan -> how much of each row goes: convex from below, walked by the least loss a weight."""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pruning_bootcamp.errors import BootcampError, nearest
from pruning_bootcamp.pruning.weights.apportionment import Counts, apportion, apportion_evenly
from pruning_bootcamp.runs import read_yaml, siblings
from pruning_bootcamp.schema import shown

ScanMetric = Literal["loss", "accuracy"]
Knots = list[tuple[int, float]]
"""(how many weights go, what that costs), the first at 0"""

_MOST_BYTES = 8 * 2**20  # far above a scan of a thousand layers


@dataclass(frozen=True)
class ScanRow:
    """One layer or block of a scan: `costs[by]` are (sparsity, what is lost against dense), sparsities rising."""

    name: str
    weights: tuple[str, ...]
    size: int
    costs: Mapping[str, tuple[tuple[float, float], ...]]


def counts_from_scan(
    sizes: Mapping[str, int], gone: Mapping[str, int], total: int, file: str, by: ScanMetric
) -> Counts:
    """Counts of every weight whose sum is `total`, at the least summed cost by the curves in `file`, none below `gone`.

    `sizes` are in units of what goes together (single weights, or blocks). Within a row that holds several weights each
    loses the same share, as it did in the scan.
    """
    rows = rows_for(read_rows(Path(file)), sizes, file)
    if sum(gone.values()) > total:  # more than is asked for has gone before: the engine says so, or keeps those zeros
        gone = dict.fromkeys(sizes, 0)
    least = {row.name: sum(gone[weight] for weight in row.weights) for row in rows}
    curves = {row.name: knots(row, sizes, by) for row in rows}
    reach = sum(max(curves[name][-1][0], least[name]) for name in curves)
    if total > reach:
        everything = sum(sizes.values())
        highest = max(sparsity for row in rows for sparsity, _ in row.costs[by])
        raise BootcampError(
            f"allocation sensitivity: sparsity {total / everything:.6g} lies beyond the scan in {file}, which ends at "
            f"{highest:g}. Ask for at most {reach / everything:.6g}, or scan further: pruning-bootcamp sensitivity "
            "--sparsities with a value above what you ask for."
        )
    of_rows = walk(curves, total, least)
    counts: Counts = {}
    for row in rows:
        inside = {weight: sizes[weight] for weight in row.weights}
        counts |= apportion_evenly(inside, {weight: gone[weight] for weight in row.weights}, of_rows[row.name])
    return {name: counts[name] for name in sizes}


def walk(curves: Mapping[str, Knots], total: int, least: Mapping[str, int]) -> Counts:
    """Where the next weight costs least, it goes, until `total` are gone; what went before (`least`) is paid for.

    On convex curves this finds the least possible sum. Where several cost the same each gives the same share of it.
    """
    segments = []
    for name, curve in curves.items():
        for (start, before), (end, after) in itertools.pairwise(lower_hull(curve)):
            first = max(start, least[name])
            if end > first:
                segments.append(((after - before) / (end - start), name, end - first))
    counts = {name: least[name] for name in curves}
    remaining = total - sum(counts.values())
    for _, tied in itertools.groupby(sorted(segments, key=lambda segment: segment[0]), key=lambda segment: segment[0]):
        lengths = {name: length for _, name, length in tied}
        now = min(remaining, sum(lengths.values()))
        for name, more in apportion({n: float(length) for n, length in lengths.items()}, lengths, now).items():
            counts[name] += more
        remaining -= now
    assert remaining == 0, "the caller has compared the total with the ends of the curves"
    return counts


def lower_hull(curve: Knots) -> Knots:
    """The convex curve that lies nearest below, through some of the knots and with the same ends.

    Convex, because a greedy walk would stop before a steep piece however flat the curve is behind it, and curves do
    flatten: a layer that is ruined at 90% is not much worse at 95%.
    """
    hull: Knots = []
    for count, cost in curve:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2], hull[-1]
            if (y1 - y0) * (count - x1) < (cost - y1) * (x1 - x0):
                break
            hull.pop()
        hull.append((count, cost))
    return hull


def knots(row: ScanRow, sizes: Mapping[str, int], by: ScanMetric) -> Knots:
    """A row's curve over how many of its weights go: 0 at 0, and never falling: what falls is noise of few images."""
    found: Knots = [(0, 0.0)]
    for sparsity, cost in row.costs[by]:
        count = sum(round(sparsity * sizes[weight]) for weight in row.weights)
        cost = max(cost, found[-1][1])
        if count > found[-1][0]:
            found.append((count, cost))
        elif count > 0:  # a layer of few weights: two sparsities take the same number
            found[-1] = (count, cost)
    return found


def rows_for(rows: Sequence[ScanRow], sizes: Mapping[str, int], file: str) -> list[ScanRow]:
    """The rows whose weights are to be pruned; BootcampError where the scan is of other layers, or of other sizes."""
    scanned = {weight: row for row in rows for weight in row.weights}
    problems = []
    again = "Scan this network, with the same prune.include and prune.exclude."
    for name in sizes:
        if name not in scanned:
            close = nearest(name, scanned)
            hint = f" Its nearest there is '{close}'." if close else ""
            problems.append(f"{name}: is to be pruned, and the scan does not have it.{hint} {again}")
    used = [row for row in rows if any(weight in sizes for weight in row.weights)]
    lacking = {row.name: [weight for weight in row.weights if weight not in sizes] for row in used}
    problems += [
        f"{name}: was scanned together with {', '.join(weights)}, not pruned now. {again}"
        for name, weights in lacking.items()
        if weights
    ]
    if not problems:
        now = {row.name: sum(sizes[weight] for weight in row.weights) for row in used}
        together = max(used[0].size // now[used[0].name], 1)  # weights that go together: 1, or those of a block
        problems = [
            f"{row.name}: has {together * now[row.name]} weights, and {row.size} in the scan. {again}"
            for row in used
            if row.size != together * now[row.name]
        ]
    if problems:
        more = [f"... and {len(problems) - 5} more."] if len(problems) > 5 else []
        raise BootcampError(*problems[:5], *more, where=f"allocation sensitivity: {file}")
    return used


def read_rows(path: Path) -> list[ScanRow]:
    """The rows of a sensitivity.yaml. BootcampError with the first thing in it that no scan writes."""
    if not path.is_file():
        raise BootcampError(f"{path}: there is no such file. {siblings(path)}")
    about = path.stat()
    if about.st_size > _MOST_BYTES:
        raise BootcampError(f"{path}: is no sensitivity scan ({about.st_size:,} bytes).")
    return list(_read(path.resolve(), about.st_mtime_ns, about.st_size))


@functools.lru_cache(maxsize=4)  # gradual pruning asks at each of its updates
def _read(path: Path, changed_ns: int, size: int) -> tuple[ScanRow, ...]:
    content = read_yaml(path)
    try:
        judged = content.get("metric", {"name": "accuracy", "higher_is_better": True})
        name, sign = judged["name"], 1 if judged["higher_is_better"] else -1
        dense = {"loss": _number(content["dense"]["loss"]), "accuracy": sign * _number(content["dense"][name])}
        rows = tuple(_row(row, dense, name, sign) for row in content["rows"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise BootcampError(
            f"{path}: is no sensitivity scan ({reason}). Give a sensitivity.yaml of pruning-bootcamp sensitivity."
        ) from None
    weights = [weight for row in rows for weight in row.weights]
    if not rows or len(set(weights)) < len(weights) or len({row.name for row in rows}) < len(rows):
        raise BootcampError(f"{path}: is no sensitivity scan ({'a name twice' if rows else 'no row'}).")
    return rows


def _row(raw: Any, dense: Mapping[str, float], metric: str, sign: int) -> ScanRow:
    """`sign` is -1 for a metric of which less is better."""
    name, weights, size = raw["name"], raw["weights"], raw["size"]
    points = sorted((_number(p["sparsity"]), _number(p["loss"]), sign * _number(p[metric])) for p in raw["points"])
    sparsities = [point[0] for point in points]
    if not points or len(set(sparsities)) < len(points) or not all(0 < sparsity < 1 for sparsity in sparsities):
        raise ValueError(f"row {shown(name)}: sparsities {shown(sparsities)}")
    if not isinstance(name, str) or not isinstance(size, int) or size < 1:
        raise ValueError(f"row {shown(name)}: size {shown(size)}")
    if not isinstance(weights, list) or not weights or not all(isinstance(weight, str) for weight in weights):
        raise ValueError(f"row {name}: weights {shown(weights)}")
    costs = {
        "loss": tuple((sparsity, loss - dense["loss"]) for sparsity, loss, _ in points),
        "accuracy": tuple((sparsity, dense["accuracy"] - accuracy) for sparsity, _, accuracy in points),
    }
    return ScanRow(name, tuple(weights), size, costs)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{shown(value)} is not a number")
    return float(value)
