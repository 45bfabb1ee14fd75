"""What is measured on images before channels are chosen: readers' second moments, and what each width loses alone."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.channels.refit.folding import folded, instead
from pruning_bootcamp.pruning.channels.refit.passes import Images
from pruning_bootcamp.pruning.channels.refit.program import Program, State
from pruning_bootcamp.pruning.channels.refit.sites import Site, find_sites
from pruning_bootcamp.pruning.channels.removal import Reader, refitted_rows, removal_errors
from pruning_bootcamp.pruning.graph import Group, Member
from pruning_bootcamp.pruning.graph.members import TRANSPOSED
from pruning_bootcamp.pruning.layers.moments import gram, positions_of, sampled
from pruning_bootcamp.pruning.stats.base import check_totals
from pruning_bootcamp.runtime import full_precision, preserved_rng
from pruning_bootcamp.tasks.base import main_tensor
from pruning_bootcamp.tools.modes import beside, evaluation_mode

# Second moments of so many bytes are held at a time; more groups take more passes over the images.
MOMENT_BYTES = 2**30
# The widths that are measured on the whole network, as shares; the others lie on a curve through them.
MEASURED = (0.0, 0.25, 0.5, 0.75)
# A quarter of the images, at most so many, measure what a width loses; the others say how readers are refitted.
PROBES = 512
MOMENT_IMAGES = 1024

Say = Callable[[int, int, str], None]


@dataclass
class Readers:
    """Who reads each group's channels. Groups that no layer reads are left out."""

    groups: dict[str, list[tuple[Site, int]]] = field(default_factory=dict)
    """group -> its readers: a site, and which block of it"""
    others: dict[str, list[Member]] = field(default_factory=dict)
    """group -> readers whose inputs can't be seen as columns (transposed convolutions, layers that run twice) or are
    too many"""
    whole: set[str] = field(default_factory=set)
    """groups all of whose channels are seen wherever they are read"""


def find_readers(program: Program, groups: Sequence[Group]) -> Readers:
    """The layers that read each group's channels, those that multiply once, in the order in which they run."""
    by_path = {site.path: site for site in find_sites(program)[0] if not site.wide}
    found = Readers()
    for group in groups:
        inputs = group.of_kind("input")
        known = {
            (site.operation, block): (site, block)
            for member in inputs
            if (site := by_path.get(member.path)) is not None
            for block in range(site.product.groups)
            if _columns(group, site, block) is not None
        }
        if inputs:
            found.groups[group.name] = [known[key] for key in sorted(known)]
            found.others[group.name] = [member for member in inputs if member.path not in by_path]
            if sum(_seen(group, *pair) for pair in known.values()) == sum(len(member.index) for member in inputs):
                found.whole.add(group.name)
    return found


def _seen(group: Group, site: Site, block: int) -> int:
    """How many channels of the group the block's columns stand for."""
    columns = _columns(group, site, block)
    return 0 if columns is None else columns.numel() // math.prod(site.product.kernel)


def _alone(group: Group, others: Sequence[Member]) -> Tensor | None:
    """[units]: each unit's share of the weights that read it, squared, in readers that can't be refitted."""
    if not others:
        return None
    total = torch.zeros(group.width, dtype=torch.double)
    for member in others:
        squares = _by_input(member).detach().double().square().flatten(1).sum(1).cpu()
        total.index_add_(0, member.unit, squares[member.index] / squares.sum().clamp_min(1e-30))
    return total


def _deaf(group: Group, others: Sequence[Member], units: Sequence[int]) -> dict[str, Tensor]:
    """Their weights with what reads these units at zero."""
    weights: dict[str, Tensor] = {}
    for member in others:
        name = f"{member.path}.weight"
        weight = weights.get(name, member.module.get_parameter("weight").detach()).clone()
        gone = member.index[torch.isin(member.unit, torch.tensor(list(units)))]
        weight.index_fill_(0 if isinstance(member.module, TRANSPOSED) else 1, gone.to(weight.device), 0)
        weights[name] = weight
    return weights


def _by_input(member: Member) -> Tensor:
    weight = member.module.get_parameter("weight")
    return weight if isinstance(member.module, TRANSPOSED) else weight.transpose(0, 1)


def _columns(group: Group, site: Site, block: int) -> Tensor | None:
    """[units, m]: the columns of the block's im2col inputs that belong to each unit; None where there are none."""
    size = math.prod(site.product.kernel)
    columns: list[list[int]] = [[] for _ in range(group.width)]
    for member in group.of_kind("input"):
        if member.path != site.path:
            continue
        width = member.size // site.product.groups
        for channel, unit in zip(member.index.tolist(), member.unit.tolist(), strict=True):
            where, place = divmod(channel, width)
            if where == block:
                columns[unit] += range(place * size, (place + 1) * size)
    lengths = {len(each) for each in columns}
    return torch.tensor(columns) if len(lengths) == 1 and lengths != {0} else None


@dataclass(frozen=True)
class Measurements:
    """By group: errors and losses once none, one, two, ... units are gone, in the order of `gone`; and scores."""

    gone: dict[str, list[int]] = field(default_factory=dict)
    errors: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def measure_groups(
    model: nn.Module,
    groups: Sequence[Group],
    images: Images,
    *,
    orders: Mapping[str, Sequence[int]] | None = None,
    score: Callable[[Group, Sequence[Reader]], Tensor] | None = None,
    losses: bool = True,
    outputs: Callable[[Any], Tensor] = main_tensor,
    say: Say = lambda number, total, group: None,
) -> Measurements:
    """For each group, in which order its units go, what its readers lose, and what the network's output loses.

    `orders`: group -> its units as they are to go; by optimal brain surgeon where left out. `score`: what decides that
    order instead, from a group's readers, of which all must be seen; then errors are looked at only for the losses.
    `losses`: for each group alone, its readers refitted, the output's mean squared distance from the dense network's
    over its variance, at four widths; the other widths lie on the curve of the readers' errors through them. `outputs`
    finds the tensor that counts. Raises BootcampError where torch.export can't follow the network.
    """
    with preserved_rng(), full_precision(), evaluation_mode(model):
        first = next(iter(images()), None)
        if first is None or not len(first):
            raise BootcampError("images: hold no batch, and there is nothing to measure channels on.")
        program = Program(model, beside(model, first))
        readers = find_readers(program, groups)
        known = readers.groups if score is None else readers.whole
        named = {group.name: group for group in groups if group.name in known}
        learning, probing = _apart(images, len(first), model)
        found = Measurements()
        probes = _Probes(program, probing, outputs) if losses else None
        done = 0
        for chunk in _chunks(program, readers, named):
            moments = _moments(program, [pair for name in chunk for pair in readers.groups[name]], learning)
            for name in chunk:
                say(done, len(named), name)
                done += 1
                group = named[name]
                made = [_reader(model, group, site, block, moments) for site, block in readers.groups[name]]
                order = None if orders is None else list(orders[name])
                if score is not None:
                    found.scores[name] = score(group, made)
                    if probes is None:
                        continue
                    order = torch.sort(found.scores[name], stable=True).indices.tolist()
                gone, errors = removal_errors(made, order, _alone(group, readers.others[name]))
                found.gone[name], found.errors[name] = gone, errors
                if probes is not None:
                    pairs = list(zip(readers.groups[name], made, strict=True))
                    found.losses[name] = _curve(probes, group, pairs, readers.others[name], gone, errors)
    return found


def _apart(images: Images, size: int, model: nn.Module) -> tuple[Images, Images]:
    """Batches to learn from, and others to judge by; of a single batch both do both."""
    count = sum(len(batch) == size for batch in images())
    probes = min(max(1, count // 4), max(1, PROBES // size))
    learnt = min(max(1, count - probes), max(1, MOMENT_IMAGES // size))

    def some(start: int, stop: int) -> Iterator[Tensor]:
        number = 0
        for batch in images():
            if len(batch) == size:
                if start <= number < stop:
                    yield beside(model, batch)
                number += 1

    return lambda: some(0, learnt), lambda: some(max(count - probes, 0), count)


def _chunks(program: Program, readers: Readers, groups: Mapping[str, Group]) -> Iterator[list[str]]:
    """Groups in the order in which they are first read, as many at a time as there is room for their moments."""
    chunk: list[str] = []
    held = 0
    for name in sorted(groups, key=lambda name: _first(readers, name)):
        size = sum(8 * len(folded(program.model, site)[block]) ** 2 for site, block in readers.groups[name])
        if chunk and held + size > MOMENT_BYTES:
            yield chunk
            chunk, held = [], 0
        chunk.append(name)
        held += size
    if chunk:
        yield chunk


def _first(readers: Readers, name: str) -> int:
    """Where the group is first read; at the beginning where that is not known."""
    return 0 if readers.others[name] else readers.groups[name][0][0].operation


def _moments(program: Program, pairs: Sequence[tuple[Site, int]], images: Images) -> dict[str, Tensor]:
    """Reader's path -> sums of products of its columns [groups, d, d]."""
    sites = {site.path: site for site, _ in pairs}
    if not sites:
        return {}
    stop = max(site.operation for site in sites.values()) + 1
    totals: dict[str, Tensor] = {}
    watch = {number for site in sites.values() for number in (site.source, site.operation)}
    positions = positions_of(sum(len(batch) for batch in images()))
    for number, batch in enumerate(images()):
        _, seen = program.run(program.start(batch), stop, watch)
        for path, site in sites.items():
            where = sampled(site.product, seen[site.operation], positions, 0, number)
            made = gram(site.product, seen[site.source], where)
            totals[path] = totals[path] + made if path in totals else made
        check_totals(program.model, batch, totals, "second moments")
    return totals


def _reader(model: nn.Module, group: Group, site: Site, block: int, moments: Mapping[str, Tensor]) -> Reader:
    columns = _columns(group, site, block)
    assert columns is not None
    gram, rows = moments[site.path][block], folded(model, site)[block]
    if not bool(torch.isfinite(rows).all()):
        raise BootcampError(f"{site.path}: its weights are NaN or Inf. Train again from an earlier checkpoint.")
    return Reader(gram, rows, columns.to(gram.device))


class _Probes:
    """What the network gives for the probing images, and what it loses with other weights."""

    def __init__(self, program: Program, images: Images, outputs: Callable[[Any], Tensor]) -> None:
        self.program, self._outputs = program, outputs
        self._states = [program.start(batch) for batch in images()]
        self._wanted = [outputs(program.outputs(state)).double() for state in self._states]
        whole = torch.cat([_centred(wanted) for wanted in self._wanted])
        self._variance = max(float((whole - whole.mean(0)).square().mean()), 1e-30)

    def go_on(self, at: int) -> None:
        if at > self._states[0].at:
            self._states = [self.program.run(state, at)[0] for state in self._states]

    def loss(self, weights: dict[str, Tensor]) -> float:
        total, count = 0.0, 0
        for state, wanted in zip(self._states, self._wanted, strict=True):
            given = self._outputs(self.program.outputs(State(state.at, dict(state.values)), weights)).double()
            total += float(_centred(given - wanted).square().sum())
            count += wanted.numel()
        return total / count / self._variance


def _centred(values: Tensor) -> Tensor:
    """Without what all of a sample's outputs have in common: it decides nothing between classes."""
    return values - values.mean(1, keepdim=True) if values.ndim > 1 and values.shape[1] > 1 else values


def _curve(
    probes: _Probes,
    group: Group,
    pairs: Sequence[tuple[tuple[Site, int], Reader]],
    others: Sequence[Member],
    gone: Sequence[int],
    errors: Tensor,
) -> Tensor:
    """[units + 1]: what the network loses once none, one, two, ... units are gone from this group alone."""
    model, width = probes.program.model, len(gone)
    if not others:
        probes.go_on(min(site.operation for (site, _), _ in pairs))
    points: dict[int, float] = {}
    for share in MEASURED:
        left = max(1, round(share * width))
        if width - left in points or left == width:
            continue
        rows = {site.path: folded(model, site) for (site, _), _ in pairs}
        for (site, block), reader in pairs:
            rows[site.path][block] = refitted_rows(reader, gone[: width - left])
        weights = _deaf(group, others, gone[: width - left])
        for (site, _), _ in pairs:
            weights |= instead(model, site, rows[site.path])
        points[width - left] = max(probes.loss(weights), 1e-9)
    places = sorted(points)
    if not places:
        return errors
    scales = [math.log(points[place] / max(float(errors[place]), 1e-12)) for place in places]
    between = torch.from_numpy(np.interp(np.arange(width + 1), places, scales))
    return (errors * between.exp()).cummax(0).values
