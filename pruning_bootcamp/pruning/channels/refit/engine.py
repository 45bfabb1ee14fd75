"""Layer after layer: its second moments on the pruned network's inputs, the fit, the weights; then the next one."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.channels.refit import wide
from pruning_bootcamp.pruning.channels.refit.folding import folded, has_intercept, spread, unfold
from pruning_bootcamp.pruning.channels.refit.pairs import ROUNDS, find_feeders, refine
from pruning_bootcamp.pruning.channels.refit.passes import KEPT_BYTES, Images, Passes
from pruning_bootcamp.pruning.channels.refit.program import Program
from pruning_bootcamp.pruning.channels.refit.sites import MOST_COLUMNS, Site, changed, find_sites
from pruning_bootcamp.pruning.channels.refit.solving import (
    added,
    choose_damping,
    error,
    solve,
    without_intercept,
)
from pruning_bootcamp.pruning.layers.moments import Moments, cross, gram, picked, positions_of, sampled, seen
from pruning_bootcamp.runtime import full_precision, preserved_rng
from pruning_bootcamp.tools.modes import beside, evaluation_mode

# The fit where a ReLU follows has come to rest by then, to what it is worth.
ITERATIONS = 3
_PARTS = 2
_NOT_FINITE = "{}: its inputs or the dense network's outputs are NaN or Inf on these images."


@dataclass
class Refitted:
    """`layers`: path -> share of its target's variance that least squares leaves. `left`: what reads cut channels, or
    lost weights, and was not fitted -> why not.

    `images`: how many it was fitted on.
    """

    layers: dict[str, float] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    images: int = 0


@dataclass(frozen=True)
class _Sample:
    """One batch at a site: its inputs, what the sum should come to, and what others add to it (None: nothing)."""

    inputs: Tensor
    goal: Tensor
    others: Tensor | None
    where: Tensor | None
    """the output positions that are looked at; None: all"""


def refit(
    dense: nn.Module,
    cut: nn.Module,
    kept: Mapping[str, Tensor],
    images: Images,
    *,
    masks: Mapping[str, Tensor] | None = None,
    leave: Mapping[str, str] | None = None,
    silent: Collection[str] = (),
    iterations: int = ITERATIONS,
    rounds: int = ROUNDS,
    kept_bytes: int = KEPT_BYTES,
    seed: int = 0,
    fitted: Mapping[str, float] | None = None,
    say: Callable[[int, int, str], None] = lambda number, total, path: None,
    after: Callable[[str, float], None] = lambda path, left: None,
) -> Refitted:
    """Fit the layers of `cut`, in place, to what `dense` computes on the images; no label and no gradient is needed.

    `kept`: layer -> the output channels of the dense layer, ascending, that `cut` has (others have all). `masks`:
    weight -> True where it may be other than zero. `images` gives batches, each of the first one's size but for a
    smaller last one, which is left out. `leave`: layers not to touch, and why. `silent`: those of branches
    that are gone, which give zeros: there is nothing to fit. `say(number, total, layer)` is called
    before each layer, `after(layer, share left)` after it; `fitted`: what `after` was told of layers that a process
    that was stopped has fitted already. Frozen layers stay as they are.
    """
    result, masks = Refitted(), masks or {}
    zeroed = _zeroed(dense, masks)
    with preserved_rng(), full_precision(), torch.no_grad(), evaluation_mode(dense, cut):
        first = next(iter(images()), None)
        if first is None or not len(first):
            raise BootcampError("images: hold no batch, and there is nothing to fit a layer to.")
        try:
            theirs, ours = Program(dense, beside(dense, first)), Program(cut, beside(cut, first))
        except BootcampError as error:
            return _nothing(cut, dense, zeroed, str(error))
        if not theirs.same_operations(ours):
            return _nothing(cut, dense, zeroed, "the pruned network runs other operations than the dense one")
        sites, unfit = find_sites(ours)
        unknown = dict.fromkeys(zeroed - {site.path for site in sites}, "it is no single product of the forward pass")
        unfit |= {site.path: why for site in sites if site.wide and (why := _too_wide(site, masks))}
        leave = unknown | unfit | dict(leave or {})
        keep = {
            site.path: site.product.rows(beside(cut, masks[name]))
            for site in sites
            if (name := f"{site.path}.weight") in masks
        }
        wanted = changed(sites, ours, theirs, zeroed)
        frozen = {site.path for site in wanted if not _weight(cut, site).requires_grad}
        result.left = {p: why for p, why in leave.items() if p in zeroed or _reads_fewer(cut, dense, p)}
        leave |= dict.fromkeys(silent, "its branch is gone")
        todo = [site for site in wanted if site.path not in leave and site.path not in frozen]
        kept = {path: beside(cut, channels) for path, channels in kept.items()}
        passes = Passes(theirs, ours, lambda: _whole(images, len(first), cut), kept_bytes)
        movable = [
            site for site in sites if site.path not in leave and not site.wide and _weight(cut, site).requires_grad
        ]
        feeders = find_feeders(ours, movable)
        result.images = sum(len(batch) for batch in _whole(images, len(first), cut))
        positions = positions_of(result.images)
        for number, site in enumerate(todo):
            if fitted is not None and site.path in fitted:
                result.layers[site.path] = fitted[site.path]
                continue
            say(number, len(todo), site.path)
            feeder = feeders.get(site.path)
            passes.go_on(site.operation if feeder is None else feeder.operation)
            if site.wide:
                few = max(1, wide.most_rows(site.columns) // result.images)
                samples = _Samples(passes, site, kept.get(site.path), few, seed)
                result.layers[site.path] = _fit_wide(cut, site, samples, iterations)
            else:
                samples = _Samples(passes, site, kept.get(site.path), positions, seed)
                result.layers[site.path] = _fit(cut, site, samples, keep.get(site.path), iterations)
            if feeder is not None:
                both = keep.get(feeder.path), keep.get(site.path)
                refine(cut, passes, feeder, site, kept.get(site.path), both, rounds, positions=positions, seed=seed)
            after(site.path, result.layers[site.path])
    return result


def _too_wide(site: Site, masks: Mapping[str, Tensor]) -> str | None:
    """Why a layer of so many inputs can't be fitted, if it can't."""
    if f"{site.path}.weight" in masks:
        return f"with zeros among its weights its {site.columns:,} inputs are too many ({MOST_COLUMNS:,} are not)"
    if site.product.groups > 1:
        return f"{site.columns:,} inputs in each of its groups are too many ({MOST_COLUMNS:,} are not)"
    return None


def _zeroed(dense: nn.Module, masks: Mapping[str, Tensor]) -> set[str]:
    """Layers with zeros that the dense network has not; of cut ones their inputs say it."""
    found = set()
    for name, keep in masks.items():
        weight = dense.get_parameter(name)
        if weight.shape == keep.shape and bool(weight.detach()[~keep.to(weight.device)].any()):
            found.add(name.rpartition(".")[0])
    return found


def _fit(cut: nn.Module, site: Site, samples: "_Samples", keep: Tensor | None, iterations: int) -> float:
    """Fit one layer in place; the share of the target's variance that plain least squares leaves."""
    product, weight = site.product, _weight(cut, site)
    start, intercept = folded(cut, site), has_intercept(cut, site)
    parts: list[Moments] = []
    squares = 0.0
    for number, sample in enumerate(samples):
        target = sample.goal if sample.others is None else sample.goal - sample.others
        found = Moments(
            gram(product, sample.inputs, sample.where), cross(product, sample.inputs, target, weight, sample.where)
        )
        squares += float(seen(product, target, sample.where).double().square().sum())
        if number < _PARTS:
            parts.append(found)
        else:
            parts[number % _PARTS] = added([parts[number % _PARTS], found])
    parts = parts if intercept else [without_intercept(part) for part in parts]
    whole = added(parts)
    damping = choose_damping(parts, start, keep)
    rows = solve(whole, start, damping, keep)
    variance = squares - float((whole.cross[:, -1].square() / whole.gram[:, -1, -1:]).sum())
    left = (squares + error(whole, rows)) / max(variance, 1e-30)
    for _ in range(iterations if site.rectified else 0):
        moved = torch.zeros_like(whole.cross)
        for sample in samples:
            moved += cross(product, sample.inputs, _reachable(site, sample, rows, weight), weight, sample.where)
        again = Moments(whole.gram, moved)
        rows = solve(again if intercept else without_intercept(again), start, damping, keep)
    if not bool(torch.isfinite(rows).all()):
        raise BootcampError(_NOT_FINITE.format(site.path))
    unfold(cut, site, rows, spread(whole))
    return left


def _fit_wide(cut: nn.Module, site: Site, samples: "_Samples", iterations: int) -> float:
    """The same of a layer with more inputs than second moments are held of, on as many rows of them as are held."""
    product = site.product
    gathered = wide.Samples.gathered(
        product,
        (
            (
                sample.inputs,
                picked(product, sample.goal, sample.where),
                None if sample.others is None else picked(product, sample.others, sample.where),
                sample.where,
            )
            for sample in samples
        ),
    )
    if not all(bool(torch.isfinite(values).all()) for values in (gathered.inputs, gathered.goal, gathered.others)):
        raise BootcampError(_NOT_FINITE.format(site.path))
    found = wide.fit(
        gathered,
        folded(cut, site),
        intercept=has_intercept(cut, site),
        reachable=site.reachable,
        iterations=iterations if site.rectified else 0,
    )
    unfold(cut, site, found.rows, wide.outputs_of(gathered))
    return found.left


def _reachable(site: Site, sample: _Sample, rows: Tensor, weight: Tensor) -> Tensor:
    """What to fit next where the goal is only looked at between bounds: beyond them, what is beyond is right already.

    Majorise-minimise: at the present prediction no error is larger than the one that is made smaller.
    """
    product = site.product
    bias = rows[:, -1].flatten().to(weight)
    predicted = product.apply(sample.inputs, product.weight(rows[:, :-1], weight), bias)
    predicted = predicted if sample.others is None else predicted.add_(sample.others)
    goal = site.reachable(predicted, sample.goal)
    return goal if sample.others is None else goal - sample.others


class _Samples:
    """The batches at a site, each time the same: kept where there is room, else computed again."""

    def __init__(self, passes: Passes, site: Site, kept: Tensor | None, positions: int, seed: int) -> None:
        self._passes, self._site, self._kept, self._positions, self._seed = passes, site, kept, positions, seed
        self._known: dict[int, _Sample] = {}
        self._complete = False

    def __iter__(self) -> Iterator[_Sample]:
        if self._complete:
            yield from self._known.values()
            return
        site, held, complete = self._site, 0, True
        stop = max(site.operation, site.target) + 1
        of_cut = {site.source, *site.others}
        for number, (theirs, ours) in enumerate(self._passes.visit(stop, {site.target}, of_cut)):
            goal = theirs[site.target]
            inputs = ours[site.source]
            goal = goal.to(inputs.device)
            if self._kept is not None:
                goal = goal.index_select(site.product.channels, self._kept)
            others = sum((ours[other] for other in site.others[1:]), ours[site.others[0]]) if site.others else None
            where = sampled(site.product, goal, self._positions, self._seed, number)
            sample = _Sample(inputs, goal, others, where)
            held += goal.nbytes + inputs.nbytes + (0 if others is None else others.nbytes)
            if held <= self._passes.limit:
                self._known[number] = sample
            else:
                complete = False
            yield sample
        self._complete = complete
        if not complete:
            self._known.clear()


def _whole(images: Images, size: int, model: nn.Module) -> Iterator[Tensor]:
    for batch in images():
        if len(batch) == size:
            yield beside(model, batch)


def _weight(model: nn.Module, site: Site) -> nn.Parameter:
    return model.get_submodule(site.path).get_parameter("weight")


def _reads_fewer(cut: nn.Module, dense: nn.Module, path: str) -> bool:
    ours, theirs = cut.get_submodule(path), dense.get_submodule(path)
    names = ("in_channels", "in_features")
    return any(getattr(ours, name, None) != getattr(theirs, name, None) for name in names)


def _nothing(cut: nn.Module, dense: nn.Module, zeroed: Collection[str], why: str) -> Refitted:
    layers: Collection[Any] = [
        path
        for path, module in cut.named_modules()
        if path in zeroed
        or (isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and _reads_fewer(cut, dense, path))
    ]
    return Refitted(left=dict.fromkeys(layers, why))
