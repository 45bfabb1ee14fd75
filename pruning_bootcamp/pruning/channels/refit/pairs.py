"""A layer and the one that alone reads it, fitted together: the first moves so that the second comes nearer its target.

Steps along the first layer's gradient, preconditioned by the inverse of its inputs' second moments, as long as is best
for the output linearised; after each the second layer is solved anew. Nothing behind the pair's target is looked at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.channels.refit.folding import folded, has_intercept, instead, unfold
from pruning_bootcamp.pruning.channels.refit.passes import Passes
from pruning_bootcamp.pruning.channels.refit.program import Program, State
from pruning_bootcamp.pruning.channels.refit.sites import Site
from pruning_bootcamp.pruning.channels.refit.solving import solve, without_intercept
from pruning_bootcamp.pruning.layers.moments import Moments, cross, gram, sampled
from pruning_bootcamp.tools.quiet import quiet

ROUNDS = 6
# Of more images the first so many: a step needs fewer than a solution.
IMAGES = 2048
_STEP_DAMPING, _SOLVE_DAMPING = 1e-3, 1e-4


def find_feeders(program: Program, sites: Sequence[Site]) -> dict[str, Site]:
    """Layer -> the layer whose outputs it alone reads, with nothing that multiplies between them."""
    by_operation = {site.operation: site for site in sites}
    feeders: dict[str, Site] = {}
    for site in sites:
        if site.others:
            continue
        reader = _only_reader(program, site, by_operation)
        if reader is not None and reader.path not in feeders:
            feeders[reader.path] = site
    return feeders


def _only_reader(program: Program, site: Site, by_operation: dict[int, Site]) -> Site | None:
    found, todo = None, [site.target]
    while todo:
        users = program.users(todo.pop())
        for user in users:
            if program.nodes[user].op == "output":
                return None
            reader = by_operation.get(user)
            if reader is None:
                todo.append(user)
            elif found not in (None, reader):
                return None
            else:
                found = reader
    return found


@dataclass(frozen=True)
class _Sample:
    state: State
    """before the first layer"""
    goal: Tensor


class _Samples:
    def __init__(self, passes: Passes, first: Site, second: Site, kept: Tensor | None) -> None:
        self._passes, self._first, self._second, self._kept = passes, first, second, kept
        self._known: list[_Sample] | None = None

    def __iter__(self) -> Iterator[_Sample]:
        if self._known is not None:
            yield from self._known
            return
        known: list[_Sample] = []
        held, seen = 0, 0
        for state, goal in self._passes.halfway(self._first.operation, self._second.target):
            goal = goal if self._kept is None else goal.index_select(self._second.product.channels, self._kept)
            sample = _Sample(state, goal)
            held += state.size + goal.nbytes
            if held <= self._passes.limit:
                known.append(sample)
            yield sample
            seen += len(goal)
            if seen >= IMAGES:
                break
        self._known = known if held <= self._passes.limit else None


@torch.no_grad()
def refine(
    model: nn.Module,
    passes: Passes,
    first: Site,
    second: Site,
    kept: Tensor | None,
    keep: tuple[Tensor | None, Tensor | None],
    rounds: int,
    seed: int,
) -> float:
    """Fit the two together, in place; the share of the error that is left of what there was. Never raises it.

    `kept`: which of the dense network's output channels the second has; `keep`: where the two, as `Product.rows` has
    them, may be other than zero. None: all.
    """
    if rounds == 0:
        return 1.0
    pair = _Pair(model, passes.cut, first, second, _Samples(passes, first, second, kept), keep, seed)
    rows = folded(model, first), folded(model, second)
    begun = best = pair.error(rows)
    chosen = None
    for _ in range(rounds):
        try:
            rows, error, moments = pair.round(rows)
        except NotImplementedError as reason:  # an operation between the two that torch can't differentiate forwards
            why = str(reason).strip().splitlines()[0]
            LOGGER.info("%s and %s are fitted alone, not together: %s", first.path, second.path, why)
            break
        if not error < best:  # NaN too
            break
        best, chosen = error, (rows, moments)
    if chosen is not None:
        for site, its_rows, its_moments in zip((first, second), *chosen, strict=True):
            unfold(model, site, its_rows, its_moments)
    return best / begun if begun > 0 else 1.0


Rows = tuple[Tensor, Tensor]


class _Pair:
    def __init__(
        self,
        model: nn.Module,
        program: Program,
        first: Site,
        second: Site,
        samples: _Samples,
        keep: tuple[Tensor | None, Tensor | None],
        seed: int,
    ) -> None:
        self.model, self.program, self.first, self.second, self.samples = model, program, first, second, samples
        self.keep, self.seed = keep, seed
        self._gram: Tensor | None = None

    def round(self, rows: Rows) -> tuple[Rows, float, tuple[Moments, Moments]]:
        """One step of the first layer and a solution of the second; the error after it, and both layers' moments."""
        gradient = self._gradient(rows)
        assert self._gram is not None
        first = Moments(self._gram, gradient)
        start = torch.zeros_like(rows[0])
        fixed = not has_intercept(self.model, self.first)
        step = solve(without_intercept(first) if fixed else first, start, _STEP_DAMPING, self.keep[0])
        with quiet("torch's forward-mode differentiation"):
            length = self._length(rows, step)
        moved = rows[0] - length * step
        second = self._moments((moved, rows[1]))
        used = second if has_intercept(self.model, self.second) else without_intercept(second)
        rows = moved, solve(used, rows[1], _SOLVE_DAMPING, self.keep[1])
        return rows, self.error(rows), (first, second)

    def error(self, rows: Rows) -> float:
        """Squared distance from the goal, where it is looked at."""
        total = 0.0
        for sample in self.samples:
            given = self._run(sample, rows, {self.second.target})[self.second.target]
            total += float((given - self._reachable(given, sample.goal)).double().square().sum())
        return total

    def _gradient(self, rows: Rows) -> Tensor:
        """Of half the error, by the first layer's rows; and on the way the moments of its inputs, once."""
        product, weight = self.first.product, self._weight(self.first)
        total, inputs = torch.zeros_like(rows[0]), None
        for sample in self.samples:
            x, made = self._made(sample, rows)
            with torch.enable_grad():
                leaf = made.detach().requires_grad_()
                given = self._rest(sample, rows, leaf)
            residual = given.detach() - self._reachable(given.detach(), sample.goal)
            (slope,) = torch.autograd.grad(given, leaf, residual)
            where = sampled(product, made, self.seed)
            total += cross(product, x, slope, weight)
            if self._gram is None:
                found = gram(product, x, where)
                if where is not None:  # the gradient is of all positions
                    found *= slope.numel() / slope.shape[product.channels] / len(slope) / len(where)
                inputs = found if inputs is None else inputs + found
        if inputs is not None:
            self._gram = inputs
        return total

    def _length(self, rows: Rows, step: Tensor) -> float:
        """How far to go along the step: the best for the output as it is linear here."""
        along, square = 0.0, 0.0
        weight = self._weight(self.first)
        product = self.first.product
        for sample in self.samples:
            x, made = self._made(sample, rows)
            change = product.apply(x, product.weight(step[:, :-1], weight), step[:, -1].flatten().to(weight))
            with forward_ad.dual_level():
                given = self._rest(sample, rows, forward_ad.make_dual(made, change.contiguous()))
                value, tangent = forward_ad.unpack_dual(given)
                if tangent is None:
                    return 0.0
            residual = value - self._reachable(value, sample.goal)
            along += float((residual * tangent).double().sum())
            square += float(tangent.double().square().sum())
        return along / square if square > 0 else 0.0

    def _moments(self, rows: Rows) -> Moments:
        """Of the second layer's inputs, and towards what it can reach from where it is."""
        product, site, weight = self.second.product, self.second, self._weight(self.second)
        total: Moments | None = None
        for sample in self.samples:
            seen = self._run(sample, rows, {site.source, site.target, *site.others})
            target = self._reachable(seen[site.target], sample.goal)
            for other in site.others:
                target = target - seen[other]
            where = sampled(product, target, self.seed)
            found = Moments(
                gram(product, seen[site.source], where), cross(product, seen[site.source], target, weight, where)
            )
            total = found if total is None else Moments(total.gram + found.gram, total.cross + found.cross)
        assert total is not None
        return total

    def _reachable(self, given: Tensor, goal: Tensor) -> Tensor:
        low, high = self.second.bounds
        reached = torch.where(goal <= low, given.clamp(max=low), goal)
        return torch.where(goal >= high, given.clamp(min=high), reached)

    def _run(self, sample: _Sample, rows: Rows, watch: set[int]) -> dict[int, Tensor]:
        weights = instead(self.model, self.first, rows[0]) | instead(self.model, self.second, rows[1])
        return self.program.run(sample.state, self.second.target + 1, watch, weights)[1]

    def _made(self, sample: _Sample, rows: Rows) -> tuple[Tensor, Tensor]:
        """The first layer's inputs, and what it makes of them behind its batch norm."""
        weights = instead(self.model, self.first, rows[0])
        _, seen = self.program.run(sample.state, self.first.target + 1, {self.first.source, self.first.target}, weights)
        return seen[self.first.source], seen[self.first.target]

    def _rest(self, sample: _Sample, rows: Rows, made: Tensor) -> Tensor:
        """The pair's output, given what the first layer makes."""
        weights = instead(self.model, self.first, rows[0]) | instead(self.model, self.second, rows[1])
        state, _ = self.program.run(sample.state, self.first.target + 1, (), weights)
        state = State(state.at, {**state.values, self.first.target: made})
        target = self.second.target
        given: Tensor = self.program.run(state, target + 1, {target}, weights)[1][target]
        return given

    def _weight(self, site: Site) -> Tensor:
        return self.model.get_submodule(site.path).get_parameter("weight")
