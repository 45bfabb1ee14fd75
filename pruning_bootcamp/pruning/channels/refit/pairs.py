"""A layer and the one that alone reads it, fitted together: the first moves so that the second comes nearer its target.

Steps along the first layer's gradient, preconditioned by the inverse of its inputs' second moments, as long as is best
for the output linearised; after each the second layer is solved anew. Nothing behind the pair's target is looked at.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.pruning.channels.refit.folding import folded, has_intercept, instead, spread, unfold
from pruning_bootcamp.pruning.channels.refit.passes import Passes
from pruning_bootcamp.pruning.channels.refit.program import Program, State
from pruning_bootcamp.pruning.channels.refit.sites import Site
from pruning_bootcamp.pruning.channels.refit.solving import solve, without_intercept
from pruning_bootcamp.pruning.layers.moments import MOST_POSITIONS, Moments, Product, cross, gram, sampled
from pruning_bootcamp.tools.quiet import quiet

ROUNDS = 6
# Of more images the first so many: a step needs fewer than a solution.
IMAGES = 2048
# How far to go is one number: some of the batches say it.
_LENGTH_OF = 4
_STEP_DAMPING, _SOLVE_DAMPING = 1e-3, 1e-4
# Products of what several layers make: no layer's output goes through them alone.
_MIXES = ("aten.matmul", "aten.bmm", "aten.baddbmm", "aten.einsum", "aten.scaled_dot_", "aten._scaled_dot_")


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
            node = program.nodes[user]
            if node.op == "output" or str(node.target).startswith(_MIXES):
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
    where: Tensor | None
    """the output positions of the second layer that are looked at for its moments; None: all"""


class _Samples:
    def __init__(
        self, passes: Passes, first: Site, second: Site, kept: Tensor | None, positions: int, seed: int
    ) -> None:
        self.first, self.second = first, second
        self._passes, self._kept = passes, kept
        self._positions, self._seed = positions, seed
        self._known: list[_Sample] | None = None
        self.room = 0
        """bytes that may be held besides those of the batches seen so far"""

    def of_outputs(self, product: Product, outputs: Tensor, batch: int) -> Tensor | None:
        """The positions of a batch's outputs that stand for all; None: all do."""
        return sampled(product, outputs, self._positions, self._seed, batch)

    def __iter__(self) -> Iterator[_Sample]:
        if self._known is not None:
            yield from self._known
            return
        known: list[_Sample] = []
        held, seen = 0, 0
        second = self.second
        for number, (state, goal) in enumerate(self._passes.halfway(self.first.operation, second.target)):
            goal = goal if self._kept is None else goal.index_select(second.product.channels, self._kept)
            sample = _Sample(state, goal, self.of_outputs(second.product, goal, number))
            held += state.size + goal.nbytes
            self.room = max(self._passes.limit - held, 0)
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
    *,
    positions: int = MOST_POSITIONS,
    seed: int = 0,
) -> float:
    """Fit the two together, in place; the share of the error that is left of what there was. Never raises it.

    `kept`: which of the dense network's output channels the second has; `keep`: where the two, as `Product.rows` has
    them, may be other than zero. None: all. `positions` of the outputs of each image are enough for second moments.
    """
    if rounds == 0:
        return 1.0
    samples = _Samples(passes, first, second, kept, positions, seed)
    pair = _Pair(model, passes.cut, samples, keep)
    rows = folded(model, first), folded(model, second)
    begun, gradient = pair.look(rows)
    best, chosen = begun, None
    for number in range(rounds):
        try:
            rows, moments = pair.round(rows, gradient)
        except NotImplementedError as reason:  # an operation between the two that torch can't differentiate forwards
            why = str(reason).strip().splitlines()[0]
            LOGGER.info("%s and %s are fitted alone, not together: %s", first.path, second.path, why)
            break
        error, gradient = pair.look(rows, slope=number < rounds - 1)
        if not error < best:  # NaN too
            break
        best, chosen = error, (rows, moments)
    if chosen is not None:
        for site, its_rows, its_moments in zip((first, second), *chosen, strict=True):
            unfold(model, site, its_rows, spread(its_moments))
    return best / begun if begun > 0 else 1.0


Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Half:
    """A batch once the first layer has run."""

    inputs: Tensor
    made: Tensor
    """what the layer makes of them, behind its batch norm"""
    state: State

    def new(self, before: State) -> int:
        """Bytes that were not held before."""
        known = {id(value) for value in before.values.values()}
        held = {id(value): value for value in (self.inputs, *self.state.values.values())}
        return sum(value.nbytes for key, value in held.items() if key not in known and isinstance(value, Tensor))


class _Pair:
    def __init__(
        self,
        model: nn.Module,
        program: Program,
        samples: _Samples,
        keep: tuple[Tensor | None, Tensor | None],
    ) -> None:
        self.model, self.program, self.samples, self.keep = model, program, samples, keep
        self.first, self.second = samples.first, samples.second
        self._gram: Tensor | None = None
        self._first: Tensor | None = None
        """the first layer's rows with which `_halves` were made"""
        self._halves: list[_Half] = []

    def round(self, rows: Rows, gradient: Tensor) -> tuple[Rows, tuple[Moments, Moments]]:
        """One step of the first layer and a solution of the second; and both layers' moments."""
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
        return (moved, solve(used, rows[1], _SOLVE_DAMPING, self.keep[1])), (first, second)

    def look(self, rows: Rows, slope: bool = True) -> tuple[float, Tensor]:
        """Squared distance from the goal, where it is looked at; and with `slope` half its gradient by the first rows.

        On the way, once, the moments of the first layer's inputs.
        """
        product, weight = self.first.product, self._weight(self.first)
        second = instead(self.model, self.second, rows[1])
        total, inputs, left = torch.zeros_like(rows[0]), None, 0.0
        for number, (sample, half) in enumerate(self._begun(rows[0])):
            x, made = half.inputs, half.made
            with torch.enable_grad():
                leaf = made.detach().requires_grad_(slope)
                given = self._rest(half, leaf, second)
            residual = self._residual(given.detach(), sample.goal)
            left += float(residual.square().sum(dtype=torch.double))
            if not slope:
                continue
            (back,) = torch.autograd.grad(given, leaf, residual)
            total += cross(product, x, back, weight)
            if self._gram is None:
                where = self.samples.of_outputs(product, made, number)
                found = gram(product, x, where)
                if where is not None:  # the gradient is of all positions
                    found *= back.numel() / back.shape[product.channels] / len(back) / len(where)
                inputs = found if inputs is None else inputs + found
        if inputs is not None:
            self._gram = inputs
        return left, total

    def _length(self, rows: Rows, step: Tensor) -> float:
        """How far to go along the step: the best for the output as it is linear here."""
        along, square = 0.0, 0.0
        product, weight = self.first.product, self._weight(self.first)
        moving = product.weight(step[:, :-1], weight), step[:, -1].flatten().to(weight)
        second = instead(self.model, self.second, rows[1])
        for sample, half in self._begun(rows[0], _LENGTH_OF):
            change = product.apply(half.inputs, *moving)
            with forward_ad.dual_level():
                given = self._rest(half, forward_ad.make_dual(half.made, change.contiguous()), second)
                value, tangent = forward_ad.unpack_dual(given)
                if tangent is None:
                    return 0.0
            residual = self._residual(value, sample.goal)
            along += float((residual * tangent).sum(dtype=torch.double))
            square += float(tangent.square().sum(dtype=torch.double))
        return along / square if square > 0 else 0.0

    def _moments(self, rows: Rows) -> Moments:
        """Of the second layer's inputs, and towards what it can reach from where it is."""
        product, site, weight = self.second.product, self.second, self._weight(self.second)
        second = instead(self.model, site, rows[1])
        total: Moments | None = None
        for sample, half in self._begun(rows[0]):
            _, seen = self.program.run(half.state, site.target + 1, {site.source, site.target, *site.others}, second)
            target = site.reachable(seen[site.target], sample.goal)
            for other in site.others:
                target = target - seen[other]
            inputs, where = seen[site.source], sample.where
            found = Moments(gram(product, inputs, where), cross(product, inputs, target, weight, where))
            total = found if total is None else Moments(total.gram + found.gram, total.cross + found.cross)
        assert total is not None
        return total

    def _residual(self, given: Tensor, goal: Tensor) -> Tensor:
        return given - self.second.reachable(given, goal)

    def _begun(self, first: Tensor, every: int = 1) -> Iterator[tuple[_Sample, _Half]]:
        """Every so many batches, with what the first layer makes of them with these rows; kept where there is room."""
        if self._first is first:
            yield from itertools.islice(zip(self.samples, self._halves, strict=True), 0, None, every)
            return
        self._first, self._halves = None, []
        weights = instead(self.model, self.first, first)
        watch = {self.first.source, self.first.target}
        held, whole = 0, every == 1
        for sample in itertools.islice(self.samples, 0, None, every):
            state, seen = self.program.run(sample.state, self.first.target + 1, watch, weights)
            half = _Half(seen[self.first.source], seen[self.first.target], state)
            held += half.new(sample.state)
            whole = whole and held <= self.samples.room
            self._halves = [*self._halves, half] if whole else []
            yield sample, half
        if whole:
            self._first = first

    def _rest(self, half: _Half, made: Tensor, second: dict[str, Tensor]) -> Tensor:
        """The pair's output, given what the first layer makes and the second one's parameters."""
        state = State(half.state.at, {**half.state.values, self.first.target: made})
        target = self.second.target
        given: Tensor = self.program.run(state, target + 1, {target}, second)[1][target]
        return given

    def _weight(self, site: Site) -> Tensor:
        return self.model.get_submodule(site.path).get_parameter("weight")
