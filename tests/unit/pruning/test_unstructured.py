"""The engine: exact counts, nothing comes back, everything skipped is said, nothing changes on an error."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.patterns import PATTERNS
from pruning_bootcamp.pruning.solvers import SOLVERS
from pruning_bootcamp.pruning.weights.allocation import ALLOCATIONS
from pruning_bootcamp.pruning.weights.scores import SCORES, needs_of
from pruning_bootcamp.pruning.weights.unstructured import check_unstructured, prune_unstructured


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ConvTranspose2d(8, 4, 2, groups=2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.Linear(8, 5),
    )


WEIGHTS = ["0.weight", "3.weight", "4.weight", "7.weight", "8.weight"]
SIZES = {"0.weight": 216, "3.weight": 72, "4.weight": 64, "7.weight": 128, "8.weight": 40}


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(6, 3, 8, 8), torch.randint(0, 5, (6,))) for _ in range(2)]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def knows_every_layer(score: str, allocation: str = "uniform") -> bool:
    """The removal cost, by which a score or an allocation goes, refuses transposed convolutions."""
    by = ALLOCATIONS[allocation].facts.get("by", score)
    return "removal_cost" not in (*needs_of(score), *needs_of(by))


# those that leave the other weights alone and take every kind of layer; contracts/ try the rest
COMBINATIONS = [
    (score, allocation, pattern, solver)
    for score in SCORES
    for allocation in ALLOCATIONS
    for pattern in PATTERNS
    for solver in SOLVERS
    if allocation == "uniform" or "fixed_count" not in PATTERNS[pattern].facts
    if "files" not in ALLOCATIONS[allocation].facts
    if knows_every_layer(score, allocation) and not SOLVERS[solver].facts.get("images")
]
ARGS: dict[str, dict[str, Any]] = {
    "nm": {"n": 2, "m": 4},
    "block": {"rows": 2, "columns": 2},
    "per_layer": {"layers": {"7": 0.25}},
}


@pytest.mark.parametrize(("score", "allocation", "pattern", "solver"), COMBINATIONS)
def test_every_combination_prunes_what_it_says(score: str, allocation: str, pattern: str, solver: str) -> None:
    net = network()
    before = state(net)
    result = prune_unstructured(
        net,
        sparsity=None if "fixed_count" in PATTERNS[pattern].facts else 0.4,
        score=score,
        allocation=allocation,
        allocation_args=ARGS.get(allocation),
        pattern=pattern,
        pattern_args=ARGS.get(pattern),
        solver=solver,
        stats_batches=batches(),
    )
    assert [layer.name for layer in result.layers] == WEIGHTS
    assert sorted([*result.masks, *result.skipped]) == WEIGHTS
    weights = dict(net.named_parameters())
    for layer in result.layers:
        weight = weights[layer.name].detach()
        assert (layer.size, layer.zeros) == (SIZES[layer.name], int((weight == 0).sum()))
        if layer.name in result.masks:
            keep = result.masks[layer.name]
            assert torch.equal(weight == 0, ~keep)
            assert torch.equal(weight[keep], before[layer.name][keep])
        else:
            assert torch.equal(weight, before[layer.name])
    total = sum(layer.zeros for layer in result.layers)
    assert result.sparsity == total / 520
    untouched = set(before) - set(result.masks)
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in untouched)


@given(st.floats(0, 1, exclude_max=True), st.sampled_from(["global", "erk"]))
@settings(max_examples=40, deadline=None)
def test_the_total_is_exact_for_every_sparsity(sparsity: float, allocation: str) -> None:
    result = prune_unstructured(network(), sparsity=sparsity, allocation=allocation)
    assert sum(layer.zeros for layer in result.layers) == round(sparsity * 520)


@given(st.floats(0, 1, exclude_max=True), st.booleans())
@settings(max_examples=40, deadline=None)
def test_uniform_counts_are_exact_in_each_layer_even_when_all_weights_are_equal(sparsity: float, equal: bool) -> None:
    net = network()
    if equal:
        for parameter in net.parameters():
            nn.init.constant_(parameter, 0.5)
    result = prune_unstructured(net, sparsity=sparsity)
    assert {layer.name: layer.zeros for layer in result.layers} == {n: round(sparsity * s) for n, s in SIZES.items()}


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
@pytest.mark.parametrize("score", [score for score in SCORES if knows_every_layer(score)])
@given(low=st.floats(0, 0.95), high=st.floats(0, 0.95), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_going_further_keeps_every_earlier_zero(
    allocation: str, score: str, low: float, high: float, seed: int
) -> None:
    low, high = sorted((low, high))
    net = network()
    arguments: dict[str, Any] = {"score": score, "allocation": allocation, "seed": seed}
    first = prune_unstructured(net, sparsity=low, stats_batches=batches(), **arguments)
    with torch.no_grad():  # fine-tuning moves the weights that were kept, so that their order is another
        for name, keep in first.masks.items():
            net.get_parameter(name)[keep] = torch.randn(int(keep.sum())) * 0.01
    second = prune_unstructured(net, sparsity=high, previous=first.masks, stats_batches=batches(), **arguments)
    for name, keep in second.masks.items():
        assert not keep[~first.masks[name]].any()
        assert (net.get_parameter(name)[~keep] == 0).all()
    if allocation == "global":
        assert sum(int((~keep).sum()) for keep in second.masks.values()) == round(high * 520)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_magnitude_is_nested_by_nature(allocation: str) -> None:
    nets = [network() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    some, more = (
        prune_unstructured(net, sparsity=sparsity, allocation=allocation)
        for net, sparsity in zip(nets, (0.6, 0.8), strict=True)
    )
    for name, keep in more.masks.items():
        assert not keep[~some.masks[name]].any()


def test_uniform_after_global_keeps_the_zeros_and_says_what_that_costs() -> None:
    net = network()
    with torch.no_grad():
        net[7].weight.mul_(0.01)  # global takes all of this layer first
    first = prune_unstructured(net, sparsity=0.5, allocation="global")
    assert any(note.startswith("7.weight: every weight is pruned") for note in first.notes)
    second = prune_unstructured(net, sparsity=0.6, previous=first.masks)
    assert int((~second.masks["7.weight"]).sum()) == 128
    assert any("7.weight" in note and "from earlier masks" in note for note in second.notes)
    assert second.sparsity > 0.6


def test_less_than_was_pruned_before_is_refused() -> None:
    net = network()
    first = prune_unstructured(net, sparsity=0.8, allocation="global")
    before = state(net)
    with pytest.raises(BootcampError, match=r"0\.5 is below the 0\.8 that earlier masks prune"):
        prune_unstructured(net, sparsity=0.5, allocation="global", previous=first.masks)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
def test_the_same_sparsity_again_changes_nothing(allocation: str) -> None:
    net = network()
    first = prune_unstructured(net, sparsity=0.7, allocation=allocation)
    again = prune_unstructured(net, sparsity=0.7, allocation=allocation, previous=first.masks)
    assert all(torch.equal(keep, first.masks[name]) for name, keep in again.masks.items())


@pytest.mark.parametrize("pattern", ["2:4", "2x2"])
def test_units_keep_zeros_that_were_pruned_one_by_one(pattern: str) -> None:
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    first = prune_unstructured(net, sparsity=0.2, score="random")
    second = prune_unstructured(
        net, sparsity=0.5, pattern=pattern, previous=first.masks, allocation="uniform" if ":" in pattern else "global"
    )
    for name, keep in second.masks.items():
        assert not keep[~first.masks[name]].any()
        if ":" in pattern:
            assert keep.reshape(-1, 4).sum(1).max() <= 2
    assert 0.5 <= second.sparsity < 0.65  # only zeros that fit into no unit come on top


def test_blocks_go_on_from_blocks_exactly() -> None:
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    first = prune_unstructured(net, sparsity=0.25, pattern="4x4", allocation="global")
    second = prune_unstructured(net, sparsity=0.5, pattern="4x4", allocation="global", previous=first.masks)
    assert (first.sparsity, second.sparsity) == (0.25, 0.5)
    assert all(not keep[~first.masks[name]].any() for name, keep in second.masks.items())


def test_2_4_groups_inputs_of_every_kind_of_layer_and_lists_the_misfits() -> None:
    net = network()
    result = prune_unstructured(net, sparsity=None, pattern="2:4")
    assert result.skipped == {
        "0.weight": "3 inputs per output, 2:4 needs a multiple of 4",
        "3.weight": "1 input per output, 2:4 needs a multiple of 4",
    }
    # 4: transposed, 2 groups of 4 inputs each: dimension 0 of the stored weight, 4 at a time
    assert (result.masks["4.weight"].reshape(2, 4, -1).sum(1) == 2).all()
    assert (result.masks["7.weight"].reshape(8, 4, 4).sum(2) == 2).all()
    assert result.sparsity == (64 + 128 + 40) / 2 / 520


def test_what_is_excluded_is_left_alone_and_named() -> None:
    net = network()
    before = state(net)
    result = prune_unstructured(net, sparsity=0.5, exclude=["0", "8"])
    assert result.left_out == {"0.weight": "excluded by '0'", "8.weight": "excluded by '8'"}
    assert result.sparsity == 0.5  # a share of the targets, not of the whole network
    assert torch.equal(net[0].weight, before["0.weight"])


def test_earlier_masks_of_layers_that_are_no_targets_now_still_hold() -> None:
    net = network()
    first = prune_unstructured(net, sparsity=0.5, include=["0"])
    with torch.no_grad():
        net[0].weight.fill_(1.0)  # as if an optimiser had moved them
    second = prune_unstructured(net, sparsity=0.5, exclude=["0"], previous=first.masks)
    assert torch.equal(second.masks["0.weight"], first.masks["0.weight"])
    assert int((net[0].weight == 0).sum()) == 108


def test_a_shared_weight_is_pruned_once_and_counted_once() -> None:
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    net[1].weight = net[0].weight
    result = prune_unstructured(net, sparsity=0.5)
    assert list(result.masks) == ["0.weight"]
    assert int((net[1].weight == 0).sum()) == 32


def test_non_finite_weights_are_refused_with_every_layer_and_nothing_changes() -> None:
    net = network()
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = float("nan")
        net[8].weight[0, :2] = float("inf")
    before = state(net)
    with pytest.raises(BootcampError) as caught:
        prune_unstructured(net, sparsity=0.5)
    assert [str(problem)[:8] for problem in caught.value.problems] == ["0.weight", "8.weight"]
    assert "2 of 40 are NaN or Inf" in str(caught.value)
    assert all(
        torch.equal(v, before[name]) for name, v in net.state_dict().items() if name not in ("0.weight", "8.weight")
    )


def test_the_model_and_the_random_state_are_left_as_found() -> None:
    net = network().train()
    net[1].eval()
    data = batches()
    random_state = torch.get_rng_state()
    prune_unstructured(net, sparsity=0.5, score="taylor", stats_batches=data)
    prune_unstructured(net, sparsity=0.5, score="random", seed=4)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in (net, net[0], net[1])] == [True, True, False]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_memory_layout_does_not_matter(layout: torch.memory_format) -> None:
    net = network()
    nn.init.constant_(net[0].weight, 0.1)
    moved = network()
    moved.load_state_dict(net.state_dict())
    expected = prune_unstructured(net, sparsity=0.6, allocation="global").masks
    found = prune_unstructured(moved.to(memory_format=layout), sparsity=0.6, allocation="global").masks
    assert all(torch.equal(keep, expected[name]) for name, keep in found.items())


def test_random_is_repeatable_and_differs_by_seed() -> None:
    masks = [prune_unstructured(network(), sparsity=0.5, score="random", seed=s).masks["7.weight"] for s in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"sparsity": 1.4}, ["prune.sparsity: 1.4 is not in [0, 1)."]),
        ({"sparsity": 1.0}, ["prune.sparsity: 1.0 is not in [0, 1)."]),
        ({"sparsity": -0.1}, ["prune.sparsity: -0.1 is not in [0, 1)."]),
        ({"sparsity": float("nan")}, ["prune.sparsity: nan is not in [0, 1)."]),
        ({"sparsity": "half"}, ["prune.sparsity: 'half' is not a number."]),
        ({"sparsity": None}, ["prune.sparsity: needed and not given. Add prune.sparsity=VALUE."]),
        ({"sparsity": 0.5, "score": "magntude"}, ["prune.score.name: unknown score 'magntude'. Did you mean"]),
        ({"sparsity": 0.5, "score_args": {"p": 3}}, ["prune.score.args.p: unknown value '3'"]),
        ({"sparsity": 0.5, "allocation": "glbal"}, ["prune.allocation.name: unknown allocation 'glbal'"]),
        ({"sparsity": 0.5, "solver": "sparsegpd"}, ["prune.solver.name: unknown solver 'sparsegpd'"]),
        ({"sparsity": 0.5, "pattern": 124}, ['prune.pattern: 124 is not a pattern: 2:4 unquoted in YAML']),
        ({"sparsity": None, "pattern": "4:2"}, ["prune.pattern: 4:2 would keep 4 of 2: N must not be above M."]),
        ({"sparsity": None, "pattern": "0:4"}, ["prune.pattern: 0:4 keeps 0 of 4"]),
        ({"sparsity": 0.7, "pattern": "2:4"}, ["prune.sparsity: 0.7 was asked for, and pattern 'nm'"]),
        ({"sparsity": None, "pattern": "2:4", "allocation": "erk"}, ["prune.allocation: 'erk' has nothing to decide"]),
        ({"sparsity": 0.5, "pattern": "threshold"}, ["prune.sparsity: 0.5 was asked for"]),
        ({"sparsity": 0.5, "pattern": "block", "pattern_args": {"rows": 0}}, ["prune.pattern: a block of 0x4"]),
        ({"sparsity": 0.5, "score": "taylor", "has_batches": False}, ["prune.score: 'taylor' needs abs_grad"]),
        ({"sparsity": 0.5, "include": "fc"}, ["prune.include: 'fc' is text, not a list of names."]),
        (
            {"sparsity": 2, "score": "x", "pattern": "5:4", "exclude": [""]},
            ["prune.score", "prune.pattern: 5:4", "prune.sparsity: 2", "prune.exclude"],
        ),
    ],
)  # fmt: skip
def test_wrong_choices_are_all_told_before_any_work(arguments: dict[str, Any], expected: list[str]) -> None:
    problems = check_unstructured(**arguments)
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert str(problem).startswith(start)
    if "has_batches" not in arguments:
        net = network()
        before = state(net)
        with pytest.raises(BootcampError) as caught:
            prune_unstructured(net, **arguments)
        assert caught.value.problems == problems
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    "arguments",
    [
        {"sparsity": 0.0},
        {"sparsity": 0},
        {"sparsity": 0.5, "pattern": "2:4"},
        {"sparsity": 0.667, "pattern": "1:3"},
        {"sparsity": None, "pattern": "threshold"},
        {"sparsity": None, "allocation": "per_layer", "allocation_args": {"layers": {"0": 0.5}}},
    ],
)
def test_right_choices_have_no_problem(arguments: dict[str, Any]) -> None:
    assert check_unstructured(**arguments) == []


def test_a_pattern_that_fits_no_layer_is_an_error() -> None:
    with pytest.raises(BootcampError, match="'nm' fits none of 1 layers, first weight: 6 inputs per output"):
        prune_unstructured(nn.Linear(6, 4), sparsity=None, pattern="2:4")


def test_gradients_without_batches_are_refused_before_work() -> None:
    with pytest.raises(BootcampError, match="none are given"):
        prune_unstructured(network(), sparsity=0.5, score="movement")
