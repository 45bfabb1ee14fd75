"""Every way to run networks on this device: the backends asked for, and the others, each timed in turn; what could not
be timed is said in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from pruning_bootcamp.backends import BACKENDS, Runner, prepare
from pruning_bootcamp.backends.ways import Way, launch_bound_ways, ways_to_time
from pruning_bootcamp.checkpoints import Recipe, example_input
from pruning_bootcamp.config import Config
from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.flow.start import task_of
from pruning_bootcamp.plain import from_plain, to_plain
from pruning_bootcamp.results import LatencyPair, Paired
from pruning_bootcamp.tasks.base import with_one_output
from pruning_bootcamp.tools.latency import LatencyStats, PairedRatio, compare_latencies
from pruning_bootcamp.tools.latency.clock import Candidate

Latencies = Mapping[str, LatencyStats]
Candidates = dict[str, Candidate]
Made = TypeVar("Made")


def each_once(models: Mapping[str, nn.Module], make: Callable[[str, nn.Module], Made]) -> dict[str, Made]:
    """What `make` gives for each name; a network of two names is one thing under both."""
    made: dict[int, Made] = {}
    for name, model in models.items():
        if id(model) not in made:
            made[id(model)] = make(name, model)
    return {name: made[id(model)] for name, model in models.items()}


@dataclass
class Alternatives:
    """`pairs`: way -> the networks' timings. `notes`: what was not timed, or on fewer images, and why."""

    pairs: dict[str, Latencies] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    launch_bound: list[str] = field(default_factory=list)
    """ways whose time is that of launching kernels"""


def pair_result(pair: Latencies) -> LatencyPair:
    """As the profile's file keeps a pair: each network's latency, and their paired ratio."""
    ratio = ratio_of(pair)
    paired = from_plain(Paired, to_plain(ratio.as_result()) | {"verdict": ratio.verdict})
    return LatencyPair(baseline=pair["baseline"].as_result(), pruned=pair["pruned"].as_result(), paired=paired)


def ratio_of(pair: Latencies) -> PairedRatio:
    """The pruned network's time over the baseline's."""
    ratio = pair["pruned"].ratio_to(pair["baseline"])
    assert ratio is not None, "the pair was timed in the same rounds"
    return ratio


def prepared(backends: Sequence[str], models: Mapping[str, nn.Module], images: Tensor) -> dict[str, dict[str, Runner]]:
    """backend -> the networks' runners; in one BootcampError, what any of the backends has against them."""
    runners, problems = {}, list[Problem]()
    for backend in backends:
        try:
            runners[backend] = each_once(models, partial(_prepare, backend=backend, images=images))
        except BootcampError as error:
            problems += error.problems
    if problems:
        raise BootcampError(*problems)
    return runners


def _prepare(_: str, model: nn.Module, backend: str, images: Tensor) -> Runner:
    return prepare(backend, model, images)


def timed(runners: Mapping[str, Mapping[str, Runner]], images: Tensor, runs: int) -> dict[str, Latencies]:
    """backend -> the networks' timings, interleaved.

    One backend after the other: the idle threads of one runtime spin for a while and would slow the other's next pass.
    """
    return {
        backend: compare_latencies({name: (runner, images) for name, runner in networks.items()}, runs=runs)
        for backend, networks in runners.items()
    }


def time_asked(
    cfg: Config,
    models: Mapping[str, nn.Module],
    recipe: Recipe,
    device: torch.device,
    batch_size: int | None = None,
) -> dict[str, Latencies]:
    """backend -> the networks' timings, by `profile` of the config (backend, runs, batch size where none is given)."""
    images = example_input(recipe, batch_size or cfg.profile.batch_size).to(device)
    whole = each_once(models, lambda _, model: with_one_output(model.to(device), images, task_of(cfg)))
    return timed(prepared(cfg.profile.backends, whole, images), images, cfg.profile.runs)


def time_every_way(
    cfg: Config, models: Mapping[str, nn.Module], recipe: Recipe, device: torch.device
) -> dict[Way, Latencies]:
    """The same at each of the batch sizes that count."""
    return {
        Way(backend, size): pair
        for size in cfg.profile.batch_sizes
        for backend, pair in time_asked(cfg, models, recipe, device, size).items()
    }


def time_ways(
    models: Mapping[str, nn.Module],
    ready: Mapping[str, dict[str, Runner]],
    recipe: Recipe,
    device: torch.device,
    runs: int,
) -> Alternatives:
    """Every way that `ways_to_time` names, as `timed`; `ready`: the runners that are there already."""
    known = dict(ready)

    def pair_for(way: Way) -> Candidates | str:
        images = example_input(recipe, way.batch).to(device)
        if why := BACKENDS[way.backend].facts.get("pointless", lambda _: None)(images):
            return str(why)
        if way.backend not in known or BACKENDS[way.backend].facts.get("one_shape"):
            runners = _prepared(way.backend, models, images)
            if isinstance(runners, str):
                return runners
            known[way.backend] = runners
        return {name: (runner, images) for name, runner in known[way.backend].items()}

    return timed_ways(ways_to_time(device.type, models["pruned"]), pair_for, device, runs)


def _prepared(backend: str, models: Mapping[str, nn.Module], images: Tensor) -> dict[str, Runner] | str:
    """Both networks' runners, or why one of them has none."""
    asked = ""

    def make(name: str, model: nn.Module) -> Runner:
        nonlocal asked
        asked = name
        return prepare(backend, model, images)

    try:
        return each_once(models, make)
    except BootcampError as error:
        return f"{asked}: {error}"


def timed_ways(
    asked: list[Way], pair_for: Callable[[Way], Candidates | str], device: torch.device, runs: int
) -> Alternatives:
    """Each way on as many images as the device's memory allows; `pair_for` gives the pair, or why there is none."""
    found, medians = Alternatives(), dict[Way, float]()
    for way in asked:
        done, stats = _timed(way, pair_for, runs, found.notes)
        if stats is not None:
            found.pairs[str(done)] = stats
            medians[done] = stats["pruned"].median_ms
    found.launch_bound = [str(way) for way in launch_bound_ways(medians, device.type)]
    return found


def _timed(
    way: Way, pair_for: Callable[[Way], Candidates | str], runs: int, notes: list[str]
) -> tuple[Way, dict[str, LatencyStats] | None]:
    """The way, or one on fewer images where memory is short, with its timings; None where it can't be timed."""
    tried: Way | None = way
    while tried is not None:
        try:
            pair = pair_for(tried)
            if isinstance(pair, str):
                notes.append(f"{tried}: not timed ({pair})")
                return tried, None
            return tried, compare_latencies(pair, runs=runs, min_seconds=0.5, max_seconds=10.0)
        except torch.OutOfMemoryError:
            pair = ""  # what was tried goes before the memory is counted anew
        torch.cuda.empty_cache()
        smaller = tried.smaller()
        instead = f"batch {smaller.batch} instead" if smaller else "not timed"
        notes.append(f"{tried}: the device's memory is too small; {instead}")
        tried = smaller
    return way, None
