"""OpenVINO in int8, with linear layers that skip their zeros where that is quicker."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends.base import BACKENDS
from pruning_bootcamp.backends.files import INT8_ADVICE, INT8_TOLERANCE, int8_file
from pruning_bootcamp.backends.openvino_runtime import NEEDS, opened
from pruning_bootcamp.backends.zeros import WORTH_TRYING, has_empty_layers, raced
from pruning_bootcamp.runtime import has_amx, processor_name
from pruning_bootcamp.tools.int8 import quantized_weights
from pruning_bootcamp.tools.latency import compare_latencies
from pruning_bootcamp.tools.latency.runner import Runner

_NAME, _RATE = "openvino_int8_sparse", "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"
_MOST_RATES = 4

Opened = tuple[Runner, list[dict[str, str]]]


@BACKENDS.register(
    _NAME,
    title="openvino int8 sparse on cpu",
    tolerance=INT8_TOLERANCE,
    advice=INT8_ADVICE,
    needs=NEEDS,
    wants=has_empty_layers,
    one_shape=True,
)
def openvino_int8_sparse(model: nn.Module, example: Tensor, threads: int) -> Runner:
    """openvino_int8, zeros of linear layers skipped from the share on that is quickest; never slower than dense.

    That takes a processor with AMX, and layers whose sides are multiples of 64.
    """
    content = int8_file(model, example, _NAME)
    dense, _ = opened(_NAME, content, example, threads)

    def at(rate: float) -> Opened:
        return opened(_NAME, content, example, threads, **{_RATE: rate})

    return quickest(dense, zeros_of(content), at, example)


def zeros_of(content: bytes) -> list[float]:
    """The share of zeros of each linear layer in an int8 file: of the integers, which rounding makes zero too."""
    import onnx

    weights = quantized_weights(onnx.load_from_string(content))
    return [float((one.integers == 0).mean()) for one in weights if one.integers.ndim == 2]


def rates_for(zeros: Sequence[float]) -> list[float]:
    """The settings that are worth trying: each just below the share of a layer, so that it and emptier ones skip.

    Of many, a few between the least and the largest.
    """
    rates = sorted({math.floor(1000 * share - 0.5) / 1000 for share in zeros if share >= WORTH_TRYING})
    if len(rates) <= _MOST_RATES:
        return rates
    return [rates[round(place * (len(rates) - 1) / (_MOST_RATES - 1))] for place in range(_MOST_RATES)]


def quickest(dense: Runner, zeros: Sequence[float], at: Callable[[float], Opened], example: Tensor) -> Runner:
    """The runner at the quickest setting, where that is quicker than `dense` for certain; else `dense`. Each says why.

    `at` opens the file at a setting. OpenVINO's own graph says which layers skip: where none does, the setting changes
    nothing, and whatever a clock says of it is noise.
    """
    say = partial(replace, dense)
    if not zeros:
        return say(note="dense: no linear layer in int8, and OpenVINO skips the zeros of no other")
    least, most = f"{min(zeros):.1%}", f"{max(zeros):.1%}"
    share = f"{most} zeros" if least == most else f"{least} to {most} zeros"
    if max(zeros) < WORTH_TRYING:
        return say(note=f"dense: no linear layer with half of its weights zero ({share})")
    skipping: dict[int, tuple[float, Runner]] = {}
    for rate in rates_for(zeros):
        runner, layers = at(rate)
        count = sum("sparse" in layer["primitiveType"] for layer in layers)
        if count:
            skipping.setdefault(count, (rate, runner))
    if not skipping:
        return say(note=f"dense: OpenVINO skips zeros in none of {len(zeros)} linear layers ({share}) here: {_why()}")
    count = _best(skipping, example)
    rate, runner = skipping[count]
    ratio = raced(dense, runner, example)
    said = f"{count} of {len(zeros)} linear layers ({share}) skip zeros at {_RATE} {rate:g}: {ratio.speedup} of dense"
    if ratio.verdict != "faster":
        return say(note=f"dense: no other setting is quicker for certain; {said}")
    return replace(runner, note=said)


def _best(skipping: dict[int, tuple[float, Runner]], example: Tensor) -> int:
    """By one race of all. What it wins by is another race's to say: this one is won by luck too."""
    if len(skipping) == 1:
        return next(iter(skipping))
    entrants = {str(count): (runner, example) for count, (_, runner) in skipping.items()}
    stats = compare_latencies(entrants, runs=30, min_seconds=0.3, max_seconds=10.0, warmup_seconds=0.1)
    return min(skipping, key=lambda count: stats[str(count)].median_ms)


def _why() -> str:
    """What OpenVINO lacks for it."""
    processor = processor_name(torch.device("cpu"))
    if has_amx():
        return f"it takes layers whose sides are multiples of 64 ({processor} has AMX)"
    return f"{processor} {'has no' if has_amx() is False else 'may have no'} AMX, which it needs"
