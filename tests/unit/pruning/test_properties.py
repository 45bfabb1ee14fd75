"""What holds for any network and any sparsity: exact counts, ties by index, nesting, valid patterns, plain refusals."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.targets import swap_channels, transposed_groups
from pruning_bootcamp.pruning.weights.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.weights.unstructured import UnstructuredResult, prune_unstructured

QUICK = settings(max_examples=40, deadline=None)
ALLOCATION_ARGS: dict[str, dict[str, Any]] = {"per_layer": {"layers": {"0": 0.5}}}
# neither images nor a file about this very network are needed (tests/contracts/test_allocations.py makes such a file)
BY_WEIGHTS = [name for name in ALLOCATIONS if not {"by", "files"} & ALLOCATIONS[name].facts.keys()]
EXACT_IN_TOTAL = [name for name in BY_WEIGHTS if name != "uniform"]
sparsities = st.floats(0, 1, exclude_max=True)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks: a second thread would only be waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@st.composite
def layers(draw: st.DrawFn) -> nn.Module:
    """Any layer that has targets: dense, grouped, depthwise, transposed, with any kernel."""
    kind = draw(st.sampled_from([nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d]))
    if kind is nn.Linear:
        return nn.Linear(draw(st.integers(1, 16)), draw(st.integers(1, 16)))
    groups, inputs, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    if draw(st.booleans()):
        inputs = 1  # depthwise
    kernel = draw(st.integers(1, 3))
    return kind(groups * inputs, groups * outputs, kernel, groups=groups)


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """Some such layers (pruning never runs them), with weights all different, with few values, or all the same."""
    net = nn.Sequential(*draw(st.lists(layers(), min_size=1, max_size=4)))
    values = draw(st.sampled_from(["different", "few", "same"]))
    torch.manual_seed(draw(st.integers(0, 99)))
    with torch.no_grad():
        for weight in net.parameters():
            if values == "different":
                weight.normal_()
            elif values == "few":
                weight.copy_(torch.randint(1, 4, weight.shape) * torch.where(torch.rand(weight.shape) < 0.5, -1, 1))
            else:
                weight.fill_(-0.5)
    return net


def copied(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net)


def pruned_or_told(net: nn.Module, **choices: Any) -> UnstructuredResult | None:
    """The result; None where these layers can't do what is asked, and the error says why."""
    try:
        return prune_unstructured(net, **choices)
    except BootcampError as error:
        if not any(reason in str(error) for reason in ("can't be reached", "matches none of", "fits none of")):
            raise
        return None


def sizes(result: UnstructuredResult) -> dict[str, int]:
    return {layer.name: layer.size for layer in result.layers if layer.name in result.masks}


def zeros(result: UnstructuredResult) -> dict[str, int]:
    return {name: int((~keep).sum()) for name, keep in result.masks.items()}


def is_subset(fewer: dict[str, Tensor], more: dict[str, Tensor]) -> bool:
    """Whether each zero of `fewer` is one of `more` too."""
    return fewer.keys() == more.keys() and all(not (more[name] & ~keep).any() for name, keep in fewer.items())


@pytest.mark.parametrize("allocation", BY_WEIGHTS)
@given(net=networks(), sparsity=sparsities)
@QUICK
def test_counts_are_exact_for_any_network_and_sparsity(allocation: str, net: nn.Module, sparsity: float) -> None:
    args = ALLOCATION_ARGS.get(allocation)
    result = pruned_or_told(net, sparsity=sparsity, allocation=allocation, allocation_args=args)
    if result is None:
        assert allocation == "per_layer"  # its named layer makes some totals impossible
        return
    for name, keep in result.masks.items():
        assert torch.equal(net.get_parameter(name) == 0, ~keep)
    if allocation in EXACT_IN_TOTAL:
        assert sum(zeros(result).values()) == round(sparsity * sum(sizes(result).values()))
    else:
        assert zeros(result) == {name: round(sparsity * size) for name, size in sizes(result).items()}


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=4), sparsities)
@QUICK
def test_equal_weights_go_by_index_layer_after_layer(shapes: list[tuple[int, int]], sparsity: float) -> None:
    net = nn.ModuleList(nn.Linear(*shape) for shape in shapes)
    for parameter in net.parameters():
        nn.init.constant_(parameter, -0.3)
    result = prune_unstructured(net, sparsity=sparsity, allocation="global")
    everything = torch.cat([keep.flatten() for keep in result.masks.values()])
    count = round(sparsity * len(everything))
    assert everything.tolist() == [False] * count + [True] * (len(everything) - count)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@given(net=networks(), low=sparsities, high=sparsities)
@QUICK
def test_a_fresh_mask_is_within_a_fresh_mask_of_more(allocation: str, net: nn.Module, low: float, high: float) -> None:
    low, high = sorted((low, high))
    some, more = (prune_unstructured(copied(net), sparsity=sparsity, allocation=allocation) for sparsity in (low, high))
    assert is_subset(some.masks, more.masks)


@pytest.mark.parametrize(("pattern", "args"), [("unstructured", {}), ("block", {"rows": 2, "columns": 1})])
@pytest.mark.parametrize("allocation", BY_WEIGHTS)
@given(net=networks())
@settings(max_examples=25, deadline=None)
def test_80_percent_after_60_keeps_every_zero(
    allocation: str, pattern: str, args: dict[str, Any], net: nn.Module
) -> None:
    choices: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "pattern_args": args}
    choices["allocation_args"] = ALLOCATION_ARGS.get(allocation)
    first = pruned_or_told(net, sparsity=0.6, **choices)
    if first is None:
        return
    with torch.no_grad():  # what training does: the order of the weights that stayed is another
        for name, keep in first.masks.items():
            net.get_parameter(name)[keep] = torch.randn(int(keep.sum()))
    second = pruned_or_told(net, sparsity=0.8, previous=first.masks, **choices)
    if second is None:
        return
    assert is_subset(first.masks, second.masks)
    unit = args.get("rows", 1) * args.get("columns", 1)
    if allocation == "global":
        assert sum(zeros(second).values()) == round(0.8 * sum(sizes(second).values()) / unit) * unit


def oriented(net: nn.Module, name: str, keep: Tensor) -> Tensor:
    """As [out, in / groups, *kernel], whatever the layer."""
    return swap_channels(keep, transposed_groups(net, name))


@given(net=networks(), n=st.integers(1, 4), m=st.integers(1, 4))
@QUICK
def test_every_group_of_m_inputs_keeps_n(net: nn.Module, n: int, m: int) -> None:
    n, m = min(n, m), max(n, m)
    inputs = {name: oriented(net, name, w).shape[1] for name, w in net.named_parameters() if w.ndim > 1}
    fits = {name for name, count in inputs.items() if count % m == 0}
    if not fits:
        with pytest.raises(BootcampError, match=f"fits none of {len(inputs)} layers"):
            prune_unstructured(net, sparsity=None, pattern=f"{n}:{m}")
        return
    result = prune_unstructured(net, sparsity=None, pattern=f"{n}:{m}")
    assert result.masks.keys() == fits
    assert result.skipped.keys() == inputs.keys() - fits
    for name, keep in result.masks.items():
        assert (oriented(net, name, keep).movedim(1, -1).reshape(-1, m).sum(1) == n).all()
        weight = oriented(net, name, net.get_parameter(name).detach()).movedim(1, -1).reshape(-1, m)
        assert ((weight != 0).sum(1) == n).all()


@given(net=networks(), rows=st.integers(1, 3), columns=st.integers(1, 3), sparsity=sparsities)
@QUICK
def test_every_block_goes_or_stays_whole(net: nn.Module, rows: int, columns: int, sparsity: float) -> None:
    shapes = {name: tuple(oriented(net, name, w).shape) for name, w in net.named_parameters() if w.ndim > 1}
    fits = {name for name, shape in shapes.items() if shape[0] % rows == 0 and shape[1] % columns == 0}
    choices: dict[str, Any] = {"pattern": f"{rows}x{columns}", "allocation": "global", "sparsity": sparsity}
    if not fits:
        with pytest.raises(BootcampError, match="fits none of"):
            prune_unstructured(net, **choices)
        return
    result = prune_unstructured(net, **choices)
    assert result.masks.keys() == fits
    blocks = 0
    for name, keep in result.masks.items():
        mask = oriented(net, name, keep)
        for row in range(0, mask.shape[0], rows):
            for column in range(0, mask.shape[1], columns):
                block = mask[row : row + rows, column : column + columns].flatten(0, 1)
                assert torch.equal(block.any(0), block.all(0))
                blocks += block[0].numel()
    assert sum(zeros(result).values()) == round(sparsity * blocks) * rows * columns


@given(net=networks(), value=st.integers(1, 20).map(lambda eighths: eighths / 8))
@QUICK
def test_a_threshold_takes_exactly_what_is_below_it(net: nn.Module, value: float) -> None:
    below = {name: w.detach().abs() < value for name, w in net.named_parameters() if w.ndim > 1}
    result = prune_unstructured(net, sparsity=None, pattern="threshold", pattern_args={"value": value})
    assert all(torch.equal(~keep, below[name]) for name, keep in result.masks.items())


@pytest.mark.parametrize("pattern", PATTERNS)
@given(net=networks(), data=st.data())
@settings(max_examples=15, deadline=None)
def test_weights_that_are_not_numbers_are_refused_all_at_once(
    pattern: str, net: nn.Module, data: st.DataObject
) -> None:
    names = [name for name, weight in net.named_parameters() if weight.ndim > 1]
    spoiled = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    with torch.no_grad():
        for name in spoiled:
            flat = net.get_parameter(name).view(-1)
            where = data.draw(st.integers(0, len(flat) - 1))
            flat[where] = data.draw(st.sampled_from([float("nan"), float("inf"), -float("inf")]))
    before = [weight.clone() for weight in net.parameters()]
    fixed = "fixed_count" in PATTERNS[pattern].facts
    args = {"nm": {"n": 1, "m": 1}, "block": {"rows": 1, "columns": 1}}.get(pattern)
    with pytest.raises(BootcampError) as caught:
        prune_unstructured(net, sparsity=None if fixed else 0.5, pattern=pattern, pattern_args=args)
    told = [str(problem).partition(": ")[0] for problem in caught.value.problems]
    assert told == [name for name in names if name in spoiled]
    assert all("NaN or Inf" in str(problem) for problem in caught.value.problems)
    assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(before, net.parameters(), strict=True))
