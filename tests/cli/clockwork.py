"""A runtime whose time is known: so long for every filter, in eights; and the clock that reads it off."""

import statistics
from typing import Any

from pruning_bootcamp.tools.latency import LatencyStats

PACED = """
import math

from torch import nn

from pruning_bootcamp.backends import Runner
from pruning_bootcamp.plugins import facts


@facts(tolerance=1e-4)
def paced(model, example, threads):
    "Takes 5 us, and 10 us for every eight filters of a layer, and computes what torch computes."
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    return timed("paced", model, example, sum(0.005 + 0.01 * math.ceil(len(layer.weight) / 8) for layer in layers))


@facts(tolerance=1e-4)
def even(model, example, threads):
    "Takes as long whatever is cut."
    return timed("even", model, example, 1.0)


def timed(name, model, example, milliseconds):
    def run(batch):
        return model(batch)

    run.milliseconds = milliseconds
    return Runner(name, run, example.device)
"""


def clockwork(candidates: dict[str, Any], **_: Any) -> dict[str, LatencyStats]:
    """As long as the runner says, a little more and a little less in turn, alike for all of a round."""
    found = {}
    for name, (runner, batch) in candidates.items():
        took = [runner.run.milliseconds * (1 + 0.01 * (number % 3)) for number in range(30)]
        one = {"median_ms": statistics.median(took), "mean_ms": statistics.fmean(took), "std_ms": 0.0, "n": len(took)}
        one |= {"p5_ms": min(took), "p95_ms": max(took), "batch_size": len(batch), "device": "cpu", "threads": 1}
        found[name] = LatencyStats(**one, backend=runner.backend, rounds_ms=tuple(took))
    return found
