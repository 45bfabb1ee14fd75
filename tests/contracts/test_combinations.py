"""Every score x allocation x pattern x solver x schedule prunes what it says, or is refused before anything runs."""

import functools
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.pruning.weights.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.weights.schedules import SCHEDULES, iterative_sparsities
from pruning_bootcamp.pruning.weights.scores import SCORES
from pruning_bootcamp.pruning.weights.unstructured import check_unstructured, prune_unstructured
from pruning_bootcamp.runs import write_yaml

# Settings that must be given; whoever registers a name with such a setting adds a line.
ARGS: dict[tuple[str, str], dict[str, Any]] = {
    ("pattern", "nm"): {"n": 2, "m": 4},
    ("pattern", "block"): {"rows": 2, "columns": 2},
    ("allocation", "per_layer"): {"layers": {"6": 0.25}},
}
TARGET = 0.5
SIZES = {"0.weight": 72, "2.weight": 288, "6.weight": 80}
SCANS = tempfile.TemporaryDirectory()  # removed with the process: RUNS is made before any test, and needs the file


def scan_file() -> str:
    """A sensitivity scan of the network below, made up: the last layer minds least."""
    path = Path(SCANS.name) / "sensitivity.yaml"
    rows = [
        {
            "name": name.removesuffix(".weight"),
            "weights": [name],
            "size": size,
            "points": [{"sparsity": s, "accuracy": 90 - 9 * s, "loss": s * slope} for s in (0.25, 0.75, 0.9)],
        }
        for slope, (name, size) in zip((5, 3, 1), SIZES.items(), strict=True)
    ]
    write_yaml(path, {"dense": {"accuracy": 90.0, "loss": 0.0}, "rows": rows})
    return str(path)


ARGS["allocation", "sensitivity"] = {"file": scan_file()}
FOUR = list(itertools.product(SCORES, ALLOCATIONS, PATTERNS, SOLVERS))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Hundreds of tiny networks: a second thread would only be waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> nn.Sequential:
    """A first layer that neither 2:4 nor 2x2 blocks fit, and two that both fit."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(8, 10),
    )  # fmt: skip


@functools.cache
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(2, 1, 6, 8, generator=generator), torch.tensor([0, 3]))] * 2


def choices(score: str, allocation: str, pattern: str, solver: str) -> dict[str, Any]:
    named = {"score": score, "allocation": allocation, "pattern": pattern, "solver": solver}
    return named | {f"{kind}_args": ARGS.get((kind, name)) for kind, name in named.items()}


def fixes_the_count(pattern: str) -> bool:
    return "fixed_count" in PATTERNS[pattern].facts


def refusals(score: str, allocation: str, pattern: str, solver: str) -> list[Problem]:
    sparsity = None if fixes_the_count(pattern) else TARGET
    return check_unstructured(sparsity=sparsity, **choices(score, allocation, pattern, solver))


def growths(pattern: str) -> dict[tuple[float | None, ...], list[str]]:
    """The sparsities asked for in turn -> the schedules that ask so: what asks for the same is the same pruning."""
    found: dict[tuple[float | None, ...], list[str]] = {}
    for schedule in SCHEDULES:
        steps = [round(step, 9) for step in iterative_sparsities(TARGET, 2, schedule)]
        found.setdefault((None, None) if fixes_the_count(pattern) else tuple(steps), []).append(schedule)
    return found


def of_interest(solver: str, schedules: list[str]) -> bool:
    """A solver sees the masks of each step, not the schedule: one that takes two steps is enough beside `none`."""
    return solver == "none" or "cubic" in schedules or len(schedules) == len(SCHEDULES)


def shows_nothing_new(run: tuple[Any, ...], seen: set[Any]) -> bool:
    """Whether each two of its choices were together in a run before, all of which are in `seen`; these are added."""
    pairs = set(itertools.combinations(enumerate(run), 2))
    known = pairs <= seen
    seen |= pairs
    return known


# Every two choices meet in each run of the tests, and with `-m slow` all that can.
SEEN: set[Any] = set()
RUNS = [
    pytest.param(
        *(*four, growth),
        id="-".join([*four, *schedules]),
        marks=[pytest.mark.slow] if shows_nothing_new((*four, growth), SEEN) else [],
    )
    for four in FOUR
    if not refusals(*four)
    for growth, schedules in growths(four[2]).items()
    if of_interest(four[3], schedules)
]


def test_every_choice_is_in_some_combination_that_runs() -> None:
    for place, registry in enumerate((SCORES, ALLOCATIONS, PATTERNS, SOLVERS)):
        assert {run.values[place] for run in RUNS} == set(registry)
    scheduled = {schedule for pattern in PATTERNS for names in growths(pattern).values() for schedule in names}
    assert scheduled == set(SCHEDULES)


def test_what_is_refused_is_refused_with_a_reason_and_nothing_changes() -> None:
    refused = [four for four in FOUR if refusals(*four)]
    assert refused
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for four in refused:
        problems = refusals(*four)
        assert all(str(problem).startswith("prune.") and len(str(problem)) > 40 for problem in problems)
        assert any(name in str(problem) for problem in problems for name in four)
        sparsity = None if fixes_the_count(four[2]) else TARGET
        with pytest.raises(BootcampError) as caught:
            prune_unstructured(net, sparsity=sparsity, stats_batches=batches(), **choices(*four))
        assert caught.value.problems == problems
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(("score", "allocation", "pattern", "solver", "growth"), RUNS)
def test_a_combination_that_is_not_refused_prunes_exactly_and_nothing_comes_back(
    score: str, allocation: str, pattern: str, solver: str, growth: tuple[float | None, ...]
) -> None:
    net = network()
    previous: dict[str, Tensor] = {}
    for sparsity in growth:
        result = prune_unstructured(
            net,
            sparsity=sparsity,
            previous=previous or None,
            stats_batches=batches(),
            **choices(score, allocation, pattern, solver),
        )
        assert sorted([*result.masks, *result.skipped]) == list(SIZES)
        for name, keep in result.masks.items():
            weight = net.get_parameter(name).detach()
            assert torch.isfinite(weight).all()
            assert torch.equal(weight == 0, ~keep)
            if name in previous:
                assert not (keep & ~previous[name]).any()
            check_pattern(pattern, keep, ARGS.get(("pattern", pattern), {}))
        zeros = {name: int((~keep).sum()) for name, keep in result.masks.items()}
        assert {layer.name: layer.zeros for layer in result.layers if layer.name in zeros} == zeros
        check_count(sparsity, allocation, pattern, zeros)
        previous = result.masks


def check_pattern(pattern: str, keep: Tensor, args: dict[str, Any]) -> None:
    if pattern == "nm":
        assert (keep.movedim(1, -1).reshape(-1, args["m"]).sum(1) == args["n"]).all()
    elif pattern == "block":
        rows, columns = args["rows"], args["columns"]
        tiles = keep.reshape(keep.shape[0] // rows, rows, keep.shape[1] // columns, columns, -1).float().mean((1, 3))
        assert ((tiles == 0) | (tiles == 1)).all()


def check_count(sparsity: float | None, allocation: str, pattern: str, zeros: dict[str, int]) -> None:
    """The counts that were asked for: exact in total, or layer by layer where that is what an allocation promises."""
    if sparsity is None:
        if pattern == "nm":
            assert zeros == {name: SIZES[name] // 2 for name in ("2.weight", "6.weight")}
        return
    unit = 4 if pattern == "block" else 1
    units = {name: SIZES[name] // unit for name in zeros}
    if allocation == "uniform":
        assert zeros == {name: round(sparsity * size) * unit for name, size in units.items()}
    else:
        assert sum(zeros.values()) == round(sparsity * sum(units.values())) * unit
