"""Widths that pruning left odd, rounded up with zero channels for the files of an export, where that is quicker."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from pruning_bootcamp.backends import deployable_copy, prepare
from pruning_bootcamp.checkpoints import example_input
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.outcomes import Padded
from pruning_bootcamp.flow.step import Network, StepContext
from pruning_bootcamp.flow.steps.export import is_calibrated
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import from_plain, to_plain
from pruning_bootcamp.pruning.channels.widening import Widening, widen
from pruning_bootcamp.reporting import markdown_table
from pruning_bootcamp.results import PaddedLatency, Padding, Paired
from pruning_bootcamp.tasks.base import with_one_output
from pruning_bootcamp.tools.latency import LatencyStats, PairedRatio, compare_latencies

MULTIPLES = (4, 8, 16)
BACKEND, AS_THEY_ARE = "onnxruntime", "as they are"
_MOST_SHOWN = 3


def pad_widths(context: StepContext) -> Padded:
    """The network as its files will hold it: as wide as `export.pad_to` says, or as it was where nothing is gained."""
    asked, network = context.cfg.export.pad_to, context.network()
    assert asked is not None
    if isinstance(asked, int):
        chosen = _widened(network, asked)
        padding = _padding(asked, asked if chosen.widths else None, chosen, {})
    else:
        chosen, padding = _quickest(context, network)
    LOGGER.info("%s", padding_text(padding))
    if padding.timed and padding.multiple is not None and is_calibrated(context.cfg):
        LOGGER.info("! float32 was timed: the kernels of int8 may like other widths, and its file has these too")
    masks = {name: chosen.model.get_parameter(name).detach() != 0 for name in network.masks}
    context.keep_network(Network(chosen.model, network.recipe, masks, network.ranges))
    return Padded(padding=padding, summary=_summary(padding))


def _widened(network: Network, multiple: int) -> Widening:
    try:
        return widen(network.model, example_input(network.recipe), multiple)
    except BootcampError as error:
        raise BootcampError(f"export.pad_to: this network's channels can't be followed: {error}") from error


def _quickest(context: StepContext, network: Network) -> tuple[Widening, Padding]:
    """Each width once, timed in turn with the network as it is; the quickest of those that are quicker for certain."""
    asis = Widening(network.model, {}, {}, None)
    try:
        found = {multiple: _widened(network, multiple) for multiple in MULTIPLES}
    except BootcampError as error:
        LOGGER.info("! %s", error)
        return asis, _padding("auto", None, asis, {})
    different: dict[int, Widening] = {}
    for multiple, one in found.items():
        if one.widths and all(one.widths != other.widths for other in different.values()):
            different[multiple] = one
    if not different:
        return asis, _padding("auto", None, found[MULTIPLES[0]], {})
    stats = _timed(context, {AS_THEY_ARE: network.model} | {str(name): one.model for name, one in different.items()})
    ratios = {multiple: stats[str(multiple)].ratio_to(stats[AS_THEY_ARE]) for multiple in different}
    times = {AS_THEY_ARE: PaddedLatency(latency=stats[AS_THEY_ARE].as_result())}
    times |= {str(multiple): _latency(stats[str(multiple)], ratio) for multiple, ratio in ratios.items()}
    best = quickest({multiple: ratio for multiple, ratio in ratios.items() if ratio is not None})
    chosen = asis if best is None else different[best]
    return chosen, _padding("auto", best, chosen, times)


def quickest(ratios: Mapping[int, PairedRatio]) -> int | None:
    """The multiple with the least time against the widths as they are, of those that are quicker for certain."""
    quicker = {multiple: ratio.median for multiple, ratio in ratios.items() if ratio.certain and ratio.median < 1}
    return min(quicker, key=lambda multiple: quicker[multiple], default=None)


def _timed(context: StepContext, models: Mapping[str, nn.Module]) -> dict[str, LatencyStats]:
    """Each as an ONNX file in ONNX Runtime, on `profile.batch_size` images, in turn."""
    profile, images = context.cfg.profile, example_input(context.network().recipe, context.cfg.profile.batch_size)
    runners = {
        name: prepare(BACKEND, with_one_output(deployable_copy(model), images, context.task), images)
        for name, model in models.items()
    }
    return compare_latencies({name: (runner, images) for name, runner in runners.items()}, runs=profile.runs)


def _padding(asked: int | str, multiple: int | None, found: Widening, timed: dict[str, PaddedLatency]) -> Padding:
    return Padding(
        asked=asked,
        multiple=multiple,
        widths=found.widths if multiple is not None else {},
        left=found.left or None,
        max_difference=found.proof.max_difference if found.proof is not None else None,
        timed=timed or None,
    )


def _latency(stats: LatencyStats, ratio: PairedRatio | None) -> PaddedLatency:
    paired = None if ratio is None else replace(from_plain(Paired, to_plain(ratio.as_result())), verdict=ratio.verdict)
    return PaddedLatency(latency=stats.as_result(), paired=paired)


def padding_text(padding: Padding) -> str:
    """What was timed, which widths the files have, and why others stay."""
    lines = _timings(padding.timed) if padding.timed else []
    if padding.multiple is not None:
        changed = [f"{name} {before} -> {after}" for name, (before, after) in padding.widths.items()]
        more = f", {len(changed) - _MOST_SHOWN} more" if len(changed) > _MOST_SHOWN else ""
        lines.append(
            f"Widths in multiples of {padding.multiple}, by zero channels: {', '.join(changed[:_MOST_SHOWN])}{more}"
        )
        lines += [
            f"Proved: outputs differ by {padding.max_difference:.1e} at most, in float64; no other number has changed",
            "The checkpoint stays as it is",
        ]
    elif padding.timed:
        lines.append("Widths stay as they are: none of the others is quicker for certain.")
    else:
        lines.append("Widths stay as they are: nothing can be widened, or all are multiples already.")
    left = padding.left or {}
    lines += [f"! {name} stays as wide as it is: {reason}" for name, reason in list(left.items())[:_MOST_SHOWN]]
    lines += [f"! {len(left) - _MOST_SHOWN} more groups stay as wide as they are"] if len(left) > _MOST_SHOWN else []
    return "\n".join(lines)


def _timings(timed: Mapping[str, PaddedLatency]) -> list[str]:
    rows = []
    for name, one in timed.items():
        saved, interval = "", ""
        if (paired := one.paired) is not None and paired.latency_reduction_pct is not None:
            saved = f"{paired.latency_reduction_pct:.1f}%"
            low, high = paired.latency_reduction_low_pct, paired.latency_reduction_high_pct
            interval = "too few passes" if low is None or high is None else f"{low:.1f} to {high:.1f}"
            interval += ", may be noise" if paired.verdict == "may be noise" else ""
        title = name if name == AS_THEY_ARE else f"multiples of {name}"
        rows.append([title, f"{one.latency.median_ms:.3f}", saved, interval])
    first = next(iter(timed.values())).latency
    return [
        f"{first.backend} on {first.device}, batch {first.batch_size}, {first.threads} threads, in turn, n {first.n}:",
        markdown_table(["widths", "ms median", "less time", "95% interval"], rows),
    ]


def _summary(padding: Padding) -> str:
    if padding.multiple is None:
        return "widths stay as they are"
    return f"{len(padding.widths)} groups of channels in multiples of {padding.multiple}"
